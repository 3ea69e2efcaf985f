package session_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

// soon is a policy that starts again without much of a wait, always or only after
// a failure.
func soon(mode session.RestartMode) *session.RestartPolicy {
	return &session.RestartPolicy{Mode: mode, Backoff: 10 * time.Millisecond, MaxBackoff: 20 * time.Millisecond}
}

// later is a policy whose first wait no test waits out.
func later() *session.RestartPolicy {
	return &session.RestartPolicy{Mode: session.RestartAlways, Backoff: long, MaxBackoff: long}
}

// startService starts a script that is started again.
func startService(t *testing.T, reg *session.Registry, script string, policy *session.RestartPolicy) *session.Session {
	t.Helper()
	return create(t, reg, session.Spec{Process: &session.ProcessSpec{Name: "svc", Args: []string{"sh", "-c", script}, Restart: policy}})
}

// incarnation waits until a process is in an incarnation, and returns that.
func incarnation(t *testing.T, s *session.Session, n uint64) *session.Process {
	t.Helper()
	var p *session.Process
	waitFor(t, "the next incarnation", func() bool {
		var err error
		if p, err = s.Process("svc"); err != nil {
			t.Fatal(err)
		}
		return p.Incarnation() >= n
	})
	return p
}

// last waits for the last exit of a process.
func last(t *testing.T, s *session.Session) session.ProcessInfo {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p, err := s.Process("svc")
	if err == nil {
		p, err = p.WaitLast(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p.Info()
}

func TestProcessThatFailsIsStartedAgainAsOftenAsItsPolicyAllows(t *testing.T) {
	reg := newRegistry(t, nil)
	policy := soon(session.RestartOnFailure)
	policy.MaxRestarts = 3
	told := watch(t, reg, session.WatchOptions{Retained: true})
	s := startService(t, reg, "exit 7", policy)
	got := last(t, s)
	if got.Incarnation != 4 || got.Restarts != 3 || got.Exit.Code != 7 || got.Failure == "" || !got.Next.IsZero() {
		t.Errorf("it ended as %+v", got)
	}
	var started, exited, restarting, gaveUp int
	for gaveUp == 0 {
		switch e := hear(t, told).Event; e.Type {
		case session.EventProcessStarted:
			if started++; e.Process.Incarnation != uint64(started) {
				t.Errorf("start %d is told as incarnation %d", started, e.Process.Incarnation)
			}
		case session.EventProcessExited:
			exited++
		case session.EventProcessRestarting:
			if restarting++; e.Process.Next.IsZero() || restarting != exited {
				t.Errorf("restart %d after %d exits is told as %+v", restarting, exited, e.Process)
			}
		case session.EventProcessGaveUp:
			gaveUp++
		case session.EventSessionEnded:
			if exited < 4 {
				t.Error("a session is told as ended while its process is started again")
			}
		}
	}
	if started != 4 || exited != 4 || restarting != 3 {
		t.Errorf("told of %d starts, %d exits, %d restarts", started, exited, restarting)
	}
	waitFor(t, "the session to end", func() bool { return s.State() == session.Ended })
}

func TestOnlyAFailureIsStartedAgainOnFailure(t *testing.T) {
	reg := newRegistry(t, nil)
	s := startService(t, reg, "exit 0", soon(session.RestartOnFailure))
	if got := last(t, s); got.Incarnation != 1 || got.Failure != "" {
		t.Errorf("after success it is %+v", got)
	}
	s = startService(t, reg, "exit 0", soon(session.RestartAlways))
	incarnation(t, s, 3)
	s = startService(t, reg, "kill -KILL $$", soon(session.RestartOnFailure))
	incarnation(t, s, 2)
}

func TestProcessThatAClientStopsIsNotStartedAgain(t *testing.T) {
	reg := newRegistry(t, nil)
	s := startService(t, reg, "cat; exit 3", soon(session.RestartAlways))
	p := incarnation(t, s, 1)
	stop(t, p, session.StopPolicy{})
	if got := last(t, s); got.Incarnation != 1 || got.Cause != session.CauseStopped {
		t.Errorf("it ended as %+v", got)
	}
	// One that waits for its next start.
	s = startService(t, reg, "exit 3", later())
	p = incarnation(t, s, 1)
	waitFor(t, "the exit", func() bool { return !p.Running() })
	if s.State() != session.Active || p.Info().Next.IsZero() {
		t.Errorf("while it waits the session is %v, and it is %+v", s.State(), p.Info())
	}
	stop(t, p, session.StopPolicy{})
	if got := last(t, s); got.Incarnation != 1 || got.Failure == "" {
		t.Errorf("it ended as %+v", got)
	}
	waitFor(t, "the session to end", func() bool { return s.State() == session.Ended })
}

func TestSignalOfAClientDoesNotEndSupervision(t *testing.T) {
	reg := newRegistry(t, nil)
	s := startService(t, reg, "cat", soon(session.RestartOnFailure))
	p := incarnation(t, s, 1)
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	incarnation(t, s, 2)
	if got := p.Info(); got.Cause != session.CauseSignal {
		t.Errorf("it ended as %+v", got)
	}
}

func TestTimeoutHoldsForEachIncarnation(t *testing.T) {
	reg := newRegistry(t, nil)
	s := create(t, reg, session.Spec{Process: &session.ProcessSpec{Name: "svc", Args: []string{"sleep", "60"}, Restart: soon(session.RestartOnFailure),
		Timeout: short, Stop: session.StopPolicy{CloseGrace: new(time.Duration(0))}}})
	p := incarnation(t, s, 3)
	if got := p.Info(); got.Running && got.Deadline.IsZero() {
		t.Errorf("it has no deadline: %+v", got)
	}
	for _, f := range p.Former() {
		if f.Cause != session.CauseTimeout {
			t.Errorf("one before it ended as %+v", f)
		}
	}
}

func TestEachIncarnationHasPipesOfItsOwn(t *testing.T) {
	reg := newRegistry(t, nil)
	s := create(t, reg, session.Spec{
		Pipes: []session.PipeSpec{{Name: "ctl"}},
		Process: &session.ProcessSpec{Name: "svc", Args: []string{"sh", "-c", `echo out $$; echo ctl >&3; read x; exit 1`},
			Inherits: []session.Inherit{{Pipe: "ctl", End: 2, FD: 3, HandOver: true}}, Restart: soon(session.RestartAlways)}})
	old := endpoint(t, s, "", 1)
	r := openReader(t, old, session.ReaderOptions{})
	first := receive(t, r)
	send(t, old, "go")
	incarnation(t, s, 2)
	// Whoever reads the old one gets its end, whoever comes now the new one.
	if end := receive(t, r).End; end == nil || end.Cause != pipe.CauseClosed || end.Position.Message != 2 {
		t.Errorf("the old one ended as %+v", end)
	}
	fresh := endpoint(t, s, "", 1)
	if fresh == old || fresh.Incarnation() != 2 || fresh.Ref() != s.Name()+"/stdio~2:1" {
		t.Errorf("the current one is %s, incarnation %d", fresh.Ref(), fresh.Incarnation())
	}
	second := receive(t, openReader(t, fresh, session.ReaderOptions{}))
	if string(first.Batch.Data) == string(second.Batch.Data) || second.Batch.First.Message != 1 {
		t.Errorf("the incarnations say %q and %q", first.Batch.Data, second.Batch.Data)
	}
	ctl := endpoint(t, s, "ctl", 1)
	if ctl.Incarnation() != 2 {
		t.Errorf("the pipe that was handed over is in incarnation %d", ctl.Incarnation())
	}
	receive(t, openReader(t, ctl, session.ReaderOptions{}))
	for _, name := range []string{"stdio", "ctl"} {
		if e, err := s.EndpointIn(name, 1, 1); err != nil || e.Incarnation() != 1 {
			t.Errorf("incarnation 1 of %s: %v", name, err)
		}
		if _, err := s.EndpointIn(name, 1, 9); !errors.Is(err, session.ErrIncarnation) {
			t.Errorf("incarnation 9 of %s: %v", name, err)
		}
	}
}

func TestOutputOfAnEarlierIncarnationCanBeReadToItsEndWhileTheNextOneRuns(t *testing.T) {
	reg := newRegistry(t, nil)
	mark := filepath.Join(t.TempDir(), "mark")
	s := startService(t, reg, `if [ -e `+mark+` ]; then cat; fi; : > `+mark+`; seq 20000; exit 1`, soon(session.RestartOnFailure))
	p := incarnation(t, s, 2)
	e, err := s.EndpointIn("", 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	r := openReader(t, e, session.ReaderOptions{})
	for next := uint64(1); ; {
		ev := receive(t, r)
		if ev.End != nil {
			if ev.End.Position.Message != 20001 || next != 20001 {
				t.Errorf("it ended at %v after message %d", ev.End.Position, next-1)
			}
			break
		}
		if ev.Batch.First.Message != next {
			t.Fatalf("message %d came, want %d", ev.Batch.First.Message, next)
		}
		next = ev.Batch.Next.Message
		if err := r.Ack(ev.Batch.Next); err != nil {
			t.Fatal(err)
		}
	}
	if !p.Running() {
		t.Error("the next one does not run")
	}
}

func TestUnreadInputIsReportedAndNotSentAgain(t *testing.T) {
	reg := newRegistry(t, nil)
	dir := t.TempDir()
	fifo, mark := filepath.Join(dir, "go"), filepath.Join(dir, "mark")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	// The first one waits for a word that comes by another way, reads nothing, and fails.
	s := startService(t, reg, `if [ ! -e `+mark+` ]; then : > `+mark+`; read x < `+fifo+`; exit 1; fi; while read x; do echo got $x; done`,
		soon(session.RestartOnFailure))
	told := watch(t, reg, session.WatchOptions{})
	send(t, endpoint(t, s, "", 1), "a", "b", "c")
	if err := os.WriteFile(fifo, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	p := incarnation(t, s, 2)
	for {
		if e := hear(t, told).Event; e != nil && e.Type == session.EventProcessRestarting {
			if e.Unread == nil || e.Unread.Input != 3 {
				t.Errorf("the event tells of %+v", e.Unread)
			}
			break
		}
	}
	fresh := endpoint(t, s, "", 1)
	send(t, fresh, "d")
	if got := receive(t, openReader(t, fresh, session.ReaderOptions{})); string(got.Batch.Data) != "got d" {
		t.Errorf("the next one got %q", got.Batch.Data)
	}
	waitFor(t, "what is unread to be told", func() bool {
		info, err := s.Info(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		former := info.Pipes[0].Former
		return len(former) == 1 && former[0].Incarnation == 1 && former[0].Unread == 3
	})
	finals := p.Former()[0].Finals
	if len(finals) == 0 || finals[0].AllRead == nil || *finals[0].AllRead {
		t.Errorf("the finals of the first are %+v", finals)
	}
}

func TestSenderIsRefusedByNameWhileTheProcessWaitsForItsNextStart(t *testing.T) {
	reg := newRegistry(t, nil)
	s := startService(t, reg, "exit 1", later())
	p := incarnation(t, s, 1)
	waitFor(t, "the exit", func() bool { return !p.Running() })
	err := endpoint(t, s, "", 1).AwaitsRestart()
	restarting, ok := errors.AsType[*session.RestartingError](err)
	if !ok || restarting.Process != "svc" || !restarting.Next.Equal(p.Info().Next) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Restart(t.Context(), "svc", "", session.StopPolicy{}); err != nil {
		t.Fatal(err)
	}
	s = startService(t, reg, "cat", later())
	if err := endpoint(t, s, "", 1).AwaitsRestart(); err != nil {
		t.Errorf("while it runs: %v", err)
	}
}

func TestOldestIncarnationsAreDroppedAndToldOf(t *testing.T) {
	reg := newRegistry(t, func(c *session.Config) { c.IncarnationsKept = 2 })
	policy := soon(session.RestartAlways)
	policy.MaxRestarts = 8
	told := watch(t, reg, session.WatchOptions{Retained: true})
	before := descriptors()
	s := startService(t, reg, "echo x; echo y", policy)
	got := last(t, s)
	if got.Incarnation != 9 {
		t.Fatalf("it ended as %+v", got)
	}
	for dropped := uint64(0); dropped < 6; {
		if e := hear(t, told).Event; e.Type == session.EventIncarnationDropped {
			dropped++
			if e.Process.Incarnation != dropped || e.Unread.Output != 2 || e.Unread.OutputBytes != 4 {
				t.Errorf("drop %d is told as incarnation %d with %+v", dropped, e.Process.Incarnation, e.Unread)
			}
		}
	}
	if _, err := s.EndpointIn("", 1, 6); !errors.Is(err, session.ErrIncarnation) {
		t.Errorf("one that was dropped: %v", err)
	}
	if _, err := s.EndpointIn("", 1, 7); err != nil {
		t.Errorf("one that is kept: %v", err)
	}
	info, err := s.Info(t.Context(), false)
	if err != nil || len(info.Processes) != 1 || len(info.Processes[0].Former) != 2 || info.Processes[0].Former[0].Incarnation != 8 {
		t.Errorf("kept are %+v, %v", info.Processes, err)
	}
	if err := reg.Delete(t.Context(), s.Name(), true); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "descriptors to be closed", func() bool { return descriptors() <= before })
}

func TestClientRestartsAProcess(t *testing.T) {
	reg := newRegistry(t, nil)
	for name, policy := range map[string]*session.RestartPolicy{"without a policy": nil, "with one": later()} {
		t.Run(name, func(t *testing.T) {
			s := startService(t, reg, "cat; exit 3", policy)
			next, err := s.Restart(t.Context(), "svc", "once", session.StopPolicy{})
			if err != nil || next.Incarnation() != 2 || !next.Running() {
				t.Fatalf("one that runs: %v, %v", next, err)
			}
			if first := next.Former()[0]; first.Cause != session.CauseRestarted || first.Exit.Code != 3 {
				t.Errorf("the first ended as %+v", first)
			}
			if same, err := s.Restart(t.Context(), "svc", "once", session.StopPolicy{}); err != nil || same != next {
				t.Errorf("the same request: %v, %v", same, err)
			}
			if err := endpoint(t, s, "", 1).Close(session.CloseOptions{SendOnly: true}); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the exit", func() bool { return !next.Running() })
			// One that has exited, whose session has ended or waits.
			third, err := s.Restart(t.Context(), "", "", session.StopPolicy{})
			if err != nil || third.Incarnation() != 3 || !third.Running() || s.State() != session.Active {
				t.Fatalf("one that has exited: %v, %v", third, err)
			}
			if _, err := s.Restart(t.Context(), "svc", "", session.StopPolicy{SkipKill: new(true)}); !errors.Is(err, session.ErrArgument) {
				t.Errorf("without a kill: %v", err)
			}
		})
	}
}

func TestStartThatFailsIsAFailureToo(t *testing.T) {
	reg := newRegistry(t, nil)
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nrm $0\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	policy := soon(session.RestartOnFailure)
	policy.MaxRestarts = 3
	before := descriptors()
	s := create(t, reg, session.Spec{Process: &session.ProcessSpec{Name: "svc", Args: []string{program}, Restart: policy}})
	got := last(t, s)
	if got.Incarnation != 1 || got.Restarts != 0 || got.Failure == "" {
		t.Errorf("it ended as %+v", got)
	}
	if _, err := s.Restart(t.Context(), "svc", "", session.StopPolicy{}); !errors.Is(err, keeper.ErrNotFound) {
		t.Errorf("a client is told %v", err)
	}
	waitFor(t, "the session to end", func() bool { return s.State() == session.Ended })
	if err := reg.Delete(t.Context(), s.Name(), true); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "descriptors to be closed", func() bool { return descriptors() <= before })
}

func TestEndThatIsHandedOverForGoodIsRefusedWithAPolicy(t *testing.T) {
	reg := newRegistry(t, nil)
	s := create(t, reg, session.Spec{Pipes: []session.PipeSpec{{Name: "x"}}})
	spec := inheriting(2, true, "cat")
	spec.Inherits[0].Pipe = "x"
	spec.Restart = soon(session.RestartAlways)
	if _, err := s.StartProcess(t.Context(), spec); !errors.Is(err, session.ErrArgument) {
		t.Errorf("got %v", err)
	}
	spec.Restart, spec.Name = nil, "svc"
	if _, err := s.StartProcess(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Restart(t.Context(), "svc", "", session.StopPolicy{}); !errors.Is(err, session.ErrNotRestartable) {
		t.Errorf("got %v", err)
	}
}

func TestDeletionEndsSupervision(t *testing.T) {
	reg := newRegistry(t, nil)
	for name, script := range map[string]string{"that runs": "cat", "that loops": "exit 1"} {
		s := startService(t, reg, script, soon(session.RestartAlways))
		if err := reg.Delete(t.Context(), s.Name(), true); err != nil {
			t.Errorf("one %s: %v", name, err)
		}
	}
	startService(t, reg, "exit 1", soon(session.RestartAlways)) // the end of the registry ends it
	s := startService(t, reg, "exit 1", later())
	p := incarnation(t, s, 1)
	waitFor(t, "the exit", func() bool { return !p.Running() })
	if err := reg.Delete(t.Context(), s.Name(), false); !errors.Is(err, session.ErrActive) {
		t.Errorf("one that waits is deleted without force: %v", err)
	}
}

func TestProcessIsStartedAgainWhereLogsAreInMemory(t *testing.T) {
	reg := newRegistry(t, func(c *session.Config) { c.KernelLogs, c.IncarnationsKept = false, 1 })
	policy := soon(session.RestartAlways)
	policy.MaxRestarts = 4
	s := startService(t, reg, "echo x", policy)
	if got := last(t, s); got.Incarnation != 5 {
		t.Errorf("it ended as %+v", got)
	}
	e, err := s.EndpointIn("", 1, 4)
	if err != nil {
		t.Fatal(err)
	}
	if ev := receive(t, openReader(t, e, session.ReaderOptions{})); string(ev.Batch.Data) != "x" {
		t.Errorf("the one before says %q", ev.Batch.Data)
	}
	waitFor(t, "the oldest to be dropped", func() bool {
		_, err := s.EndpointIn("", 1, 3)
		return errors.Is(err, session.ErrIncarnation)
	})
}

// TestRestartsLeaveNothingBehind holds that a process that is started again for ever
// needs no more and more of anything.
func TestRestartsLeaveNothingBehind(t *testing.T) {
	reg := newRegistry(t, func(c *session.Config) { c.IncarnationsKept = 1 })
	s := startService(t, reg, "echo x", soon(session.RestartAlways))
	incarnation(t, s, 5)
	before, goroutines := descriptors(), runtime.NumGoroutine()
	incarnation(t, s, 40)
	waitFor(t, "descriptors and goroutines to be as many as before", func() bool {
		return descriptors() <= before+6 && runtime.NumGoroutine() <= goroutines+6
	})
	if err := reg.Delete(t.Context(), s.Name(), true); err != nil {
		t.Fatal(err)
	}
}
