package children

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A puppet is a child that does what it is told: one command after another, over a
// pipe "ctl" at descriptor 5. It has standard streams, and a socket "pipe" at
// descriptor 3.
type puppet struct {
	h       *host
	t       testing.TB
	name    string
	ctx     context.Context //nolint:containedctx // of a test
	answers *client.Reader
	// ended are the last words of its directions, as they are told.
	ended chan *pipedv1.SessionEvent
}

// puppet starts one, which goes with the test.
func (h *host) puppet(t testing.TB, name string) *puppet {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	p := &puppet{h: h, t: t, name: name, ctx: ctx, ended: make(chan *pipedv1.SessionEvent, 16)}
	process := h.plays("puppet", "5")
	process.Inherits = []*pipedv1.Inherit{gives("pipe", 3), gives("ctl", 5)}
	if _, err := h.c.Create(ctx, &pipedv1.CreateSessionRequest{Name: name, Process: process,
		Pipes: []*pipedv1.PipeSpec{framed("pipe", "line"), framed("ctl", "line")}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cleanup, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := h.c.Delete(cleanup, name, true); err != nil {
			t.Errorf("delete %s: %v", name, err)
		}
	})
	begun, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		p.watch(begun)
	}()
	t.Cleanup(func() { cancel(); <-over })
	var err error
	if p.answers, err = p.end("ctl").NewReader(ctx, client.ReaderOptions{AutoAck: true}); err != nil {
		t.Fatal(err)
	}
	<-begun
	return p
}

// watch passes on the last words of directions.
func (p *puppet) watch(begun chan struct{}) {
	for resp, err := range p.h.c.Watch(p.ctx, &pipedv1.WatchSessionsRequest{NamePrefix: p.name}) {
		switch {
		case err != nil:
			return // the end of the test
		case resp.GetSnapshotEnd() != nil:
			close(begun)
		case resp.GetEvent().GetType() == pipedv1.SessionEvent_TYPE_DIRECTION_ENDED:
			p.ended <- resp.GetEvent()
		}
	}
}

func (p *puppet) end(pipe string) *client.Endpoint {
	return p.h.c.Endpoint(client.Ref{Session: p.name, Pipe: pipe, End: 1})
}

// tell has it do one thing, and returns the result.
func (p *puppet) tell(format string, args ...any) (result int) {
	p.t.Helper()
	command := fmt.Sprintf(format, args...)
	if err := p.end("ctl").Send(p.ctx, []byte(command)); err != nil {
		p.t.Fatalf("%s: %v", command, err)
	}
	m, err := p.answers.Next(p.ctx)
	if err != nil {
		p.t.Fatalf("%s: %v", command, err)
	}
	if _, err := fmt.Sscanf(string(m.Data), "ok %d", &result); err != nil {
		p.t.Fatalf("%s: the puppet says %q", command, m.Data)
	}
	return result
}

// takes sends it a line, which it reads from a descriptor.
func (p *puppet) takes(pipe string, fd int) {
	p.t.Helper()
	if err := p.end(pipe).Send(p.ctx, []byte("a line")); err != nil {
		p.t.Errorf("into %s: %v", pipe, err)
		return
	}
	if n := p.tell("read %d 7", fd); n != len("a line\n") {
		p.t.Errorf("it read %d bytes from descriptor %d", n, fd)
	}
}

// breaks sends into an end that nobody reads.
func (p *puppet) breaks(pipe string) {
	p.t.Helper()
	if err := p.end(pipe).Send(p.ctx, []byte("to nobody")); !errors.Is(err, client.ErrBrokenPipe) {
		p.t.Errorf("into %s, which nobody reads: %v", pipe, err)
	}
}

// brings has it write a line to a descriptor, which comes out of a pipe.
func (p *puppet) brings(pipe string, fd int) {
	p.t.Helper()
	text := fmt.Sprintf("through %d", fd)
	p.tell("write %d 0 %s", fd, text)
	r, err := p.end(pipe).NewReader(p.ctx, client.ReaderOptions{})
	if err != nil {
		p.t.Errorf("out of %s: %v", pipe, err)
		return
	}
	m, err := r.Next(p.ctx)
	if err != nil || strings.TrimSpace(string(m.Data)) != text {
		p.t.Errorf("out of %s: %q, %v; want %q", pipe, m.Data, err, text)
		return
	}
	if err := r.Ack(m.After); err != nil {
		p.t.Error(err)
	}
	if err := r.Close(p.ctx); err != nil {
		p.t.Error(err)
	}
}

// silent says that no last word has been told.
func (p *puppet) silent(after string) {
	p.t.Helper()
	select {
	case e := <-p.ended:
		p.t.Errorf("after %s: %v", after, e)
	default:
	}
}

// A word is the last one of a direction.
type word struct {
	pipe  string
	sent  bool
	cause pipedv1.EndCause
}

// says waits for last words, in any order.
func (p *puppet) says(words ...word) {
	p.t.Helper()
	want := make(map[word]bool)
	for _, w := range words {
		want[w] = true
	}
	for len(want) > 0 {
		select {
		case e := <-p.ended:
			got := word{e.GetPipe(), e.GetFinal().GetSent(), e.GetFinal().GetLast().GetCause()}
			if !want[got] {
				p.t.Fatalf("%v is told, want %v", got, want)
			}
			delete(want, got)
		case <-time.After(patience):
			p.t.Fatalf("%v is not told", want)
		}
	}
}
