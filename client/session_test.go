//go:build linux

package client_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestListGoesThroughAllPages(t *testing.T) {
	c := dial(t)
	var want []string
	for i := range 5 {
		name := fmt.Sprintf("page-%d", i)
		create(t, c, &pipedv1.CreateSessionRequest{Name: name, Pipes: []*pipedv1.PipeSpec{{}}})
		want = append(want, name)
	}
	var got []string
	for session, err := range c.List(t.Context(), &pipedv1.ListSessionsRequest{NamePrefix: "page-", PageSize: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, session.GetName())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for session, err := range c.List(t.Context(), &pipedv1.ListSessionsRequest{NamePrefix: "page-", PageSize: 2}) {
		if err != nil || session.GetName() != "page-0" {
			t.Errorf("got %s first, %v", session.GetName(), err)
		}
		break
	}
}

func TestErrorsOfTheDaemonKeepTheirReason(t *testing.T) {
	c := dial(t)
	name := create(t, c, &pipedv1.CreateSessionRequest{Name: "taken", Pipes: []*pipedv1.PipeSpec{{}}})
	_, err := c.Create(t.Context(), &pipedv1.CreateSessionRequest{Name: name, Pipes: []*pipedv1.PipeSpec{{}}})
	if !errors.Is(err, client.ErrSessionExists) {
		t.Errorf("got %v, want ErrSessionExists", err)
	}
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Code != codes.AlreadyExists || e.Message == "" {
		t.Errorf("got %#v, want code AlreadyExists with a message", e)
	}
	for _, call := range []struct {
		name string
		want error
		call func() error
	}{
		{"Get", client.ErrSessionNotFound, func() error { _, err := c.Get(t.Context(), "nobody"); return err }},
		{"Delete", client.ErrSessionActive, func() error { return c.Delete(t.Context(), name, false) }},
		{"NewReader", client.ErrPipeNotFound, func() error {
			_, err := c.Endpoint(client.Ref{Session: name, Pipe: "none"}).NewReader(t.Context(), client.ReaderOptions{})
			return err
		}},
		{"NewWriter", client.ErrSessionNotFound, func() error {
			_, err := c.Endpoint(client.Ref{Session: "nobody"}).NewWriter(t.Context(), client.WriterOptions{})
			return err
		}},
		{"Wait", client.ErrProcessNotFound, func() error { _, err := c.Wait(t.Context(), name, "none", 0); return err }},
		{"Create", client.ErrProgramNotFound, func() error {
			_, err := c.Create(t.Context(), &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: []string{"no-such-program-here"}}})
			return err
		}},
	} {
		if err := call.call(); !errors.Is(err, call.want) {
			t.Errorf("%s: got %v, want %v", call.name, err, call.want)
		}
	}
}

func TestProcessIsDrivenFromStartToExit(t *testing.T) {
	c := dial(t)
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: []string{"cat"}}})
	p, err := c.Wait(t.Context(), session, "", 0)
	if err != nil || p.GetState() != pipedv1.Process_STATE_RUNNING {
		t.Fatalf("got %v, %v; want it running", p, err)
	}
	if err := c.Signal(t.Context(), session, "cat", "TERM"); err != nil {
		t.Fatal(err)
	}
	if p, err = c.Wait(t.Context(), session, "cat", client.Forever); err != nil || p.GetExit().GetSignal() != "TERM" {
		t.Errorf("got %v, %v; want signal TERM", p, err)
	}
	if _, err := c.Start(t.Context(), &pipedv1.StartProcessRequest{
		Session: session, Process: &pipedv1.ProcessSpec{Name: "second", Args: []string{"cat"}},
	}); err != nil {
		t.Fatal(err)
	}
	ended, err := c.Stop(t.Context(), &pipedv1.StopSessionRequest{Session: session})
	if err != nil || len(ended) == 0 || ended[len(ended)-1].GetName() != "second" || ended[len(ended)-1].GetExit().GetCode() != 0 {
		t.Errorf("got %v, %v; want second with exit 0", ended, err)
	}
	if err := c.Delete(t.Context(), session, false); err != nil {
		t.Error(err)
	}
}

