package session_test

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/piped-dev/piped/session"
)

const (
	// long is a grace that no test waits out, short one that it does.
	long  = time.Hour
	short = 100 * time.Millisecond
)

// Scripts that say "ready" when they are.
const (
	endsOnEOF = `echo ready; while read x; do :; done; exit 4`
	// The loop is of builtins only, so that no child is in the way of a trap.
	endsOnTerm = `trap "exit 5" TERM; echo ready; while :; do read x || :; done`
	stubborn   = `trap "" TERM; echo ready; while :; do read x || :; done`
)

// startScript starts a script and waits until it is ready.
func startScript(t *testing.T, reg *session.Registry, script string, change func(*session.ProcessSpec)) (*session.Session, *session.Process) {
	t.Helper()
	spec := session.ProcessSpec{Args: []string{"sh", "-c", script}}
	if change != nil {
		change(&spec)
	}
	s := create(t, reg, session.Spec{Process: &spec})
	r := openReader(t, endpoint(t, s, "stdio", 1), session.ReaderOptions{})
	receive(t, r)
	r.Close()
	p, err := s.Process("")
	if err != nil {
		t.Fatal(err)
	}
	return s, p
}

// stop stops a process, which must not take long.
func stop(t *testing.T, p *session.Process, policy session.StopPolicy) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := p.Stop(ctx, policy); err != nil {
		t.Fatalf("%v; the ladder: %+v", err, p.Info().Stopping)
	}
}

// wantExit waits for the exit and compares it.
func wantExit(t *testing.T, p *session.Process, code int, sig syscall.Signal, cause session.Cause) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		t.Fatalf("it does not exit: %+v", p.Info().Stopping)
	}
	got := p.Info()
	if s := got.Stopping; s != nil && (s.Step == 0 && cause != session.CauseSignal || !s.Next.IsZero()) {
		t.Errorf("its ladder ended as %+v", s)
	}
	if got.Exit.Code != code || got.Exit.Signal != sig || got.Cause != cause {
		t.Errorf("exit %+v because of %v, want code %d, signal %v because of %v", got.Exit, got.Cause, code, sig, cause)
	}
}

func TestLadderGoesNoFurtherThanItHasTo(t *testing.T) {
	reg := newRegistry(t, nil)
	for name, tc := range map[string]struct {
		script string
		policy session.StopPolicy
		code   int
		sig    syscall.Signal
	}{
		"the end of its input":      {endsOnEOF, session.StopPolicy{CloseGrace: new(long)}, 4, 0},
		"the signal":                {endsOnTerm, session.StopPolicy{CloseGrace: new(short), Grace: new(long)}, 5, 0},
		"KILL":                      {stubborn, session.StopPolicy{CloseGrace: new(short), Grace: new(short)}, -1, syscall.SIGKILL},
		"without closing the input": {endsOnEOF, session.StopPolicy{CloseGrace: new(long), KeepInput: new(true), Grace: new(long)}, -1, syscall.SIGTERM},
		"without a signal": {endsOnTerm, session.StopPolicy{CloseGrace: new(short), SkipSignal: new(true), Grace: new(long)},
			-1, syscall.SIGKILL},
		"another signal": {`trap "" TERM; ` + `trap "exit 6" INT; echo ready; while :; do read x || :; done`,
			session.StopPolicy{CloseGrace: new(time.Duration(0)), Signal: syscall.SIGINT, Grace: new(long)}, 6, 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, p := startScript(t, reg, tc.script, nil)
			stop(t, p, tc.policy)
			wantExit(t, p, tc.code, tc.sig, session.CauseStopped)
		})
	}
}

