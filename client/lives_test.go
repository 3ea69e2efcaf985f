//go:build linux

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// A is cut with messages under way, B is another life of the same ID and goes on,
// and A comes back: its messages have no place any more, and it has to hear that.
func TestALifeThatAnotherOneReplacedIsFenced(t *testing.T) {
	swallow := undisturbed
	swallow.cutUp, swallow.swallow = 700, true
	for _, test := range []struct {
		name   string
		plan   plan
		given  bool // A's messages are given to its stream before the cut
		closes bool // B closes before A comes back
		kept   bool // A has an acquired lease
	}{
		{name: "gathered", plan: undisturbed},
		{name: "gathered, the other one closed", plan: undisturbed, closes: true},
		{name: "given to the stream", plan: swallow, given: true},
		{name: "given to the stream, the other one closed", plan: swallow, given: true, closes: true},
		{name: "with an acquired lease", plan: undisturbed, kept: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := startProxy(t, daemonAddr, func(i int) plan {
				if i == 0 {
					return test.plan
				}
				return undisturbed
			})
			ca, err := client.Dial(t.Context(), p.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = ca.Close() }()
			one, two := newPipe(t, dial(t), "mp")
			opts := client.WriterOptions{ID: "job"}
			if test.kept {
				lease, err := one.AcquireLease(t.Context(), client.LeaseOptions{Role: writerRole, Holder: "job", Duration: time.Minute})
				if err != nil {
					t.Fatal(err)
				}
				opts.LeaseToken = lease.Token()
			}
			a, err := ca.Endpoint(one.Ref()).NewWriter(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			sendAll := func(w *client.Writer, prefix string, n, size int) {
				for i := range n {
					if err := w.Send(t.Context(), fmt.Appendf(nil, "%s%d-%s", prefix, i, strings.Repeat("x", size))); err != nil {
						t.Fatal(err)
					}
				}
			}
			if test.given {
				sendAll(a, "A", 30, 100)
			}
			p.refuse(true)
			p.cutAll(false)
			if !test.given {
				sendAll(a, "A", 5, 0)
			}
			b := newWriter(t, one, client.WriterOptions{ID: "job"})
			sendAll(b, "B", 3, 0)
			if err := b.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if test.closes {
				closeAll(t, b)
			}
			p.refuse(false)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := a.Flush(ctx); !errors.Is(err, client.ErrFenced) {
				t.Errorf("Flush of the old life: got %v, want ErrFenced", err)
			}
			if err := a.Close(ctx); !errors.Is(err, client.ErrFenced) {
				t.Errorf("Close of the old life: got %v, want ErrFenced", err)
			}
			if !test.closes {
				closeAll(t, b)
			}
			r := newReader(t, two, client.ReaderOptions{})
			var ofB []string
			for len(ofB) < 3 {
				m := next(t, r)
				if name, _, _ := strings.Cut(string(m.Data), "-"); strings.HasPrefix(name, "B") {
					ofB = append(ofB, name)
				}
			}
			if want := []string{"B0", "B1", "B2"}; !slices.Equal(ofB, want) {
				t.Errorf("of the new life came %v, want %v", ofB, want)
			}
			_ = r.Close(t.Context())
		})
	}
}

// An attempt to open the stream that the daemon sees late takes over from the
// stream that the same Writer, or Reader, has by now.
func TestALateAttemptOfItsOwnDoesNotEndAWriterOrReader(t *testing.T) {
	one, two := newPipe(t, dial(t), "mp")
	w := newWriter(t, one, client.WriterOptions{})
	r := newReader(t, two, client.ReaderOptions{ConsumerID: "c"})
	conn, err := grpc.NewClient(daemonAddr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	pipes := pipedv1.NewPipeServiceClient(conn)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sending, err := pipes.Send(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := sending.Send(&pipedv1.SendRequest{Request: &pipedv1.SendRequest_Open{Open: &pipedv1.SendOpen{
		Endpoint: &pipedv1.EndpointRef{Session: one.Ref().Session, End: 1}, WriterId: w.ID(), LeaseToken: w.Lease().Token(),
	}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := sending.Recv(); err != nil {
		t.Fatal(err)
	}
	receiving, err := pipes.Recv(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := receiving.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Open{Open: &pipedv1.RecvOpen{
		Endpoint: &pipedv1.EndpointRef{Session: two.Ref().Session, End: 2}, Mode: pipedv1.RecvMode_RECV_MODE_CONSUME,
		ConsumerId: "c", LeaseToken: r.Lease().Token(),
	}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := receiving.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := w.Send(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Errorf("Flush: %v", err)
	}
	if m := next(t, r); string(m.Data) != "x" {
		t.Errorf("got %q, want x", m.Data)
	}
	closeAll(t, w, r)
}
