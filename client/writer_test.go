//go:build linux

package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestWriterKeepsTheOrderOfEachSender(t *testing.T) {
	one, two := newPipe(t, dial(t), "line")
	const senders, each = 8, 2000
	w := newWriter(t, one, client.WriterOptions{})
	var sending sync.WaitGroup
	for sender := range senders {
		sending.Go(func() {
			for i := range each {
				if err := w.Send(t.Context(), fmt.Appendf(nil, "%d %d", sender, i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	r := newReader(t, two, client.ReaderOptions{})
	var next [senders]int
	for number := uint64(1); number <= senders*each; number++ {
		m, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var sender, i int
		if _, err := fmt.Sscanf(string(m.Data), "%d %d", &sender, &i); err != nil || m.Position.Message != number || i != next[sender] {
			t.Fatalf("message %d is number %v, %q: want the %dth of that sender", number, m.Position, m.Data, next[sender])
		}
		next[sender]++
		if err := r.Ack(m.After); err != nil {
			t.Fatal(err)
		}
	}
	sending.Wait()
	closeAll(t, w, r)
}

func TestLargeMessagesTravelInParts(t *testing.T) {
	c := dial(t)
	limits, err := c.Limits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	part := int(limits.GetPartSize())
	for _, framing := range []string{"mp", "line"} {
		for _, size := range []int{0, 1, part - 1, part, part + 1, 2 * part, 5*part + 3} {
			t.Run(fmt.Sprintf("%s %d bytes", framing, size), func(t *testing.T) {
				one, two := newPipe(t, c, framing)
				msg := bytes.Repeat([]byte("0123456789abcde."), size/16+1)[:size]
				w := newWriter(t, one, client.WriterOptions{})
				var sending sync.WaitGroup
				sending.Go(func() {
					err := errors.Join(
						w.Send(t.Context(), msg),
						w.SendReader(t.Context(), iotest.HalfReader(bytes.NewReader(msg)), int64(size)),
						w.Send(t.Context(), []byte("small")),
						w.Close(t.Context()))
					if err != nil {
						t.Error(err)
					}
				})
				r := newReader(t, two, client.ReaderOptions{})
				if m, err := r.Next(t.Context()); err != nil || !bytes.Equal(m.Data, msg) || m.More || m.TotalSize != uint64(size) {
					t.Errorf("joined: %d bytes of %d, more %v, %v", len(m.Data), m.TotalSize, m.More, err)
				}
				got := nextParts(t, r, part)
				if !bytes.Equal(got, msg) {
					t.Errorf("in parts: %d bytes differ", len(got))
				}
				if m, err := r.Next(t.Context()); err != nil || string(m.Data) != "small" || m.Position.Message != 3 {
					t.Errorf("after them: %v %q, %v", m.Position, m.Data, err)
				}
				sending.Wait()
				closeAll(t, r)
			})
		}
	}
}

// nextParts receives one message by parts, and acknowledges each.
func nextParts(t *testing.T, r *client.Reader, part int) []byte {
	t.Helper()
	var got []byte
	for more := true; more; {
		m, err := r.NextPart(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if m.Position.Offset != uint64(len(got)) || len(m.Data) > part {
			t.Fatalf("a part of %d bytes at %v, after %d", len(m.Data), m.Position, len(got))
		}
		got, more = append(got, m.Data...), m.More
		if err := r.Ack(m.After); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

func TestEndpointSendTakesAnySize(t *testing.T) {
	one, two := newPipe(t, dial(t), "mp")
	for _, size := range []int{0, 5, 3 << 20} {
		msg := bytes.Repeat([]byte{7}, size)
		if err := one.Send(t.Context(), msg); err != nil {
			t.Fatal(err)
		}
		r := newReader(t, two, client.ReaderOptions{AutoAck: true})
		if m, err := r.Next(t.Context()); err != nil || !bytes.Equal(m.Data, msg) {
			t.Errorf("%d bytes: got %d, %v", size, len(m.Data), err)
		}
		closeAll(t, r)
	}
}

func TestWriterWithTheSameIDGoesOn(t *testing.T) {
	c := dial(t)
	one, two := newPipe(t, c, "line")
	w := newWriter(t, one, client.WriterOptions{ID: "me"})
	for _, msg := range []string{"a", "b", "c"} {
		if err := w.Send(t.Context(), []byte(msg)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := newWriter(t, one, client.WriterOptions{ID: "me"})
	if want := (client.Position{Message: 4}); again.Next().Compare(want) != 0 {
		t.Errorf("goes on at %v, want %v", again.Next(), want)
	}
	// The older stream of the same writer is told.
	if err := w.Close(t.Context()); !errors.Is(err, client.ErrFenced) {
		t.Errorf("the older one: got %v, want ErrFenced", err)
	}
	if _, err := one.NewWriter(t.Context(), client.WriterOptions{ID: "other"}); !errors.Is(err, client.ErrBusyWriter) {
		t.Errorf("another writer: got %v, want ErrBusyWriter", err)
	}
	if err := again.Send(t.Context(), []byte("d")); err != nil {
		t.Fatal(err)
	}
	closeAll(t, again)
	if got := receive(t, two, 4); got != "a b c d" {
		t.Errorf("got %q", got)
	}
	if _, err := one.NewWriter(t.Context(), client.WriterOptions{ID: "me", Epoch: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := one.NewWriter(t.Context(), client.WriterOptions{ID: "me", Epoch: 1}); !errors.Is(err, client.ErrFenced) {
		t.Errorf("an older epoch: got %v, want ErrFenced", err)
	}
}

// receive receives and acknowledges n messages, joined by spaces.
func receive(t *testing.T, e *client.Endpoint, n int) string {
	t.Helper()
	r := newReader(t, e, client.ReaderOptions{})
	var got []string
	for range n {
		m, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(m.Data))
		if err := r.Ack(m.After); err != nil {
			t.Fatal(err)
		}
	}
	closeAll(t, r)
	return strings.Join(got, " ")
}

func TestUnfinishedMessageIsContinued(t *testing.T) {
	c := dial(t)
	limits, err := c.Limits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	part := limits.GetPartSize()
	for name, resumed := range map[string]bool{"by the same writer": false, "by the next one": true} {
		t.Run(name, func(t *testing.T) {
			one, two := newPipe(t, c, "mp")
			msg := bytes.Repeat([]byte("0123456789abcdef"), int(part)/4)
			broken := errors.New("broken disk")
			w := newWriter(t, one, client.WriterOptions{})
			source := io.MultiReader(bytes.NewReader(msg[:2*part+5]), iotest.ErrReader(broken))
			if err := w.SendReader(t.Context(), source, int64(len(msg))); !errors.Is(err, broken) {
				t.Fatalf("got %v, want %v", err, broken)
			}
			if resumed {
				closeAll(t, w)
				w = newWriter(t, one, client.WriterOptions{})
			}
			u := w.Unfinished()
			if u.GetHave() != 2*part || u.GetTotal() != uint64(len(msg)) {
				t.Fatalf("unfinished %v, want %d of %d", u, 2*part, len(msg))
			}
			if err := w.Send(t.Context(), []byte("x")); !errors.Is(err, client.ErrUnfinishedMessage) {
				t.Errorf("another message: got %v, want ErrUnfinishedMessage", err)
			}
			var receiving sync.WaitGroup
			receiving.Go(func() {
				r := newReader(t, two, client.ReaderOptions{})
				if m, err := r.Next(t.Context()); err != nil || !bytes.Equal(m.Data, msg) {
					t.Errorf("got %d bytes, %v", len(m.Data), err)
				}
				closeAll(t, r)
			})
			if err := w.Continue(t.Context(), bytes.NewReader(msg[u.GetHave():])); err != nil {
				t.Error(err)
			}
			closeAll(t, w)
			receiving.Wait()
		})
	}
}

// lineProcess is a program whose standard input and output have the framing line.
func lineProcess(args ...string) *pipedv1.CreateSessionRequest {
	f := &pipedv1.Framing{Name: "line"}
	return &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
		Args: args, StdioPipe: &pipedv1.PipeSpec{FramingIn: f, FramingOut: f},
	}}
}

// What was acknowledged stays a success when the other side is gone afterwards.
func TestFlushAndCloseSucceedWhenAllWasAcknowledgedBeforeTheEnd(t *testing.T) {
	for _, level := range []pipedv1.AckLevel{
		pipedv1.AckLevel_ACK_LEVEL_COMMITTED, pipedv1.AckLevel_ACK_LEVEL_DELIVERED, pipedv1.AckLevel_ACK_LEVEL_READ,
	} {
		t.Run(level.String(), func(t *testing.T) {
			c := dial(t)
			session := create(t, c, lineProcess("sh", "-c", "read a; read b"))
			w := newWriter(t, c.Endpoint(client.Ref{Session: session}), client.WriterOptions{Level: level})
			for _, msg := range []string{"a", "b"} {
				if err := w.Send(t.Context(), []byte(msg)); err != nil {
					t.Fatal(err)
				}
			}
			// A source that breaks at once sends nothing, but says whether the Writer has
			// ended.
			broken := errors.New("broken")
			var ended error
			if err := until(t.Context(), func() bool {
				ended = w.SendReader(t.Context(), iotest.ErrReader(broken), 1)
				return !errors.Is(ended, broken)
			}); err != nil || !errors.Is(ended, client.ErrBrokenPipe) {
				t.Fatalf("the Writer ended with %v, want ErrBrokenPipe: %v", ended, err)
			}
			if err := w.Flush(t.Context()); err != nil {
				t.Errorf("Flush: %v", err)
			}
			if err := w.Send(t.Context(), []byte("late")); !errors.Is(err, client.ErrBrokenPipe) {
				t.Errorf("Send: got %v, want ErrBrokenPipe", err)
			}
			closeAll(t, w)
		})
	}
}

func TestSendIsReleasedWhileNobodyReads(t *testing.T) {
	c := dial(t)
	e := c.Endpoint(client.Ref{Session: create(t, c, lineProcess("sleep", "60"))})
	w := newWriter(t, e, client.WriterOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	msg := bytes.Repeat([]byte("x"), 64<<10)
	var err error
	for err == nil {
		err = w.Send(ctx, msg)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Send: got %v, want DeadlineExceeded", err)
	}
	if err := w.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Flush: got %v, want DeadlineExceeded", err)
	}
	// Close of the endpoint releases the writer too.
	if _, err := e.Close(t.Context(), client.CloseOptions{Discard: true}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(t.Context()); !errors.Is(err, client.ErrEndpointClosed) {
		t.Errorf("Close: got %v, want ErrEndpointClosed", err)
	}
}

func TestWriterCutByItsContextReleasesEverything(t *testing.T) {
	// Its other end is held by a program that reads nothing.
	e := dial(t).Endpoint(client.Ref{Session: create(t, dial(t), lineProcess("sleep", "60"))})
	ctx, cancel := context.WithCancel(t.Context())
	w, err := e.NewWriter(ctx, client.WriterOptions{Level: pipedv1.AckLevel_ACK_LEVEL_READ})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := w.Close(t.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	if err := w.Send(t.Context(), nil); err == nil {
		t.Error("Send after Close: got nil")
	}
}

func TestLossOfTheDaemonComesOutAsUnavailableAfterAWhile(t *testing.T) {
	addr := "unix://" + shortDir(t) + "/s"
	stop, err := startDaemon(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stop(os.Kill) }()
	c, err := client.Dial(t.Context(), addr, client.RepeatFor(300*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	one, two := newPipe(t, c, "line")
	w := newWriter(t, one, client.WriterOptions{ReconnectFor: 300 * time.Millisecond})
	r := newReader(t, two, client.ReaderOptions{ReconnectFor: 100 * time.Millisecond})
	if err := killBoth(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(t.Context()); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("Next: got %v, want ErrUnavailable", err)
	}
	if err := w.Send(t.Context(), []byte("x")); err != nil && !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("Send: got %v, want ErrUnavailable", err)
	}
	if err := w.Close(t.Context()); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("Writer.Close: got %v, want ErrUnavailable", err)
	}
	if err := r.Close(t.Context()); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("Reader.Close: got %v, want ErrUnavailable", err)
	}
	if _, err := c.Get(t.Context(), "x"); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("Get: got %v, want ErrUnavailable", err)
	}
}
