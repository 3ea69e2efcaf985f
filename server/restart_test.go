package server

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// restarting is a policy that starts again after a wait.
func restarting(wait time.Duration) *pipedv1.RestartPolicy {
	return &pipedv1.RestartPolicy{Mode: pipedv1.RestartPolicy_MODE_ON_FAILURE, InitialBackoff: durationpb.New(wait), MaxBackoff: durationpb.New(wait)}
}

func (c clients) waitIncarnation(t *testing.T, n uint64) *pipedv1.Process {
	t.Helper()
	resp, err := c.sessions.WaitProcess(t.Context(), &pipedv1.WaitProcessRequest{Session: "s", Process: "p", Incarnation: n})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetProcess()
}

func (c clients) restart(t *testing.T) *pipedv1.Process {
	t.Helper()
	resp, err := c.sessions.RestartProcess(t.Context(), &pipedv1.RestartProcessRequest{Session: "s", Process: "p"})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetProcess()
}

func TestProcessBetweenTwoStartsIsShownAndItsSendersAreRefusedByName(t *testing.T) {
	c := withProcess(t, func(s *pipedv1.ProcessSpec) {
		s.Args, s.Restart = []string{"sh", "-c", "echo x; exit 3"}, restarting(time.Hour)
	})
	p := c.waitIncarnation(t, 1)
	if p.GetState() != pipedv1.Process_STATE_BACKOFF || p.GetExit().GetCode() != 3 || p.GetNextStartTime() == nil || p.GetIncarnation() != 1 {
		t.Errorf("it is %v", p)
	}
	ref := &pipedv1.EndpointRef{Session: "s", Pipe: "stdio"}
	_, err := c.pipes.Write(t.Context(), &pipedv1.WriteRequest{Endpoint: ref, Messages: [][]byte{[]byte("y")}})
	got := answerTo(t, err)
	if got.Code != codes.Unavailable || got.Reason != "RESTARTING" || got.Metadata["process"] != "p" ||
		got.Metadata["next"] != expiry(p.GetNextStartTime().AsTime()) {
		t.Errorf("a sender gets %v", err)
	}
	// Whoever names the incarnation means it.
	ref.Incarnation = 1
	if _, err := c.pipes.Write(t.Context(), &pipedv1.WriteRequest{Endpoint: ref, Messages: [][]byte{[]byte("y")}}); answerTo(t, err).Reason != "BROKEN_PIPE" {
		t.Errorf("a sender into the one that is over gets %v", err)
	}
	timeout, err := c.sessions.WaitProcess(t.Context(), &pipedv1.WaitProcessRequest{Session: "s", Timeout: durationpb.New(0)})
	if err != nil || timeout.GetProcess().GetState() != pipedv1.Process_STATE_BACKOFF {
		t.Errorf("a wait without time: %v, %v", timeout, err)
	}
	if p := c.stop(t, nil, nil); p.GetState() != pipedv1.Process_STATE_EXITED || p.GetRestartFailure() == "" {
		t.Errorf("after it is stopped it is %v", p)
	}
}

func TestPositionOfAnotherIncarnationIsRefused(t *testing.T) {
	c := withProcess(t, func(s *pipedv1.ProcessSpec) { s.Args = []string{"sh", "-c", "echo hello; cat"} })
	p := c.restart(t)
	if p.GetIncarnation() != 2 || p.GetRestarts() != 1 || len(p.GetFormer()) != 1 || p.GetFormer()[0].GetExit().GetCause() != pipedv1.Exit_CAUSE_RESTARTED {
		t.Errorf("the next one is %v", p)
	}
	read := func(incarnation, position uint64) (*pipedv1.ReadResponse, error) {
		return c.pipes.Read(t.Context(), &pipedv1.ReadRequest{Endpoint: &pipedv1.EndpointRef{Session: "s", Incarnation: incarnation},
			Acknowledge: &pipedv1.Position{Incarnation: position, Message: 1}})
	}
	for _, n := range []uint64{1, 2} {
		resp, err := read(n, n)
		if err != nil || string(resp.GetBatch().GetData()) != "hello" || resp.GetNext().GetIncarnation() != n {
			t.Errorf("incarnation %d: %v, %v", n, resp, err)
		}
	}
	if resp, err := read(0, 0); err != nil || resp.GetNext().GetIncarnation() != 2 {
		t.Errorf("the current one: %v, %v", resp, err)
	}
	_, err := read(0, 1)
	if got := answerTo(t, err); got.Reason != "ARGUMENT" || !strings.Contains(err.Error(), "incarnation 1") {
		t.Errorf("a position of the first in the second: %v", err)
	}
	_, err = read(3, 0)
	if got := answerTo(t, err); got.Reason != "INCARNATION_NOT_FOUND" {
		t.Errorf("one that is not there yet: %v", err)
	}
	got, err := c.sessions.GetSession(t.Context(), &pipedv1.GetSessionRequest{Session: "s"})
	if err != nil {
		t.Fatal(err)
	}
	stdio := got.GetSession().GetPipes()[0]
	if stdio.GetIncarnation() != 2 || len(stdio.GetFormer()) != 1 || stdio.GetFormer()[0].GetIncarnation() != 1 ||
		stdio.GetFormer()[0].GetEndpoints()[0].GetInbox().GetEnd().GetPosition().GetIncarnation() != 1 {
		t.Errorf("the pipe is shown as %v", stdio)
	}
}

func TestRestartPolicyThatMakesNoSenseIsRefused(t *testing.T) {
	c := withProcess(t, nil)
	for name, policy := range map[string]*pipedv1.RestartPolicy{
		"mode":            {Mode: 9},
		"initial backoff": {InitialBackoff: durationpb.New(time.Millisecond)},
		"longest backoff": {MaxBackoff: durationpb.New(50 * time.Millisecond)},
		"longest":         {MaxBackoff: durationpb.New(0)},
		"multiplier":      {Multiplier: 0.5},
		"jitter":          {Jitter: new(1.5)},
		"healthy time":    {HealthyAfter: durationpb.New(-time.Second)},
	} {
		_, err := c.sessions.StartProcess(t.Context(), &pipedv1.StartProcessRequest{Session: "s", Process: &pipedv1.ProcessSpec{Args: []string{"cat"}, Restart: policy}})
		if got := answerTo(t, err); got.Reason != "ARGUMENT" || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
