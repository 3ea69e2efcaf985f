package seed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// library drives with the Go client.
type library struct {
	t      testing.TB
	client *client.Client
}

// ctx returns a context that ends with the test, or when a call takes too long.
func (l *library) ctx() context.Context {
	ctx, cancel := context.WithTimeout(l.t.Context(), daemon.Patience)
	l.t.Cleanup(cancel)
	return ctx
}

// must fails the test on an error.
func (l *library) must(what string, err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatalf("%s: %v", what, err)
	}
}

func (l *library) endpoint(ref string) *client.Endpoint {
	l.t.Helper()
	r, err := client.ParseRef(ref)
	l.must("ref", err)
	return l.client.Endpoint(r)
}

func (l *library) create(req *pipedv1.CreateSessionRequest) {
	l.t.Helper()
	_, err := l.client.Create(l.ctx(), req)
	l.must("Create", err)
}

func (l *library) pipe(name, framing string) {
	l.t.Helper()
	l.create(&pipedv1.CreateSessionRequest{Name: name, Pipes: []*pipedv1.PipeSpec{
		{Name: "pipe", FramingIn: &pipedv1.Framing{Name: framing}},
	}})
}

func (l *library) start(name string, args ...string) {
	l.t.Helper()
	l.create(&pipedv1.CreateSessionRequest{
		Name:  name,
		Pipes: []*pipedv1.PipeSpec{{Name: "ctl", FramingIn: &pipedv1.Framing{Name: "mp"}}},
		Process: &pipedv1.ProcessSpec{
			Args:     args,
			Inherits: []*pipedv1.Inherit{{Pipe: "ctl", End: 2, Fd: 3, HandOver: true}},
		},
	})
}

func (l *library) filter(name string, args ...string) {
	l.t.Helper()
	l.create(&pipedv1.CreateSessionRequest{Name: name, Process: &pipedv1.ProcessSpec{Args: args}})
}

func (l *library) inherit(session string, args ...string) {
	l.t.Helper()
	_, err := l.client.Start(l.ctx(), &pipedv1.StartProcessRequest{Session: session, Process: &pipedv1.ProcessSpec{
		Args:     args,
		Inherits: []*pipedv1.Inherit{{Pipe: "pipe", End: 1, Fd: 3}, {Pipe: "pipe", End: 2, Fd: 4}},
	}})
	l.must("Start", err)
}

func (l *library) send(ref string, messages ...string) {
	l.t.Helper()
	w, err := l.endpoint(ref).NewWriter(l.ctx(), client.WriterOptions{})
	l.must("NewWriter", err)
	for _, m := range messages {
		l.must("Send", w.Send(l.ctx(), []byte(m)))
	}
	l.must("Writer.Close", w.Close(l.ctx()))
}

func (l *library) recv(ref string, n int) []string {
	l.t.Helper()
	r, err := l.endpoint(ref).NewReader(l.ctx(), client.ReaderOptions{MaxUnackedMessages: uint64(n)})
	l.must("NewReader", err)
	var all []string
	for range n {
		m, err := r.Next(l.ctx())
		l.must("Next", err)
		all = append(all, string(m.Data))
		l.must("Ack", r.Ack(m.After))
	}
	l.must("Reader.Close", r.Close(l.ctx()))
	return all
}

func (l *library) recvAll(ref string) []string {
	l.t.Helper()
	r, err := l.endpoint(ref).NewReader(l.ctx(), client.ReaderOptions{})
	l.must("NewReader", err)
	var all []string
	for {
		m, err := r.Next(l.ctx())
		if errors.Is(err, io.EOF) {
			break
		}
		l.must("Next", err)
		all = append(all, string(m.Data))
		l.must("Ack", r.Ack(m.After))
	}
	if end := r.End(); end.GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED {
		l.t.Errorf("the end of %s is %v, want CLOSED", ref, end)
	}
	l.must("Reader.Close", r.Close(l.ctx()))
	return all
}

func (l *library) ready(ref string) bool {
	l.t.Helper()
	readiness, err := l.endpoint(ref).Poll(l.ctx(), 0)
	l.must("Poll", err)
	return readiness != nil
}

func (l *library) closeEnd(ref string) {
	l.t.Helper()
	_, err := l.endpoint(ref).Close(l.ctx(), client.CloseOptions{Wait: true})
	l.must("Close", err)
}

func (l *library) closeSend(ref string) {
	l.t.Helper()
	l.must("CloseSend", l.endpoint(ref).CloseSend(l.ctx()))
}

func (l *library) inspect(session string) *pipedv1.Session {
	l.t.Helper()
	s, err := l.client.Inspect(l.ctx(), session)
	l.must("Get", err)
	return s
}

func (l *library) signal(session, signal string) {
	l.t.Helper()
	l.must("Signal", l.client.Signal(l.ctx(), session, "", signal))
}

func (l *library) wait(session string) string {
	l.t.Helper()
	p, err := l.client.Wait(l.ctx(), session, "", daemon.Patience)
	l.must("Wait", err)
	if name := p.GetExit().GetSignal(); name != "" {
		return "signal " + name
	}
	if p.GetExit() == nil {
		return "running"
	}
	return fmt.Sprintf("exit %d", p.GetExit().GetCode())
}
