package system

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// countsTerm says so each time that it gets TERM, and does not end.
const countsTerm = `trap "echo term" TERM; echo ready; while :; do read x || :; done`

// A child is a process of a session of its own, on a daemon that may be killed.
type child struct {
	t       *testing.T
	c       *client.Client
	session string
	ctx     func() context.Context
}

// startChild starts a script that says "ready".
func startChild(t *testing.T, d *daemon.Daemon, script string, change func(*pipedv1.ProcessSpec)) *child {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	one := &child{t: t, c: d.Dial(t), ctx: func() context.Context { return ctx }}
	spec := stdio(sh(script), "line")
	if change != nil {
		change(spec)
	}
	s, err := one.c.Create(ctx, &pipedv1.CreateSessionRequest{Process: spec})
	if err != nil {
		t.Fatal(err)
	}
	one.session = s.GetName()
	one.wantLine("ready")
	return one
}

// receive takes the next message, if one comes before the end.
func (o *child) receive() (string, error) {
	r, err := o.c.Endpoint(client.Ref{Session: o.session}).NewReader(o.ctx(), client.ReaderOptions{})
	if err != nil {
		return "", err
	}
	m, err := r.Next(o.ctx())
	if err == nil {
		err = r.Ack(m.After)
	}
	return string(m.Data), errors.Join(err, r.Close(o.ctx()))
}

