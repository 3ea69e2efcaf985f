//go:build linux

package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestUnacknowledgedMessagesGoToTheNextReader(t *testing.T) {
	one, two := newPipe(t, dial(t), "line")
	send(t, one, "a", "b", "c")
	r := newReader(t, two, client.ReaderOptions{})
	var last client.Message
	for _, want := range []string{"a", "b"} {
		m, err := r.Next(t.Context())
		if err != nil || string(m.Data) != want {
			t.Fatalf("got %q, %v; want %q", m.Data, err, want)
		}
		if want == "a" {
			last = m
		}
	}
	if err := r.Ack(last.After); err != nil {
		t.Fatal(err)
	}
	closeAll(t, r)
	if got := receive(t, two, 2); got != "b c" {
		t.Errorf("the next reader got %q, want b c", got)
	}
}

func TestAcknowledgementIsCertainAfterClose(t *testing.T) {
	one, two := newPipe(t, dial(t), "line")
	const n = 200
	for i := range n {
		send(t, one, fmt.Sprint(i))
	}
	for i := range n {
		if got := receive(t, two, 1); got != fmt.Sprint(i) {
			t.Fatalf("got %s, want %d", got, i)
		}
	}
}

func TestCutReaderLosesNothing(t *testing.T) {
	one, two := newPipe(t, dial(t), "line")
	send(t, one, "a", "b")
	ctx, cancel := context.WithCancel(t.Context())
	r, err := two.NewReader(ctx, client.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := r.Next(t.Context()); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	_ = r.Close(t.Context())
	// The daemon may still be about to see the cut.
	var again *client.Reader
	if err := until(t.Context(), func() bool {
		again, err = two.NewReader(t.Context(), client.ReaderOptions{})
		return !errors.Is(err, client.ErrBusyReader)
	}); err != nil || again == nil {
		t.Fatal(err)
	}
	if m, err := again.Next(t.Context()); err != nil || string(m.Data) != "a" {
		t.Errorf("got %q, %v; want a", m.Data, err)
	}
	closeAll(t, again)
}

func TestNextIsReleasedByItsContextAndGoesOn(t *testing.T) {
	one, two := newPipe(t, dial(t), "line")
	r := newReader(t, two, client.ReaderOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := r.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
	send(t, one, "late")
	if m, err := r.Next(t.Context()); err != nil || string(m.Data) != "late" {
		t.Errorf("got %q, %v; want late", m.Data, err)
	}
	closeAll(t, r)
	if _, err := r.Next(t.Context()); !errors.Is(err, client.ErrClosed) {
		t.Errorf("after Close: got %v, want ErrClosed", err)
	}
}

func TestEveryReaderGetsTheEndOnceAndInFull(t *testing.T) {
	one, two := newPipe(t, dial(t), "line")
	send(t, one, "a", "b")
	if _, err := one.Close(t.Context(), client.CloseOptions{Wait: true}); err != nil {
		t.Fatal(err)
	}
	observer := newReader(t, two, client.ReaderOptions{Observe: true})
	consumer := newReader(t, two, client.ReaderOptions{})
	for name, r := range map[string]*client.Reader{"observer": observer, "consumer": consumer} {
		for range 2 {
			m, err := r.Next(t.Context())
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := r.Ack(m.After); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if _, err := r.Next(t.Context()); !errors.Is(err, io.EOF) {
				t.Errorf("%s: got %v, want EOF", name, err)
			}
		}
		end := r.End()
		if end.GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED || end.GetPosition().GetMessage() != 3 || end.GetBytes() != 4 {
			t.Errorf("%s: the end is %v", name, end)
		}
		closeAll(t, r)
	}
	late := newReader(t, two, client.ReaderOptions{})
	if _, err := late.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("a late reader: got %v, want EOF", err)
	}
	closeAll(t, late)
}

func TestLineWithoutNewlineIsPartialAndTheEndIsWhole(t *testing.T) {
	c := dial(t)
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: []string{"printf", `one\ntwo`}}})
	r := newReader(t, c.Endpoint(client.Ref{Session: session}), client.ReaderOptions{})
	for _, want := range []struct {
		text    string
		partial bool
	}{{"one", false}, {"two", true}} {
		m, err := r.Next(t.Context())
		if err != nil || string(m.Data) != want.text || m.Partial != want.partial {
			t.Errorf("got %q, partial %v, %v; want %v", m.Data, m.Partial, err, want)
		}
	}
	if _, err := r.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want EOF", err)
	}
	closeAll(t, r)
}