func TestPolicyOfTheProcessHoldsWhereTheCallLeavesItOpen(t *testing.T) {
	reg := newRegistry(t, nil)
	own := func(s *session.ProcessSpec) {
		s.Stop = session.StopPolicy{CloseGrace: new(time.Duration(0)), Signal: syscall.SIGUSR1, Grace: new(long)}
	}
	_, p := startScript(t, reg, `trap "exit 7" USR1; trap "exit 8" USR2; echo ready; while :; do read x || :; done`, own)
	stop(t, p, session.StopPolicy{})
	wantExit(t, p, 7, 0, session.CauseStopped)
	_, p = startScript(t, reg, `trap "exit 7" USR1; trap "exit 8" USR2; echo ready; while :; do read x || :; done`, own)
	stop(t, p, session.StopPolicy{Signal: syscall.SIGUSR2})
	wantExit(t, p, 8, 0, session.CauseStopped)
}

func TestStopWithoutKillLeavesTheProcessRunning(t *testing.T) {
	_, p := startScript(t, newRegistry(t, nil), stubborn, nil)
	policy := session.StopPolicy{CloseGrace: new(time.Duration(0)), Grace: new(short), SkipKill: new(true)}
	stop(t, p, policy)
	info := p.Info()
	if !info.Running || info.Stopping == nil || info.Stopping.Step != session.StepOver || !info.Stopping.Next.IsZero() {
		t.Fatalf("got %+v, ladder %+v", info, info.Stopping)
	}
	policy.SkipKill = nil // the next one begins anew
	stop(t, p, policy)
	wantExit(t, p, -1, syscall.SIGKILL, session.CauseStopped)
}

func TestStoppedChildGetsTheSignal(t *testing.T) {
	_, p := startScript(t, newRegistry(t, nil), endsOnTerm, nil)
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "it to be stopped", func() bool {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(p.Info().Pid) + "/stat")
		return err == nil && strings.Contains(string(stat), ") T ")
	})
	stop(t, p, session.StopPolicy{CloseGrace: new(time.Duration(0)), Grace: new(long)})
	wantExit(t, p, 5, 0, session.CauseStopped)
}

