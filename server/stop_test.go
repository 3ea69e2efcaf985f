package server

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// withProcess serves a session "s" with a process "p", which is cat if nobody changes
// it.
func withProcess(t *testing.T, change func(*pipedv1.ProcessSpec)) clients {
	t.Helper()
	conn := serveOptions(t, DefaultOptions()).connect(t)
	c := clients{sessions: pipedv1.NewSessionServiceClient(conn), pipes: pipedv1.NewPipeServiceClient(conn)}
	spec := &pipedv1.ProcessSpec{Name: "p", Args: []string{"cat"}}
	if change != nil {
		change(spec)
	}
	if _, err := c.sessions.CreateSession(t.Context(), &pipedv1.CreateSessionRequest{Name: "s", Process: spec}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c clients) stop(t *testing.T, policy *pipedv1.StopPolicy, timeout *durationpb.Duration) *pipedv1.Process {
	t.Helper()
	resp, err := c.sessions.StopProcess(t.Context(), &pipedv1.StopProcessRequest{Session: "s", Process: "p", Policy: policy, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetProcess()
}

func TestStopProcessReturnsTheExitAndItsCause(t *testing.T) {
	c := withProcess(t, nil)
	p := c.stop(t, &pipedv1.StopPolicy{CloseGrace: durationpb.New(time.Hour)}, nil)
	if p.GetExit() == nil || p.GetExit().GetCode() != 0 || p.GetExit().GetCause() != pipedv1.Exit_CAUSE_STOPPED {
		t.Errorf("got %v", p)
	}
	if got := p.GetStopping(); got.GetStep() != pipedv1.Stopping_STEP_CLOSE || got.GetStepTime() == nil || got.GetCause() != pipedv1.Exit_CAUSE_STOPPED {
		t.Errorf("the ladder is at %v", got)
	}
}

func TestStopProcessReturnsHowFarItIsWhenItsTimeoutIsOver(t *testing.T) {
	c := withProcess(t, nil)
	keep := true
	p := c.stop(t, &pipedv1.StopPolicy{KeepInput: &keep, Signal: "WINCH", Grace: durationpb.New(time.Hour)}, durationpb.New(0))
	if p.GetState() != pipedv1.Process_STATE_RUNNING || p.GetStopping().GetNextTime() == nil ||
		p.GetTreeKill() == pipedv1.TreeKill_TREE_KILL_UNSPECIFIED { // which of the others depends on the machine
		t.Errorf("got %v", p)
	}
	p = c.stop(t, &pipedv1.StopPolicy{SkipSignal: &keep, KeepInput: &keep, Scope: pipedv1.StopPolicy_SCOPE_TREE}, nil)
	if p.GetExit().GetSignal() != "KILL" || p.GetExit().GetCause() != pipedv1.Exit_CAUSE_STOPPED {
		t.Errorf("killed: %v", p)
	}
}

func TestProcessIsStoppedAsItsSpecSays(t *testing.T) {
	yes := true
	c := withProcess(t, func(s *pipedv1.ProcessSpec) {
		s.Stop = &pipedv1.StopPolicy{KeepInput: &yes, Signal: "SIGUSR1"}
		s.Timeout = durationpb.New(100 * time.Millisecond)
	})
	resp, err := c.sessions.WaitProcess(t.Context(), &pipedv1.WaitProcessRequest{Session: "s"})
	if err != nil {
		t.Fatal(err)
	}
	p := resp.GetProcess()
	if p.GetExit().GetSignal() != "USR1" || p.GetExit().GetCause() != pipedv1.Exit_CAUSE_TIMEOUT {
		t.Errorf("got %v", p)
	}
	if d := p.GetDeadline().AsTime().Sub(p.GetStartTime().AsTime()); d != 100*time.Millisecond {
		t.Errorf("the deadline is %v after the start", d)
	}
}

func TestStopSessionTakesItsGracesUnderEitherName(t *testing.T) {
	short := durationpb.New(50 * time.Millisecond)
	for name, req := range map[string]*pipedv1.StopSessionRequest{
		"as fields":   {Session: "s", InputGrace: durationpb.New(0), TermGrace: short},
		"as a policy": {Session: "s", Policy: &pipedv1.StopPolicy{CloseGrace: durationpb.New(0), Grace: short}},
	} {
		t.Run(name, func(t *testing.T) {
			c := withProcess(t, func(s *pipedv1.ProcessSpec) {
				s.Args = []string{"sh", "-c", `trap "" TERM; while :; do read x || :; done`}
				s.Stop = &pipedv1.StopPolicy{CloseGrace: durationpb.New(time.Hour), Grace: durationpb.New(time.Hour)}
			})
			resp, err := c.sessions.StopSession(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if p := resp.GetProcesses(); len(p) != 1 || p[0].GetExit().GetSignalNumber() == 0 || p[0].GetExit().GetCause() != pipedv1.Exit_CAUSE_STOPPED {
				t.Errorf("got %v", p)
			}
		})
	}
}

func TestStopThatMakesNoSenseIsRefused(t *testing.T) {
	c := withProcess(t, nil)
	yes := true
	for want, policy := range map[string]*pipedv1.StopPolicy{
		"close grace -1s":                   {CloseGrace: durationpb.New(-time.Second)},
		"grace 25h0m0s: want 0 to 24h0m0s":  {Grace: durationpb.New(25 * time.Hour)},
		`signal "HELLO": want a name`:       {Signal: "HELLO"},
		"signal 19 (stopped (signal)) ends": {Signal: "STOP"},
		"scope 7":                           {Scope: 7},
		"does nothing":                      {KeepInput: &yes, SkipSignal: &yes, SkipKill: &yes},
	} {
		// With no time to wait, which must not hide the error.
		_, err := c.sessions.StopProcess(t.Context(), &pipedv1.StopProcessRequest{Session: "s", Policy: policy, Timeout: durationpb.New(0)})
		if err == nil || answerTo(t, err).Reason != "ARGUMENT" || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	both := &pipedv1.StopSessionRequest{Session: "s", InputGrace: durationpb.New(0), Policy: &pipedv1.StopPolicy{CloseGrace: durationpb.New(0)}}
	if _, err := c.sessions.StopSession(t.Context(), both); err == nil || answerTo(t, err).Reason != "ARGUMENT" {
		t.Errorf("the grace twice: %v", err)
	}
	for want, req := range map[string]*pipedv1.StopProcessRequest{
		"SESSION_NOT_FOUND": {Session: "none"}, "PROCESS_NOT_FOUND": {Session: "s", Process: "none"},
	} {
		if _, err := c.sessions.StopProcess(t.Context(), req); err == nil || answerTo(t, err).Reason != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	_, err := c.sessions.StartProcess(t.Context(), &pipedv1.StartProcessRequest{Session: "s", Process: &pipedv1.ProcessSpec{
		Args: []string{"true"}, Timeout: durationpb.New(-time.Second)}})
	if err == nil || answerTo(t, err).Reason != "ARGUMENT" || !strings.Contains(err.Error(), "timeout -1s") {
		t.Errorf("a negative timeout: %v", err)
	}
}

func TestExitCausesHaveNamesOnTheWire(t *testing.T) {
	if len(exitCauses) != len(pipedv1.Exit_Cause_name)-1 {
		t.Errorf("%d causes are told, %d have names", len(exitCauses), len(pipedv1.Exit_Cause_name)-1)
	}
	c := withProcess(t, nil)
	if _, err := c.sessions.SignalProcess(t.Context(), &pipedv1.SignalProcessRequest{Session: "s", Signal: "KILL"}); err != nil {
		t.Fatal(err)
	}
	resp, err := c.sessions.WaitProcess(t.Context(), &pipedv1.WaitProcessRequest{Session: "s"})
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.GetProcess().GetExit().GetCause(); got != pipedv1.Exit_CAUSE_SIGNAL_BY_CLIENT {
		t.Errorf("got %v", got)
	}
}