func TestTruncatedFrameIsDeliveredMarked(t *testing.T) {
	c := dial(t)
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
		Args:      []string{"printf", `\0\0\0\2ok\0\0\0\11cut`},
		StdioPipe: &pipedv1.PipeSpec{FramingOut: &pipedv1.Framing{Name: "mp"}},
	}})
	through, p := throughProxy(t)
	e := through.Endpoint(client.Ref{Session: session})
	for _, test := range []struct {
		name string
		opts client.ReaderOptions
		acks bool
	}{
		{name: "observer", opts: client.ReaderOptions{Observe: true}},
		{name: "consumer that acknowledges nothing"},
		{name: "consumer", acks: true},
	} {
		name, r := test.name, newReader(t, e, test.opts)
		if m := next(t, r); string(m.Data) != "ok" || m.Truncated {
			t.Errorf("%s: got %q, truncated %v", name, m.Data, m.Truncated)
		}
		m := next(t, r)
		if string(m.Data) != "cut" || !m.Truncated || m.TotalSize != 9 || m.After.Message != 2 || m.After.Offset != 3 {
			t.Errorf("%s: got %q of %d, truncated %v, up to %v; want cut of 9, 2+3", name, m.Data, m.TotalSize, m.Truncated, m.After)
		}
		p.cutAll(false)
		if test.acks {
			if err := r.Ack(m.After); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := r.Next(t.Context()); !errors.Is(err, io.EOF) || r.End().GetCause() != pipedv1.EndCause_END_CAUSE_TRUNCATED {
			t.Errorf("%s: got %v, end %v", name, err, r.End())
		}
		closeAll(t, r)
	}
}