func (o *child) wantLine(want string) {
	o.t.Helper()
	if got, err := o.receive(); err != nil || got != want {
		o.t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

// look returns the process as it is now.
func (o *child) look() *pipedv1.Process {
	o.t.Helper()
	p, err := o.c.Wait(o.ctx(), o.session, "", 0)
	if err != nil {
		o.t.Fatal(err)
	}
	return p
}

// wantExit waits for the exit.
func (o *child) wantExit(signal string, cause pipedv1.Exit_Cause) *pipedv1.Process {
	o.t.Helper()
	p, err := o.c.Wait(o.ctx(), o.session, "", client.Forever)
	if err != nil {
		o.t.Fatal(err)
	}
	if p.GetExit().GetSignal() != signal || p.GetExit().GetCause() != cause {
		o.t.Errorf("exit %v, want signal %s because of %v", p.GetExit(), signal, cause)
	}
	return p
}

// begin begins a ladder and waits until a step is taken.
func (o *child) begin(step pipedv1.Stopping_Step, policy *pipedv1.StopPolicy) *pipedv1.Stopping {
	o.t.Helper()
	req := &pipedv1.StopProcessRequest{Session: o.session, Policy: policy, Timeout: durationpb.New(0)}
	if _, err := o.c.StopProcess(o.ctx(), req); err != nil {
		o.t.Fatal(err)
	}
	var last *pipedv1.Stopping
	eventually(o.t, "the step is taken", func() bool { last = o.look().GetStopping(); return last.GetStep() == step })
	return last
}

func TestTimeoutOutlivesTheDaemon(t *testing.T) {
	d := daemon.Start(t)
	o := startChild(t, d, `echo ready; exec sleep 1000`, func(s *pipedv1.ProcessSpec) {
		keep := true
		s.Timeout, s.Stop = durationpb.New(1500*time.Millisecond), &pipedv1.StopPolicy{KeepInput: &keep}
	})
	before := o.look().GetDeadline().AsTime()
	d.Strike()
	if after := o.look().GetDeadline().AsTime(); !after.Equal(before) {
		t.Errorf("the deadline was %v and is %v", before, after)
	}
	p := o.wantExit("TERM", pipedv1.Exit_CAUSE_TIMEOUT)
	if p.GetExit().GetExitTime().AsTime().Before(before) {
		t.Errorf("it ended at %v, before %v", p.GetExit().GetExitTime().AsTime(), before)
	}
	d.Strike()
	o.wantExit("TERM", pipedv1.Exit_CAUSE_TIMEOUT)
}

func TestDeadlineThatPassesWithoutADaemonActsAtOnce(t *testing.T) {
	d := daemon.Start(t)
	o := startChild(t, d, `echo ready; exec sleep 1000`, func(s *pipedv1.ProcessSpec) {
		keep := true
		s.Timeout, s.Stop = durationpb.New(time.Second), &pipedv1.StopPolicy{KeepInput: &keep}
	})
	deadline := o.look().GetDeadline().AsTime()
	// A daemon that is stopped does nothing, and its keeper starts no other one.
	pid := d.Kill(syscall.SIGSTOP)
	eventually(t, "the deadline passes", func() bool { return time.Now().After(deadline) })
	d.Kill(syscall.SIGKILL)
	d.AwaitNext(pid)
	p := o.wantExit("TERM", pipedv1.Exit_CAUSE_TIMEOUT)
	if p.GetStopping().GetStepTime().AsTime().Before(deadline) {
		t.Errorf("it was stopped at %v, the deadline was %v", p.GetStopping().GetStepTime().AsTime(), deadline)
	}
}

func TestLadderGoesOnAfterAKillOfTheDaemon(t *testing.T) {
	d := daemon.Start(t)
	o := startChild(t, d, countsTerm, nil)
	before := o.begin(pipedv1.Stopping_STEP_SIGNAL, &pipedv1.StopPolicy{CloseGrace: durationpb.New(0), Grace: durationpb.New(3 * time.Second)})
	d.Strike()
	p := o.look()
	if p.GetExit() != nil || !proto.Equal(p.GetStopping(), before) {
		t.Errorf("the ladder was %v, and is %v", before, p)
	}
	p = o.wantExit("KILL", pipedv1.Exit_CAUSE_STOPPED)
	if p.GetExit().GetExitTime().AsTime().Before(before.GetNextTime().AsTime()) {
		t.Errorf("it was killed at %v, and had until %v", p.GetExit().GetExitTime().AsTime(), before.GetNextTime().AsTime())
	}
	o.wantLine("term")
	if line, err := o.receive(); err == nil {
		t.Errorf("it got TERM again: %q", line)
	}
}

func TestStepThatIsDueAfterAKillOfTheDaemonIsTaken(t *testing.T) {
	d := daemon.Start(t)
	o := startChild(t, d, countsTerm, nil)
	const grace = 300 * time.Millisecond
	before := o.begin(pipedv1.Stopping_STEP_CLOSE, &pipedv1.StopPolicy{CloseGrace: durationpb.New(time.Second), Grace: durationpb.New(grace)})
	due := before.GetNextTime().AsTime()
	pid := d.Kill(syscall.SIGSTOP)
	eventually(t, "the step is due, and the one after it", func() bool { return time.Now().After(due.Add(grace)) })
	d.Kill(syscall.SIGKILL)
	d.AwaitNext(pid)
	o.wantExit("KILL", pipedv1.Exit_CAUSE_STOPPED)
	o.wantLine("term") // it had its grace first
}

func TestStopReturnsTheExitAlsoWhenTheDaemonIsKilledMeanwhile(t *testing.T) {
	d := daemon.Start(t)
	o := startChild(t, d, countsTerm, nil)
	type result struct {
		p   *pipedv1.Process
		err error
	}
	done := make(chan result, 1)
	go func() {
		p, err := o.c.StopProcess(o.ctx(), &pipedv1.StopProcessRequest{Session: o.session, Policy: &pipedv1.StopPolicy{
			CloseGrace: durationpb.New(0), Grace: durationpb.New(2 * time.Second)}})
		done <- result{p, err}
	}()
	eventually(t, "TERM is sent", func() bool { return o.look().GetStopping().GetStep() == pipedv1.Stopping_STEP_SIGNAL })
	d.Strike()
	if r := <-done; r.err != nil || r.p.GetExit().GetSignal() != "KILL" {
		t.Errorf("got %v, %v", r.p, r.err)
	}
}

func TestSignalOfAClientIsTheCauseAlsoAfterAKillOfTheDaemon(t *testing.T) {
	d := daemon.Start(t)
	o := startChild(t, d, `echo ready; exec sleep 1000`, nil)
	if err := o.c.Signal(o.ctx(), o.session, "", "USR1"); err != nil {
		t.Fatal(err)
	}
	o.wantExit("USR1", pipedv1.Exit_CAUSE_SIGNAL_BY_CLIENT)
	d.Strike()
	o.wantExit("USR1", pipedv1.Exit_CAUSE_SIGNAL_BY_CLIENT)
}
