package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A pen is the right to send into an end. It can be lost to another client, and
// then nothing is sent any more.
type pen struct {
	*attachment
	endpoint *client.Endpoint
	// line is what was typed of a line; it belongs to the goroutine that reads.
	line []byte

	// mu guards what follows.
	mu sync.Mutex
	// writer is nil when the pen is not held.
	writer *client.Writer
	// lostTo is why it is not held any more; nil when it was put down.
	lostTo error
	// told says that the user knows that what is typed goes nowhere.
	told bool
}

// open takes the pen.
func (p *pen) open(ctx context.Context) error {
	token, err := p.opts.lease.matching(pipedv1.LeaseRole_LEASE_ROLE_WRITER)
	if err != nil {
		return err
	}
	w, err := p.endpoint.NewWriter(ctx, client.WriterOptions{
		ID: p.name, LeaseToken: token, LeaseDuration: noLease, Steal: p.opts.lease.steal, ReconnectFor: p.patience(),
	})
	if err != nil {
		return err
	}
	p.writer = w
	return nil
}

func (p *pen) current() *client.Writer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.writer
}

func (p *pen) held() bool { return p.current() != nil }

// lost says whether somebody took the pen away.
func (p *pen) lost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lostTo != nil
}

// take sends input: in raw as it comes, else each line as a message.
func (p *pen) take(ctx context.Context, data []byte) error {
	w := p.current()
	if w == nil {
		return p.refuse(data)
	}
	if w.Raw() {
		return p.check(w, w.Send(ctx, data))
	}
	p.line = append(p.line, data...)
	for {
		line, rest, whole := bytes.Cut(p.line, []byte{'\n'})
		if !whole {
			return nil
		}
		if err := p.check(w, w.Send(ctx, line)); err != nil {
			return err
		}
		// Moved, so that the memory of a long input is used again.
		p.line = p.line[:copy(p.line, rest)]
	}
}

// refuse says, once, that input goes nowhere. A script must know: what it wrote
// is not where it belongs.
func (p *pen) refuse(data []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case len(data) == 0 || p.told && p.terminal != nil:
		return nil
	case p.terminal == nil && p.lostTo != nil:
		return fmt.Errorf("the rest of stdin was not sent: %w", p.lostTo)
	case p.terminal == nil:
		return nil
	}
	p.told = true
	p.f.tell("note", fmt.Sprintf("nothing that is typed is sent; %s leaves", p.opts.keys.text))
	return nil
}

// check looks at what sending through w came to; losing the pen is no error.
func (p *pen) check(w *client.Writer, err error) error {
	switch {
	case err == nil:
		return nil
	case isTaken(err):
		p.lose(w, winner(err), err)
		if p.terminal != nil {
			return nil
		}
		return fmt.Errorf("the rest of stdin was not sent: %w", err)
	case errors.Is(err, client.ErrBrokenPipe), errors.Is(err, client.ErrEndpointClosed):
		if p.drop(w, nil) && p.terminal != nil {
			p.f.tell("note", "the program takes no more input")
		}
		return nil
	default:
		return err
	}
}

// lose says who has the pen now.
func (p *pen) lose(w *client.Writer, to string, err error) {
	if p.drop(w, err) {
		p.f.tell("note", fmt.Sprintf("%s has the pen now, and you only look on; to take it back: %s --steal", to, p.comeBack()))
	}
}

// drop forgets w, for a reason, and says whether it was held until now.
func (p *pen) drop(w *client.Writer, reason error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writer != w {
		return false
	}
	p.writer, p.lostTo = nil, reason
	return true
}

// isTaken says whether another client has taken a right away: by force, or while
// the connection was lost.
func isTaken(err error) bool {
	for _, reason := range []client.Reason{client.ErrFenced, client.ErrSuperseded, client.ErrBusyWriter, client.ErrBusyReader} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

// winner names the client that took a right away, as far as the error knows.
func winner(err error) string {
	if known, ok := errors.AsType[*client.Error](err); ok {
		if name := cmp.Or(known.Metadata["by"], known.Metadata["client"]); name != "" {
			return printable(name)
		}
	}
	return "another client"
}

// watch tells of w's loss also while nothing is typed.
func (p *pen) watch(ctx context.Context, w *client.Writer) {
	// With what is retained: it may have been lost already.
	req := &pipedv1.WatchSessionsRequest{NamePrefix: p.session, Retained: true}
	for resp, err := range p.client.Watch(ctx, req) {
		if err != nil {
			return // the next line that is typed finds it out
		}
		event, had := resp.GetEvent(), w.Lease()
		if event.GetType() != pipedv1.SessionEvent_TYPE_LEASE_LOST || had == nil {
			continue
		}
		here := event.GetPipe() == p.pipe && int(event.GetEnd()) == max(p.ref.End, 1)
		if lost := event.GetLease(); here && lost.GetRole() == had.Role() && lost.GetEpoch() == had.Epoch() {
			to := printable(cmp.Or(event.GetDetail(), "another client"))
			p.lose(w, to, fmt.Errorf("%s took the pen: %w", to, client.ErrFenced))
			return
		}
	}
}

// put sends what is left, puts the pen down, and closes the program's input if
// that is wanted.
func (p *pen) put(ctx context.Context, closeInput bool) error {
	w := p.current()
	if w == nil {
		return nil
	}
	if len(p.line) > 0 {
		line := p.line
		p.line = nil
		if err := p.check(w, w.Send(ctx, line)); err != nil {
			return err
		}
	}
	if err := p.check(w, w.Close(ctx)); err != nil || !p.drop(w, nil) || !closeInput {
		return err
	}
	err := p.endpoint.CloseSend(ctx)
	if errors.Is(err, client.ErrTerminalRaw) {
		p.f.tell("note", "stdin has ended, and the program's terminal is in raw mode, which has no end of input")
		return nil
	}
	if errors.Is(err, client.ErrBrokenPipe) || errors.Is(err, client.ErrEndpointClosed) {
		return nil
	}
	return err
}

// close puts the pen down; what was sent before is confirmed.
func (p *pen) close(ctx context.Context) error {
	w := p.current()
	if w == nil {
		return nil
	}
	return p.check(w, w.Close(ctx))
}