func TestLadderGoesOnWithoutItsCaller(t *testing.T) {
	_, p := startScript(t, newRegistry(t, nil), stubborn, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	policy := session.StopPolicy{CloseGrace: new(short), Grace: new(short)}
	if err := p.Stop(ctx, policy); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	wantExit(t, p, -1, syscall.SIGKILL, session.CauseStopped)
}

func TestSecondStopJoinsAndShortens(t *testing.T) {
	_, p := startScript(t, newRegistry(t, nil), stubborn, nil)
	first := make(chan error, 1)
	go func() {
		first <- p.Stop(t.Context(), session.StopPolicy{CloseGrace: new(long), Grace: new(long), Signal: syscall.SIGWINCH})
	}()
	waitFor(t, "the first step", func() bool { s := p.Info().Stopping; return s != nil && s.Step == session.StepClose })
	// A longer one changes nothing.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before := p.Info().Stopping.Next
	if err := p.Stop(ctx, session.StopPolicy{CloseGrace: new(2 * long)}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if after := p.Info().Stopping; !after.Next.Equal(before) || after.Step != session.StepClose {
		t.Errorf("the next step was to come at %v, and is to come at %v", before, after.Next)
	}
	stop(t, p, session.StopPolicy{CloseGrace: new(short), Grace: new(short)})
	wantExit(t, p, -1, syscall.SIGKILL, session.CauseStopped)
	if err := <-first; err != nil {
		t.Errorf("the first: %v", err)
	}
}

func TestStopHandsOverWhatWasAccepted(t *testing.T) {
	s, p := startScript(t, newRegistry(t, nil), `echo ready; read go; wc -c; exit 3`, nil)
	e := endpoint(t, s, "stdio", 1)
	send(t, e, "go", strings.Repeat("x", 300<<10), strings.Repeat("y", 300<<10)) // more than the kernel takes
	stop(t, p, session.StopPolicy{CloseGrace: new(long)})
	wantExit(t, p, 3, 0, session.CauseStopped)
	r := openReader(t, e, session.ReaderOptions{})
	if err := r.Ack(receive(t, r).Batch.Next); err != nil { // "ready"
		t.Fatal(err)
	}
	if got := string(receive(t, r).Batch.Data); got != strconv.Itoa(2*(300<<10+1)) {
		t.Errorf("it has read %q bytes", got)
	}
}

func TestInputThatAnotherProcessReadsStaysOpen(t *testing.T) {
	reg := newRegistry(t, nil)
	s := create(t, reg, session.Spec{Pipes: []session.PipeSpec{{Name: "x"}}})
	spec := session.ProcessSpec{Args: []string{"sh", "-c", "while read x <&3; do :; done"}, Stdin: session.StdioNull,
		Inherits: []session.Inherit{{Pipe: "x", End: 2, FD: 3}}}
	var procs []*session.Process
	for range 2 {
		p, err := s.StartProcess(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		procs = append(procs, p)
	}
	stop(t, procs[0], session.StopPolicy{CloseGrace: new(short), Grace: new(long)})
	wantExit(t, procs[0], -1, syscall.SIGTERM, session.CauseStopped)
	send(t, endpoint(t, s, "x", 1), "still open")
	if !procs[1].Running() {
		t.Error("the other one ended")
	}
}

func TestTreeEndsWhatTheScriptHasStarted(t *testing.T) {
	reg := newRegistry(t, nil)
	for name, script := range map[string]string{
		"a child":              `sleep 1000 & echo ready; wait`,
		"a child without TERM": `sh -c 'trap "" TERM; echo ready; while :; do sleep 1000; done' & wait`,
	} {
		t.Run(name, func(t *testing.T) {
			s, p := startScript(t, reg, script, nil)
			policy := session.StopPolicy{CloseGrace: new(time.Duration(0)), Grace: new(long), Scope: session.ScopeTree}
			stop(t, p, policy)
			wantExit(t, p, -1, syscall.SIGTERM, session.CauseStopped)
			waitFor(t, "its pipes to end", func() bool { return s.State() == session.Ended })
		})
	}
}

func TestTimeoutStopsTheProcess(t *testing.T) {
	reg := newRegistry(t, nil)
	for name, tc := range map[string]struct {
		script string
		code   int
		sig    syscall.Signal
		cause  session.Cause
		limit  time.Duration
	}{
		"gently":    {endsOnEOF, 4, 0, session.CauseTimeout, short},
		"by KILL":   {stubborn, -1, syscall.SIGKILL, session.CauseTimeout, short},
		"not early": {`echo ready; exit 3`, 3, 0, session.CauseOwn, long},
	} {
		t.Run(name, func(t *testing.T) {
			_, p := startScript(t, reg, tc.script, func(s *session.ProcessSpec) {
				s.Timeout = tc.limit
				s.Stop = session.StopPolicy{CloseGrace: new(2 * short), Grace: new(short)}
			})
			info := p.Info()
			if d := info.Deadline.Sub(info.Started); d != tc.limit {
				t.Errorf("the deadline is %v after the start, want %v", d, tc.limit)
			}
			wantExit(t, p, tc.code, tc.sig, tc.cause)
			if got := p.Info(); tc.cause == session.CauseTimeout && got.Exit.Time.Sub(got.Started) < tc.limit {
				t.Errorf("it ended %v after the start", got.Exit.Time.Sub(got.Started))
			}
		})
	}
}

func TestCauseIsWhatEndedTheProcess(t *testing.T) {
	reg := newRegistry(t, nil)
	t.Run("itself", func(t *testing.T) {
		_, p := startScript(t, reg, "echo ready; exit 1", nil)
		wantExit(t, p, 1, 0, session.CauseOwn)
	})
	t.Run("somebody else's signal", func(t *testing.T) {
		_, p := startScript(t, reg, endsOnEOF, nil)
		if err := syscall.Kill(p.Info().Pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		wantExit(t, p, -1, syscall.SIGTERM, session.CauseOwn)
	})
	t.Run("a client's signal", func(t *testing.T) {
		_, p := startScript(t, reg, endsOnEOF, nil)
		if err := p.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		wantExit(t, p, -1, syscall.SIGUSR1, session.CauseSignal)
	})
	t.Run("itself, upon a client's signal", func(t *testing.T) {
		_, p := startScript(t, reg, endsOnTerm, nil)
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		wantExit(t, p, 5, 0, session.CauseOwn)
	})
	t.Run("a client's signal during a ladder", func(t *testing.T) {
		_, p := startScript(t, reg, stubborn, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = p.Stop(ctx, session.StopPolicy{CloseGrace: new(long)})
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		wantExit(t, p, -1, syscall.SIGKILL, session.CauseSignal)
	})
	t.Run("the deletion", func(t *testing.T) {
		s, p := startScript(t, reg, endsOnEOF, nil)
		if err := reg.Delete(t.Context(), s.Name(), true); err != nil {
			t.Fatal(err)
		}
		wantExit(t, p, -1, syscall.SIGKILL, session.CauseDeleted)
	})
}

func TestDeletionStopsGentlyWhereThePolicySaysSo(t *testing.T) {
	reg := newRegistry(t, nil)
	s, p := startScript(t, reg, endsOnEOF, func(s *session.ProcessSpec) {
		s.Stop = session.StopPolicy{CloseGrace: new(long), OnDelete: new(true)}
	})
	other, err := s.StartProcess(t.Context(), session.ProcessSpec{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := reg.Delete(t.Context(), s.Name(), true); err != nil {
		t.Fatal(err)
	}
	wantExit(t, p, 4, 0, session.CauseDeleted)
	wantExit(t, other, -1, syscall.SIGKILL, session.CauseDeleted)
}

func TestStopOfAnExitedProcessChangesNothing(t *testing.T) {
	_, p := startScript(t, newRegistry(t, nil), "echo ready; exit 2", nil)
	wantExit(t, p, 2, 0, session.CauseOwn)
	stop(t, p, session.StopPolicy{})
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, session.ErrExited) {
		t.Errorf("got %v", err)
	}
	wantExit(t, p, 2, 0, session.CauseOwn)
}

func TestPolicyThatMakesNoSenseIsRefused(t *testing.T) {
	reg := newRegistry(t, func(c *session.Config) { c.MaxStopGrace = time.Minute })
	_, p := startScript(t, reg, endsOnEOF, nil)
	for want, policy := range map[string]session.StopPolicy{
		"close grace -1ns: want 0 to 1m0s": {CloseGrace: new(time.Duration(-1))},
		"grace 1h0m0s: want 0 to 1m0s":     {Grace: new(time.Hour)},
		"signal 65: want 1 to 64":          {Signal: 65},
		"ends no process":                  {Signal: syscall.SIGSTOP},
		"scope 3":                          {Scope: 3},
		"does nothing":                     {KeepInput: new(true), SkipSignal: new(true), SkipKill: new(true)},
	} {
		if err := p.Stop(t.Context(), policy); !errors.Is(err, session.ErrArgument) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		spec := session.ProcessSpec{Args: []string{"true"}, Stop: policy}
		if _, err := reg.Create(t.Context(), session.Spec{Process: &spec}); !errors.Is(err, session.ErrArgument) || !strings.Contains(err.Error(), want) {
			t.Errorf("at the start: got %v, want %q", err, want)
		}
	}
	for _, d := range []time.Duration{-1, 9000 * time.Hour} {
		spec := session.ProcessSpec{Args: []string{"true"}, Timeout: d}
		if _, err := reg.Create(t.Context(), session.Spec{Process: &spec}); !errors.Is(err, session.ErrArgument) {
			t.Errorf("timeout %v: got %v", d, err)
		}
	}
	if info := p.Info(); !info.Running || info.Stopping != nil {
		t.Errorf("something has begun: %+v", info.Stopping)
	}
}