func TestMessageAboveTheJoinLimitComesInPieces(t *testing.T) {
	one, two := newPipe(t, dial(t), "mp")
	msg := bytes.Repeat([]byte("x"), 3<<20+5)
	sent := make(chan error, 1)
	go func() { sent <- one.Send(t.Context(), msg) }()
	r := newReader(t, two, client.ReaderOptions{MaxMessageSize: 2 << 20})
	first, err := r.Next(t.Context())
	if err != nil || len(first.Data) != 2<<20 || !first.More {
		t.Fatalf("got %d bytes, more %v, %v", len(first.Data), first.More, err)
	}
	rest, err := r.Next(t.Context())
	if err != nil || rest.More || rest.Position.Offset != 2<<20 || !bytes.Equal(append(first.Data, rest.Data...), msg) {
		t.Errorf("got %d bytes at %v, more %v, %v", len(rest.Data), rest.Position, rest.More, err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	closeAll(t, r)
}

func TestTooLongMessageIsRefusedAndStays(t *testing.T) {
	one, two := newPipe(t, dial(t), "line")
	send(t, one, "far too long")
	r := newReader(t, two, client.ReaderOptions{RefuseLonger: 3})
	if _, err := r.Next(t.Context()); !errors.Is(err, client.ErrMessageTooLong) {
		t.Errorf("got %v, want ErrMessageTooLong", err)
	}
	if err := r.Close(t.Context()); !errors.Is(err, client.ErrMessageTooLong) {
		t.Errorf("Close: got %v, want ErrMessageTooLong", err)
	}
	if got := receive(t, two, 1); got != "far too long" {
		t.Errorf("got %q", got)
	}
}

func TestSecondConsumerIsRefusedUnlessItIsTheSame(t *testing.T) {
	_, two := newPipe(t, dial(t), "line")
	r := newReader(t, two, client.ReaderOptions{ConsumerID: "me"})
	if _, err := two.NewReader(t.Context(), client.ReaderOptions{}); !errors.Is(err, client.ErrBusyReader) {
		t.Errorf("got %v, want ErrBusyReader", err)
	}
	again := newReader(t, two, client.ReaderOptions{ConsumerID: "me"})
	if _, err := r.Next(t.Context()); !errors.Is(err, client.ErrFenced) {
		t.Errorf("the older one: got %v, want ErrFenced", err)
	}
	_ = r.Close(t.Context())
	closeAll(t, again)
}

func TestStopAtNowEndsWithoutTheEnd(t *testing.T) {
	one, two := newPipe(t, dial(t), "line")
	send(t, one, "a")
	if _, err := two.Poll(t.Context(), client.Forever); err != nil {
		t.Fatal(err)
	}
	consumer := newReader(t, two, client.ReaderOptions{})
	if _, err := consumer.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := newReader(t, two, client.ReaderOptions{Observe: true, StopAtNow: true})
	if m, err := r.Next(t.Context()); err != nil || string(m.Data) != "a" {
		t.Errorf("got %q, %v", m.Data, err)
	}
	if _, err := r.Next(t.Context()); !errors.Is(err, io.EOF) || r.End() != nil {
		t.Errorf("got %v, end %v; want EOF without an end", err, r.End())
	}
	closeAll(t, r, consumer)
}

func send(t *testing.T, e *client.Endpoint, msgs ...string) {
	t.Helper()
	w := newWriter(t, e, client.WriterOptions{})
	for _, msg := range msgs {
		if err := w.Send(t.Context(), []byte(msg)); err != nil {
			t.Fatal(err)
		}
	}
	closeAll(t, w)
}

func TestDroppedMessagesAreAGapAndNeverSilent(t *testing.T) {
	c := dial(t)
	limits, err := c.Limits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// More than the log of stderr holds, which drops its oldest.
	lines := int(limits.GetLogSize()/8) + 100_000
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
		Args: []string{"sh", "-c", fmt.Sprintf("echo 0000001 >&2; read go; seq -f %%07.0f 2 %d >&2", lines)},
	}})
	r := newReader(t, c.Endpoint(client.Ref{Session: session, Pipe: "stderr"}), client.ReaderOptions{MaxUnackedMessages: 4096})
	next, gaps := uint64(1), 0
	for {
		m, err := r.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if gap, ok := errors.AsType[*client.GapError](err); ok {
			if gap.From.Message != next || gap.To.Message <= next {
				t.Fatalf("a gap from %v to %v, at %d", gap.From, gap.To, next)
			}
			next, gaps = gap.To.Message, gaps+1
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("%07d", next); string(m.Data) != want || m.Position.Message != next {
			t.Fatalf("message %v is %q, want %s", m.Position, m.Data, want)
		}
		if next++; m.Position.Message == 1 {
			// It writes while nothing is asked for.
			send(t, c.Endpoint(client.Ref{Session: session}), "go")
			if _, err := c.Wait(t.Context(), session, "", client.Forever); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Ack(m.After); err != nil {
			t.Fatal(err)
		}
	}
	if gaps == 0 || next != uint64(lines)+1 {
		t.Errorf("%d gaps, next is %d, want at least one, and %d", gaps, next, lines+1)
	}
	closeAll(t, r)
}

// Next joins a message, and the consumer is killed before the rest has come.
func TestConsumerKilledWhileJoiningTearsNoMessageSilently(t *testing.T) {
	one, two := newPipe(t, dial(t), "mp")
	w := newWriter(t, one, client.WriterOptions{})
	body := bytes.Repeat([]byte("x"), 300<<10)
	rest, sink := io.Pipe()
	sent := make(chan error, 1)
	go func() { sent <- w.SendReader(t.Context(), rest, int64(len(body))) }()
	if _, err := sink.Write(body[:256<<10+1]); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, err := two.NewReader(ctx, client.ReaderOptions{ConsumerID: "c"})
	if err != nil {
		t.Fatal(err)
	}
	short, stop := context.WithTimeout(ctx, 500*time.Millisecond)
	if _, err := r.Next(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("while the rest is not there: got %v", err)
	}
	stop()
	cancel() // killed
	_ = r.Close(t.Context())
	if _, err := sink.Write(body[256<<10+1:]); err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	r2 := newReader(t, two, client.ReaderOptions{ConsumerID: "c"})
	m, err := r2.Next(t.Context())
	if gap, ok := errors.AsType[*client.GapError](err); ok {
		if gap.From.Message != 1 || gap.From.Offset != 0 || gap.To.Message != 1 || gap.To.Offset == 0 {
			t.Errorf("a gap from %v to %v", gap.From, gap.To)
		}
		m = next(t, r2)
		if m.Position != gap.To || int(gap.To.Offset)+len(m.Data) != len(body) {
			t.Errorf("%d bytes at %v after a gap to %v", len(m.Data), m.Position, gap.To)
		}
	} else if err != nil || len(m.Data) != len(body) {
		t.Errorf("got %d of %d bytes at %v, error %v", len(m.Data), len(body), m.Position, err)
	}
	closeAll(t, r2, w)
}

func TestNextGivesTheDaemonRoomWhereTheLogIsSmall(t *testing.T) {
	c := dial(t)
	f := &pipedv1.Framing{Name: "mp"}
	session := create(t, c, &pipedv1.CreateSessionRequest{Pipes: []*pipedv1.PipeSpec{{FramingIn: f, FramingOut: f, Log: &pipedv1.LogSpec{Size: 64 << 10}}}})
	w := newWriter(t, c.Endpoint(client.Ref{Session: session, End: 1}), client.WriterOptions{})
	r := newReader(t, c.Endpoint(client.Ref{Session: session, End: 2}), client.ReaderOptions{})
	body := bytes.Repeat([]byte("x"), 1<<20)
	sent := make(chan error, 1)
	go func() { sent <- w.Send(t.Context(), body) }()
	if m := next(t, r); !bytes.Equal(m.Data, body) {
		t.Errorf("got %d bytes", len(m.Data))
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	closeAll(t, r, w)
}
