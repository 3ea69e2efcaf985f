package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A talk is a session whose child checks itself, and the client that checks the
// child. What is wrong stays in it; its methods are safe for concurrent use.
type talk struct {
	name string
	uid  string
	c    *client.Client
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu sync.Mutex
	// out is what came from the child, in what the child says of what came to it.
	out tally
	in  string
	// childNext is the next number that the child waits for, sent what it was sent.
	childNext, sent uint64
	// received is when the last message came, acked when the last one sent was
	// acknowledged; the pauses are the longest since begin.
	received, acked           time.Time
	receivedPause, ackedPause time.Duration
	finished                  bool
	closing                   bool
	err                       error
}

// startTalk makes the session and lets both sides talk until finish.
func startTalk(ctx context.Context, c *client.Client, name, program string) (*talk, error) {
	s, err := c.Create(ctx, &pipedv1.CreateSessionRequest{
		RequestId: name, Name: name, Labels: map[string]string{"made-by": "client"},
		Process: &pipedv1.ProcessSpec{
			Args: []string{program}, Env: []string{actorVariable + "=child"}, Stderr: pipedv1.StdioMode_STDIO_MODE_NULL,
			StdioPipe: &pipedv1.PipeSpec{FramingIn: &pipedv1.Framing{Name: "mp"}},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	t := &talk{name: name, uid: s.GetUid(), c: c, stop: stop}
	t.begin()
	t.wg.Go(func() { t.fail("send", t.send(ctx)) })
	t.wg.Go(func() { t.fail("receive", t.receive(ctx)) })
	return t, nil
}

func (t *talk) endpoint() *client.Endpoint { return t.c.Endpoint(client.Ref{Session: t.name}) }

// fail keeps the first error.
func (t *talk) fail(what string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil && t.err == nil && !errors.Is(err, context.Canceled) {
		t.err = fmt.Errorf("%s: %s: %w", t.name, what, err)
	}
}

// send sends a few messages every two milliseconds, and waits for their acknowledgement.
func (t *talk) send(ctx context.Context) error {
	w, err := t.endpoint().NewWriter(ctx, client.WriterOptions{ID: "w"})
	if err != nil {
		return err
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for n := uint64(1); ; {
		for range 4 {
			if err := w.Send(ctx, message(n, "to the child")); err != nil {
				return err
			}
			n++
		}
		if err := w.Flush(ctx); err != nil {
			return err
		}
		now := time.Now()
		t.mu.Lock()
		t.ackedPause, t.acked, t.sent = max(t.ackedPause, now.Sub(t.acked)), now, n-1
		closing := t.closing
		t.mu.Unlock()
		if closing {
			return errors.Join(w.Close(ctx), t.endpoint().CloseSend(ctx))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// receive checks what comes, until the last message of the child.
func (t *talk) receive(ctx context.Context) error {
	rd, err := t.endpoint().NewReader(ctx, client.ReaderOptions{ConsumerID: "r"})
	if err != nil {
		return err
	}
	for {
		m, err := rd.Next(ctx)
		if errors.Is(err, io.EOF) {
			return errors.New("the child ended without its last message")
		}
		if err != nil {
			return err
		}
		if len(m.Data) == 0 {
			t.mu.Lock()
			t.finished = true
			t.mu.Unlock()
			return rd.Close(ctx)
		}
		t.take(m.Data)
		if err := rd.Ack(m.After); err != nil {
			return err
		}
	}
}

func (t *talk) take(msg []byte) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.receivedPause, t.received = max(t.receivedPause, now.Sub(t.received)), now
	text := t.out.take(msg)
	if n, err := fmt.Sscan(text, &t.childNext); n != 1 || err != nil {
		t.out.Torn++
		return
	}
	t.in = text[len(fmt.Sprint(t.childNext))+1:]
}

// begin begins to measure pauses.
func (t *talk) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.received, t.acked, t.receivedPause, t.ackedPause = now, now, 0, 0
}

// flows waits until both directions have gone on after this moment: what was
// sent after it has come to the child, and the child has said so.
func (t *talk) flows() error {
	t.mu.Lock()
	want := t.sent + 1
	t.mu.Unlock()
	var err error
	if !await(func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		err = t.err
		return err != nil || t.childNext > want
	}) {
		t.mu.Lock()
		defer t.mu.Unlock()
		return fmt.Errorf("%s: nothing moves: sent and acknowledged %d, the child waits for %d, received up to %d", t.name, t.sent, t.childNext, t.out.Next)
	}
	return err
}

// report returns the zeros of both directions, and the longest pause since begin.
func (t *talk) report() (line string, pause time.Duration, wrong error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if zeros := (&tally{}).String(); t.in != zeros || t.out.faults() != 0 {
		wrong = fmt.Errorf("%s: not exact: into the child %s; out of it %v", t.name, t.in, &t.out)
	}
	return fmt.Sprintf("in: %s out: %v", t.in, &t.out), max(t.receivedPause, t.ackedPause), errors.Join(wrong, t.err)
}

// finish ends the input of the child and waits for its last words, which are
// about everything that was sent to it.
func (t *talk) finish() error {
	t.mu.Lock()
	t.closing = true
	t.mu.Unlock()
	done := await(func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.finished || t.err != nil
	})
	t.abandon()
	_, _, err := t.report()
	if !done {
		err = errors.Join(err, fmt.Errorf("%s: the child does not end", t.name))
	}
	if t.childNext != t.sent+1 {
		err = errors.Join(err, fmt.Errorf("%s: %d messages were sent, and the child has had %d", t.name, t.sent, t.childNext-1))
	}
	return err
}

// abandon stops the client; the session stays.
func (t *talk) abandon() {
	t.stop()
	t.wg.Wait()
}
