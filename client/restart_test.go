//go:build linux

package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// away runs a call while the daemon behind a proxy is away, and lets the daemon come
// back once the call has met that.
func away(t *testing.T, c *client.Client, p *proxy, call func(ctx context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p.refuse(true)
	p.cutAll(false)
	// This one finds out that the connection is gone.
	noticed := make(chan error, 1)
	go func() {
		_, err := c.Info(ctx)
		noticed <- err
	}()
	tries := func(n int) {
		t.Helper()
		before := p.connections()
		if err := until(ctx, func() bool { return p.connections() > before+n }); err != nil {
			t.Fatal("nobody tries to connect")
		}
	}
	tries(0)
	done := make(chan error, 1)
	go func() { done <- call(ctx) }()
	tries(1)
	p.refuse(false)
	return errors.Join(<-done, <-noticed)
}

func TestCallsComeThroughARestart(t *testing.T) {
	one, two := newPipe(t, dial(t), "line")
	send(t, one, "x")
	c, p := throughProxy(t)
	ref := two.Ref()
	lease := func(ctx context.Context) error {
		l, err := c.Endpoint(one.Ref()).AcquireLease(ctx, client.LeaseOptions{Role: writerRole, Duration: time.Minute})
		if err != nil {
			return err
		}
		return errors.Join(l.Renew(ctx), l.Release(ctx))
	}
	for name, call := range map[string]func(ctx context.Context) error{
		"Info":   func(ctx context.Context) error { _, err := c.Info(ctx); return err },
		"Limits": func(ctx context.Context) error { _, err := c.Limits(ctx); return err },
		"Get":    func(ctx context.Context) error { _, err := c.Get(ctx, ref.Session); return err },
		"List": func(ctx context.Context) error {
			for _, err := range c.List(ctx, &pipedv1.ListSessionsRequest{}) {
				if err != nil {
					return err
				}
			}
			return nil
		},
		"Poll": func(ctx context.Context) error { _, err := c.Poll(ctx, []client.Ref{ref}, 0); return err },
		"Signal": func(ctx context.Context) error {
			if err := c.Signal(ctx, ref.Session, "", "TERM"); !errors.Is(err, client.ErrProcessNotFound) {
				return err
			}
			return nil
		},
		"Send":  func(ctx context.Context) error { return c.Endpoint(one.Ref()).Send(ctx, []byte("y")) },
		"lease": lease,
		"Create, Start, Wait, CreatePipe, Stop, Close, Delete": func(ctx context.Context) error {
			s, err := c.Create(ctx, &pipedv1.CreateSessionRequest{Pipes: []*pipedv1.PipeSpec{{}}})
			if err != nil {
				return err
			}
			_, err = c.Start(ctx, &pipedv1.StartProcessRequest{Session: s.GetName(), Process: &pipedv1.ProcessSpec{Args: []string{"true"}}})
			_, waitErr := c.Wait(ctx, s.GetName(), "", client.Forever)
			pipe, pipeErr := c.CreatePipe(ctx, &pipedv1.CreatePipeRequest{Session: s.GetName()})
			_, stopErr := c.Stop(ctx, &pipedv1.StopSessionRequest{Session: s.GetName()})
			_, closeErr := c.Endpoint(client.Ref{Session: s.GetName(), Pipe: pipe.GetName()}).Close(ctx, client.CloseOptions{Wait: true})
			return errors.Join(err, waitErr, pipeErr, stopErr, closeErr, c.Delete(ctx, s.GetUid(), true))
		},
		"NewWriter": func(ctx context.Context) error {
			w, err := c.Endpoint(one.Ref()).NewWriter(ctx, client.WriterOptions{})
			if err != nil {
				return err
			}
			return w.Close(ctx)
		},
		"NewReader": func(ctx context.Context) error {
			r, err := c.Endpoint(ref).NewReader(ctx, client.ReaderOptions{})
			if err != nil {
				return err
			}
			return r.Close(ctx)
		},
		"Watch": func(ctx context.Context) error {
			for _, err := range c.Watch(ctx, &pipedv1.WatchSessionsRequest{StopAtNow: true}) {
				if err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := away(t, c, p, call); err != nil {
				t.Error(err)
			}
		})
	}
}

// losesAnswers returns a client whose first n calls of a method are carried out and
// then fail as if the connection had been lost, and a count of all calls of it.
func losesAnswers(t *testing.T, name string, n int32, opts ...grpc.DialOption) (*client.Client, *atomic.Int32) {
	t.Helper()
	calls := new(atomic.Int32)
	c, err := client.Dial(t.Context(), daemonAddr, append(opts, grpc.WithUnaryInterceptor(
		func(ctx context.Context, method string, req, resp any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoke(ctx, method, req, resp, conn, opts...)
			if strings.HasSuffix(method, "/"+name) && calls.Add(1) <= n && err == nil {
				return status.Error(codes.Unavailable, "the answer was lost")
			}
			return err
		}))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, calls
}

func TestWhatMayHappenTwiceIsAskedAgainAndHappensOnce(t *testing.T) {
	c, calls := losesAnswers(t, "CreateSession", 3)
	session, err := c.Create(t.Context(), &pipedv1.CreateSessionRequest{Name: "once", Pipes: []*pipedv1.PipeSpec{{Name: "first"}}})
	if err != nil {
		t.Fatal(err)
	}
	if n := calls.Load(); n != 4 {
		t.Errorf("%d calls, want 4", n)
	}
	c, _ = losesAnswers(t, "StartProcess", 1)
	start := &pipedv1.StartProcessRequest{Session: "once", Process: &pipedv1.ProcessSpec{Args: []string{"true"}}}
	if _, err := c.Start(t.Context(), start); err != nil || start.GetRequestId() != "" {
		t.Errorf("Start: %v, with the request id %q in what the caller gave", err, start.GetRequestId())
	}
	c, _ = losesAnswers(t, "CreatePipe", 1)
	if _, err := c.CreatePipe(t.Context(), &pipedv1.CreatePipeRequest{Session: "once"}); err != nil {
		t.Error(err)
	}
	got, err := c.Get(t.Context(), "once")
	if err != nil || len(got.GetProcesses()) != 1 || len(got.GetPipes()) != 4 || got.GetUid() != session.GetUid() {
		t.Errorf("got %v, %v; want one process and the pipes first, stdio, stderr and pipe", got, err)
	}
	ref := client.Ref{Session: "once", Pipe: "pipe"}
	c, _ = losesAnswers(t, "AcquireLease", 1)
	lease, err := c.Endpoint(ref).AcquireLease(t.Context(), client.LeaseOptions{Role: writerRole, Duration: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := lease.Renew(t.Context()); err != nil {
		t.Error(err)
	}
	c, _ = losesAnswers(t, "DeleteSession", 2)
	if err := c.Delete(t.Context(), session.GetUid(), true); err != nil {
		t.Errorf("Delete by uid: %v", err)
	}
}

func TestWhatMayNotHappenTwiceIsNotAskedAgain(t *testing.T) {
	direct := dial(t)
	one, two := newPipe(t, direct, "line")
	c, calls := losesAnswers(t, "Write", 1)
	if err := c.Endpoint(one.Ref()).Send(t.Context(), []byte("x")); !errors.Is(err, client.ErrUnavailable) || calls.Load() != 1 {
		t.Errorf("Send: %v after %d calls, want ErrUnavailable after 1", err, calls.Load())
	}
	if got := receive(t, two, 1); got != "x" {
		t.Errorf("got %q", got)
	}
	session := create(t, direct, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: []string{"sleep", "600"}}})
	c, calls = losesAnswers(t, "SignalProcess", 1)
	if err := c.Signal(t.Context(), session, "", "CONT"); !errors.Is(err, client.ErrUnavailable) || calls.Load() != 1 {
		t.Errorf("Signal: %v after %d calls, want ErrUnavailable after 1", err, calls.Load())
	}
	c, calls = losesAnswers(t, "DeleteSession", 1)
	if err := c.Delete(t.Context(), session, true); !errors.Is(err, client.ErrUnavailable) || calls.Load() != 1 {
		t.Errorf("Delete by name: %v after %d calls, want ErrUnavailable after 1", err, calls.Load())
	}
}

func TestCallsGiveUpAfterTheirBound(t *testing.T) {
	for bound, atMost := range map[time.Duration]time.Duration{0: time.Second, 200 * time.Millisecond: 5 * time.Second} {
		c, calls := losesAnswers(t, "GetServerInfo", 1<<30, client.RepeatFor(bound))
		began := time.Now()
		_, err := c.Info(t.Context())
		if took := time.Since(began); !errors.Is(err, client.ErrUnavailable) || took < bound || took > atMost {
			t.Errorf("bound %v: %v after %v and %d calls", bound, err, took, calls.Load())
		}
		if bound == 0 && calls.Load() != 1 {
			t.Errorf("bound 0: %d calls", calls.Load())
		}
	}
	c, _ := losesAnswers(t, "GetServerInfo", 1<<30)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Info(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "the answer was lost") {
		t.Errorf("with a deadline: %v, want it and the loss", err)
	}
}

func TestTimeoutGoesOnWhileTheDaemonIsAway(t *testing.T) {
	session := create(t, dial(t), &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: []string{"sleep", "600"}}})
	c, p := throughProxy(t)
	began := time.Now()
	err := away(t, c, p, func(ctx context.Context) error {
		process, err := c.Wait(ctx, session, "", 500*time.Millisecond)
		if process.GetState() != pipedv1.Process_STATE_RUNNING {
			err = errors.Join(err, fmt.Errorf("it is %v", process.GetState()))
		}
		return err
	})
	if took := time.Since(began); err != nil || took < 500*time.Millisecond || took > 5*time.Second {
		t.Errorf("%v after %v", err, took)
	}
}

