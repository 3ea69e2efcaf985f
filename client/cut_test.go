//go:build linux

package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// throughProxy returns a client whose connections the test can cut.
func throughProxy(t testing.TB) (*client.Client, *proxy) {
	t.Helper()
	p := startProxy(t, daemonAddr, func(int) plan { return undisturbed })
	c := redial(t, p.addr)
	t.Cleanup(func() { _ = c.Close() })
	return c, p
}

func next(t *testing.T, r *client.Reader) client.Message {
	t.Helper()
	m, err := r.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestDialComesThroughTheDeathOfTheDaemonThatTookItsConnection(t *testing.T) {
	p := startProxy(t, daemonAddr, func(n int) plan {
		if n == 0 {
			return plan{cutUp: 0, cutDown: 0, chop: -1}
		}
		return undisturbed
	})
	c, err := client.Dial(t.Context(), p.addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestObserverGoesOnBehindTheLastMessage(t *testing.T) {
	echo := newEcho(t, "line")
	var want []string
	for i := range 300 {
		want = append(want, fmt.Sprint(i))
	}
	send(t, echo, want...)
	if err := echo.CloseSend(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, p := throughProxy(t)
	r := newReader(t, c.Endpoint(echo.Ref()), client.ReaderOptions{Observe: true, MaxUnackedBytes: 64})
	for i, text := range want {
		if m := next(t, r); string(m.Data) != text || m.Position.Message != uint64(i+1) {
			t.Fatalf("message %v is %q, want %q", m.Position, m.Data, text)
		}
		if i%100 == 50 {
			p.cutAll(false)
		}
	}
	if _, err := r.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want EOF", err)
	}
	closeAll(t, r)
}

func TestWhatAutoAckLosesIsAGap(t *testing.T) {
	echo := newEcho(t, "line")
	c, p := throughProxy(t)
	r := newReader(t, c.Endpoint(echo.Ref()), client.ReaderOptions{AutoAck: true})
	const n = 20_000
	sent := make(chan error, 1)
	go func() {
		w, err := echo.NewWriter(t.Context(), client.WriterOptions{})
		for i := 1; i <= n && err == nil; i++ {
			err = w.Send(t.Context(), fmt.Appendf(nil, "%0200d", i))
		}
		if err == nil {
			err = w.Close(t.Context())
		}
		sent <- errors.Join(err, echo.CloseSend(t.Context()))
	}()
	at, lost := uint64(1), uint64(0)
	for {
		m, err := r.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if gap, ok := errors.AsType[*client.GapError](err); ok {
			if gap.From.Message != at || gap.To.Message <= at {
				t.Fatalf("a gap from %v to %v, at %d", gap.From, gap.To, at)
			}
			lost += gap.To.Message - at
			at = gap.To.Message
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if m.Position.Message != at || string(m.Data) != fmt.Sprintf("%0200d", at) {
			t.Fatalf("message %v is %q, want number %d", m.Position, m.Data, at)
		}
		// A cut with nothing on its way loses nothing.
		if at++; at == 100 || at%500 == 0 && lost == 0 {
			p.cutAll(false)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if at != n+1 || lost == 0 {
		t.Errorf("ended at %d with %d lost, want %d, and at least one", at, lost, n+1)
	}
	closeAll(t, r)
}

func TestStopAtNowStopsAtTheSameNowAfterACut(t *testing.T) {
	for _, framing := range []string{"line", "raw"} {
		t.Run(framing, func(t *testing.T) {
			echo := newEcho(t, framing)
			before := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
			var parts []string
			for part := before; len(part) > 0; part = part[1600:] {
				parts = append(parts, string(part[:1600]))
			}
			send(t, echo, parts...)
			arrived(t, echo, len(before))
			c, p := throughProxy(t)
			r := newReader(t, c.Endpoint(echo.Ref()), client.ReaderOptions{Observe: true, StopAtNow: true, MaxUnackedBytes: 5000})
			var got []byte
			for {
				m, err := r.Next(t.Context())
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if got == nil {
					send(t, echo, "later", "and later")
					arrived(t, echo, len(before)+len("laterand later"))
					p.cutAll(false)
				}
				got = append(got, m.Data...)
			}
			if !bytes.Equal(got, before) || r.End() != nil {
				t.Errorf("got %d bytes, end %v; want %d and none", len(got), r.End(), len(before))
			}
			closeAll(t, r)
		})
	}
}

// newEcho returns the end of a process that sends back what it gets.
func newEcho(t *testing.T, framing string) *client.Endpoint {
	t.Helper()
	c, f := dial(t), &pipedv1.Framing{Name: framing}
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
		Args: []string{"cat"}, StdioPipe: &pipedv1.PipeSpec{FramingIn: f, FramingOut: f},
	}})
	return c.Endpoint(client.Ref{Session: session})
}

// arrived waits until at least so many bytes have come out of an end 1.
func arrived(t *testing.T, e *client.Endpoint, bytes int) {
	t.Helper()
	c := dial(t)
	if err := until(t.Context(), func() bool {
		session, err := c.Get(t.Context(), e.Ref().Session)
		if err != nil {
			t.Fatal(err)
		}
		return session.GetPipes()[0].GetEndpoints()[0].GetInbox().GetBytes() >= uint64(bytes)
	}); err != nil {
		t.Fatal(err)
	}
}

func TestWriterKeepsNoMoreThanItsBoundWhileItIsAway(t *testing.T) {
	one, two := newPipe(t, dial(t), "line")
	c, p := throughProxy(t)
	const bound = 100_000
	w := newWriter(t, c.Endpoint(one.Ref()), client.WriterOptions{MaxUnacked: bound})
	p.refuse(true)
	p.cutAll(false)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	msg := bytes.Repeat([]byte("x"), 984)
	sent := 0
	var err error
	for err == nil {
		if err = w.Send(ctx, msg); err == nil {
			sent++
		}
	}
	if !errors.Is(err, context.DeadlineExceeded) || sent != bound/1000 {
		t.Errorf("%d messages were taken, then %v; want %d, DeadlineExceeded", sent, err, bound/1000)
	}
	p.refuse(false)
	r := newReader(t, two, client.ReaderOptions{})
	for range sent {
		if m := next(t, r); !bytes.Equal(m.Data, msg) {
			t.Fatalf("message %v is %q", m.Position, m.Data)
		}
	}
	closeAll(t, w, r)
}

func TestCloseWithNothingLeftDoesNotWaitForADaemon(t *testing.T) {
	one, two := newPipe(t, dial(t), "line")
	c, p := throughProxy(t)
	w := newWriter(t, c.Endpoint(one.Ref()), client.WriterOptions{})
	if err := w.Send(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := newReader(t, c.Endpoint(two.Ref()), client.ReaderOptions{})
	next(t, r)
	p.refuse(true)
	p.cutAll(false)
	closeAll(t, w, r)
}

func TestAcknowledgementsThatWereCutAreSentAgain(t *testing.T) {
	one, two := newPipe(t, dial(t), "line")
	send(t, one, "a", "b", "c")
	c, p := throughProxy(t)
	r := newReader(t, c.Endpoint(two.Ref()), client.ReaderOptions{ConsumerID: "me"})
	next(t, r)
	p.refuse(true)
	p.cutAll(false)
	if err := r.Ack(client.Position{Message: 2}); err != nil {
		t.Fatal(err)
	}
	if err := r.Ack(client.Position{Message: 9}); !errors.Is(err, client.ErrPositionOutOfRange) {
		t.Errorf("what has not come: got %v, want ErrPositionOutOfRange", err)
	}
	p.refuse(false)
	closeAll(t, r)
	if got := receive(t, two, 2); got != "b c" {
		t.Errorf("the next reader got %q, want b c", got)
	}
}

func TestReaderAndWriterEndWhereThereIsNothingToComeBackTo(t *testing.T) {
	direct := dial(t)
	one, two := newPipe(t, direct, "line")
	c, p := throughProxy(t)
	w := newWriter(t, c.Endpoint(one.Ref()), client.WriterOptions{})
	r := newReader(t, c.Endpoint(two.Ref()), client.ReaderOptions{})
	p.refuse(true)
	p.cutAll(false)
	if err := direct.Delete(t.Context(), one.Ref().Session, true); err != nil {
		t.Fatal(err)
	}
	if err := w.Send(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	p.refuse(false)
	if err := w.Close(t.Context()); !errors.Is(err, client.ErrSessionNotFound) {
		t.Errorf("Writer: got %v, want ErrSessionNotFound", err)
	}
	if _, err := r.Next(t.Context()); !errors.Is(err, client.ErrSessionNotFound) {
		t.Errorf("Reader: got %v, want ErrSessionNotFound", err)
	}
	_ = r.Close(t.Context())
}

func TestClosedClientEndsItsStreams(t *testing.T) {
	one, two := newPipe(t, dial(t), "line")
	c, err := client.Dial(t.Context(), daemonAddr)
	if err != nil {
		t.Fatal(err)
	}
	w := newWriter(t, c.Endpoint(one.Ref()), client.WriterOptions{ID: "w"})
	r := newReader(t, c.Endpoint(two.Ref()), client.ReaderOptions{ConsumerID: "r"})
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.Next(t.Context()); err == nil || t.Context().Err() != nil {
		t.Errorf("Next: got %v, want an error", err)
	}
	if err := w.Send(t.Context(), []byte("x")); err == nil {
		if err := w.Close(t.Context()); err == nil {
			t.Error("Writer: got nil, want an error")
		}
	}
	_ = r.Close(t.Context())
}

func TestStreamsPastTheLimitGetFurtherConnections(t *testing.T) {
	echo := newEcho(t, "line")
	limits, err := dial(t).Limits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, p := throughProxy(t)
	observers := make([]*client.Reader, limits.GetMaxStreamsPerConnection()+50)
	for i := range observers {
		observers[i] = newReader(t, c.Endpoint(echo.Ref()), client.ReaderOptions{Observe: true})
	}
	if n := p.connections(); n != 2 {
		t.Errorf("%d streams use %d connections, want 2", len(observers), n)
	}
	// There is room for unary calls, and every stream lives.
	if err := c.Endpoint(echo.Ref()).Send(t.Context(), []byte("x")); err != nil {
		t.Error(err)
	}
	for _, r := range observers {
		if m := next(t, r); !bytes.Equal(m.Data, []byte("x")) {
			t.Errorf("got %q", m.Data)
		}
		closeAll(t, r)
	}
}

func TestSwallowedConnectionIsFound(t *testing.T) {
	t.Parallel()
	addr := "unix://" + shortDir(t) + "/s"
	stop, err := startDaemon(addr, "--heartbeat-interval", "100ms")
	if err != nil {
		t.Fatal(err)
	}
	direct, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	session, err := direct.Create(t.Context(), &pipedv1.CreateSessionRequest{Pipes: []*pipedv1.PipeSpec{{}}})
	if err != nil {
		t.Fatal(err)
	}
	p := startProxy(t, addr, func(n int) plan {
		if n == 0 {
			return plan{cutUp: -1, cutDown: 3000, chop: -1, swallow: true}
		}
		return undisturbed
	})
	c, err := client.Dial(t.Context(), p.addr)
	if err != nil {
		t.Fatal(err)
	}
	ref := client.Ref{Session: session.GetName()}
	w := newWriter(t, c.Endpoint(ref), client.WriterOptions{})
	r := newReader(t, c.Endpoint(client.Ref{Session: ref.Session, End: 2}), client.ReaderOptions{})
	began := time.Now()
	for i := range 300 {
		if err := w.Send(t.Context(), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		if m := next(t, r); string(m.Data) != fmt.Sprint(i) {
			t.Fatalf("got %q, want %d", m.Data, i)
		}
	}
	if took := time.Since(began); took < 5*time.Second || took > 31*time.Second {
		t.Errorf("it took %v", took)
	}
	closeAll(t, w, r)
	if err := errors.Join(c.Close(), direct.Close(), stop(os.Interrupt)); err != nil {
		t.Error(err)
	}
}

// Each connection dies before a whole batch is through.
func TestReaderGetsThroughConnectionsThatDieBeforeAWholeBatch(t *testing.T) {
	for _, framing := range []string{"line", "raw"} {
		for name, observe := range map[string]bool{"consumer": false, "observer": true} {
			t.Run(framing+" "+name, func(t *testing.T) {
				echo := newEcho(t, framing)
				const n = 2000
				var msgs []string
				var want bytes.Buffer
				for i := range n {
					msgs = append(msgs, fmt.Sprintf("%0200d", i))
					want.WriteString(msgs[i])
				}
				send(t, echo, msgs...)
				arrived(t, echo, want.Len())
				p := startProxy(t, daemonAddr, func(int) plan { return plan{cutUp: -1, cutDown: 25_000, chop: -1} })
				c := redial(t, p.addr)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				r, err := c.Endpoint(echo.Ref()).NewReader(ctx, client.ReaderOptions{Observe: observe, MaxUnackedBytes: 1 << 20})
				if err != nil {
					t.Fatal(err)
				}
				var got []byte
				for len(got) < want.Len() {
					m, err := r.Next(ctx)
					if err != nil {
						t.Fatalf("after %d bytes and %d connections: %v", len(got), p.connections(), err)
					}
					got = append(got, m.Data...)
					if err := r.Ack(m.After); err != nil {
						t.Fatal(err)
					}
				}
				if !bytes.Equal(got, want.Bytes()) {
					t.Error("what was received is not what was sent")
				}
				if err := errors.Join(r.Close(ctx), c.Close()); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestWriterHearsAnAcknowledgementThatWasCut(t *testing.T) {
	t.Parallel()
	for _, level := range []pipedv1.AckLevel{pipedv1.AckLevel_ACK_LEVEL_DELIVERED, pipedv1.AckLevel_ACK_LEVEL_READ} {
		t.Run(level.String(), func(t *testing.T) {
			echo := newEcho(t, "line")
			const most = 900
			sent := 0
			for k := 0; k < most; k += 3 {
				p := startProxy(t, daemonAddr, func(n int) plan {
					if n == 0 {
						return plan{cutUp: -1, cutDown: k, chop: -1}
					}
					return undisturbed
				})
				c := redial(t, p.addr)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				w, err := c.Endpoint(echo.Ref()).NewWriter(ctx, client.WriterOptions{Level: level})
				if err != nil {
					t.Fatal(err)
				}
				for range 2 {
					err = errors.Join(w.Send(ctx, fmt.Append(nil, sent)), w.Flush(ctx))
					if err != nil {
						t.Fatalf("cut after %d bytes: message %d: %v", k, sent, err)
					}
					sent++
				}
				if err := errors.Join(w.Close(ctx), c.Close()); err != nil {
					t.Fatalf("cut after %d bytes: %v", k, err)
				}
				cancel()
			}
			r := newReader(t, echo, client.ReaderOptions{Observe: true})
			for i := range sent {
				if m := next(t, r); string(m.Data) != fmt.Sprint(i) {
					t.Fatalf("message %v is %q, want %d", m.Position, m.Data, i)
				}
			}
			closeAll(t, r)
		})
	}
}

func TestGapsAfterACutAreToldOnceAndLineUp(t *testing.T) {
	const n, size = 60_000, 100
	for name, opts := range map[string]client.ReaderOptions{
		"consumer": {}, "consumer that acknowledges by itself": {AutoAck: true}, "observer": {Observe: true},
	} {
		t.Run(name, func(t *testing.T) {
			direct, f := dial(t), &pipedv1.Framing{Name: "line"}
			echo := direct.Endpoint(client.Ref{Session: create(t, direct, &pipedv1.CreateSessionRequest{
				Process: &pipedv1.ProcessSpec{Args: []string{"cat"}, StdioPipe: &pipedv1.PipeSpec{
					FramingIn: f, FramingOut: f, Log: &pipedv1.LogSpec{Size: 1 << 20, Overflow: pipedv1.LogSpec_OVERFLOW_DROP_OLDEST},
				}},
			})})
			c, p := throughProxy(t)
			r := newReader(t, c.Endpoint(echo.Ref()), opts)
			sent := make(chan error, 1)
			go func() {
				w, err := echo.NewWriter(t.Context(), client.WriterOptions{})
				for i := 1; i <= n && err == nil; i++ {
					err = w.Send(t.Context(), fmt.Appendf(nil, "%0*d", size, i))
				}
				if err == nil {
					err = w.Close(t.Context())
				}
				sent <- errors.Join(err, echo.CloseSend(t.Context()))
			}()
			at, gaps, got := uint64(1), 0, 0
			for {
				m, err := r.Next(t.Context())
				if errors.Is(err, io.EOF) {
					break
				}
				if gap, ok := errors.AsType[*client.GapError](err); ok {
					if gap.From.Message != at || gap.To.Message <= at || gap.From.Offset != 0 || gap.To.Offset != 0 {
						t.Fatalf("a gap from %v to %v, at %d", gap.From, gap.To, at)
					}
					at = gap.To.Message
					gaps++
					// Before, after and between gaps.
					p.cutAll(false)
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if m.Position.Message != at || string(m.Data) != fmt.Sprintf("%0*d", size, at) {
					t.Fatalf("message %v is %q, want number %d", m.Position, m.Data, at)
				}
				at++
				if got++; got%2000 == 1 {
					p.cutAll(false)
					// Meanwhile more is dropped, of what was handed on too.
					if got == 1 {
						if err := <-sent; err != nil {
							t.Fatal(err)
						}
					}
				}
				if got%10 == 0 {
					if err := r.Ack(m.After); err != nil {
						t.Fatal(err)
					}
				}
			}
			if at != n+1 || gaps == 0 || got == 0 {
				t.Errorf("ended at %d, with %d messages and %d gaps; want %d, and some of both", at, got, gaps, n+1)
			}
			closeAll(t, r)
		})
	}
}