func TestStopProcessStopsOneAndSaysHowFarItIs(t *testing.T) {
	c := dial(t)
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: []string{"sleep", "1000"}}})
	if _, err := c.Start(t.Context(), &pipedv1.StartProcessRequest{
		Session: session, Process: &pipedv1.ProcessSpec{Name: "other", Args: []string{"cat"}},
	}); err != nil {
		t.Fatal(err)
	}
	req := &pipedv1.StopProcessRequest{Session: session, Timeout: durationpb.New(0), Policy: &pipedv1.StopPolicy{CloseGrace: durationpb.New(time.Hour)}}
	p, err := c.StopProcess(t.Context(), req)
	if err != nil || p.GetState() != pipedv1.Process_STATE_RUNNING || p.GetStopping() == nil {
		t.Fatalf("got %v, %v; want it running, on its ladder", p, err)
	}
	p, err = c.StopProcess(t.Context(), &pipedv1.StopProcessRequest{Session: session, Policy: &pipedv1.StopPolicy{CloseGrace: durationpb.New(0)}})
	if err != nil || p.GetExit().GetSignal() != "TERM" || p.GetExit().GetCause() != pipedv1.Exit_CAUSE_STOPPED {
		t.Errorf("got %v, %v; want signal TERM, stopped", p, err)
	}
	if p, err := c.Wait(t.Context(), session, "other", 0); err != nil || p.GetState() != pipedv1.Process_STATE_RUNNING {
		t.Errorf("the other: got %v, %v; want it running", p, err)
	}
}

func TestPollSaysWhichEndsAreReady(t *testing.T) {
	c := dial(t)
	one, two := newPipe(t, c, "line")
	pipe, err := c.CreatePipe(t.Context(), &pipedv1.CreatePipeRequest{Session: one.Ref().Session, Pipe: &pipedv1.PipeSpec{Name: "idle"}})
	if err != nil {
		t.Fatal(err)
	}
	refs := []client.Ref{{Session: one.Ref().Session, Pipe: pipe.GetName(), End: 1}, two.Ref()}
	began := time.Now()
	if ready, err := c.Poll(t.Context(), refs, 30*time.Millisecond); err != nil || len(ready) != 0 || time.Since(began) < 30*time.Millisecond {
		t.Errorf("before anything: %v, %v after %v", ready, err, time.Since(began))
	}
	send(t, one, "x")
	ready, err := c.Poll(t.Context(), refs, client.Forever)
	if err != nil || len(ready) != 1 || ready[0].GetIndex() != 1 || !ready[0].GetData() || ready[0].GetEnd() {
		t.Errorf("with a message: %v, %v", ready, err)
	}
	receive(t, two, 1)
	if err := one.CloseSend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if one, err := two.Poll(t.Context(), client.Forever); err != nil || !one.GetEnd() || one.GetMessage() {
		t.Errorf("at the end: %v, %v", one, err)
	}
}

func TestCloseReportsWhatWasSentAndHowTheProcessEnded(t *testing.T) {
	c := dial(t)
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: []string{"cat"}}})
	e := c.Endpoint(client.Ref{Session: session})
	send(t, e, "ab", "c")
	result, err := e.Close(t.Context(), client.CloseOptions{SendOnly: true, WaitExit: true})
	if err != nil {
		t.Fatal(err)
	}
	if result.Sent.GetBytes() != 5 || result.Sent.GetPosition().GetMessage() != 3 {
		t.Errorf("sent: %v, want 5 bytes up to message 3", result.Sent)
	}
	if len(result.Exits) != 1 || result.Exits[0].GetExit().GetCode() != 0 || result.Exits[0].GetState() != pipedv1.Process_STATE_EXITED {
		t.Errorf("exits: %v, want cat with 0", result.Exits)
	}
	if got := receive(t, e, 2); got != "ab c" {
		t.Errorf("got %q", got)
	}
}