// The life tells the daemon that a stream without the token is of the same Writer or
// Reader: it is sent with each stream, and each Writer and Reader has its own.
func TestWriterAndReaderGiveTheirLifeWithEachStream(t *testing.T) {
	one, two := newPipe(t, dial(t), "line")
	p := startProxy(t, daemonAddr, func(int) plan { return undisturbed })
	lives := make(chan string, 100)
	c, err := client.Dial(t.Context(), p.addr, grpc.WithStreamInterceptor(
		func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := open(ctx, desc, conn, method, opts...)
			return &overheard{ClientStream: stream, lives: lives}, err
		}), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	seen := make(map[string]int)
	for range 2 {
		w := newWriter(t, c.Endpoint(one.Ref()), client.WriterOptions{})
		p.cutAll(false)
		if err := w.Send(t.Context(), []byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		closeAll(t, w)
		r := newReader(t, c.Endpoint(two.Ref()), client.ReaderOptions{})
		next(t, r)
		p.cutAll(false)
		send(t, one, "y")
		if err := r.Ack(next(t, r).After); err != nil {
			t.Fatal(err)
		}
		closeAll(t, r)
	}
	close(lives)
	for life := range lives {
		seen[life]++
	}
	for life, n := range seen {
		if life == "" || n < 2 {
			t.Errorf("the life %q came %d times, want one of at least 2 streams", life, n)
		}
	}
	if len(seen) != 4 {
		t.Errorf("got the lives %v, want 4", seen)
	}
}

// An overheard stream tells the lives that it is opened with.
type overheard struct {
	grpc.ClientStream
	lives chan<- string
}

func (o *overheard) SendMsg(m any) error {
	switch req := m.(type) {
	case *pipedv1.SendRequest:
		if open := req.GetOpen(); open != nil {
			o.lives <- open.GetLife()
		}
	case *pipedv1.RecvRequest:
		if open := req.GetOpen(); open != nil {
			o.lives <- open.GetLife()
		}
	}
	return o.ClientStream.SendMsg(m)
}
