//go:build linux

package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

const writerRole, consumerRole = pipedv1.LeaseRole_LEASE_ROLE_WRITER, pipedv1.LeaseRole_LEASE_ROLE_CONSUMER

func TestStolenLeaseEndsTheLoserWithTheNameOfTheThief(t *testing.T) {
	c := dial(t)
	one, two := newPipe(t, c, "line")
	w := newWriter(t, one, client.WriterOptions{ID: "old"})
	r := newReader(t, two, client.ReaderOptions{ConsumerID: "old"})
	if w.Lease().Holder() != "old" || r.Lease().Role() != consumerRole || len(w.Lease().Token()) == 0 {
		t.Errorf("the leases are of %q and %q", w.Lease().Holder(), r.Lease().Holder())
	}
	w2 := newWriter(t, one, client.WriterOptions{ID: "new", Steal: true})
	r2 := newReader(t, two, client.ReaderOptions{ConsumerID: "new", Steal: true})
	_, err := r.Next(t.Context())
	for name, err := range map[string]error{"Writer": w.Close(t.Context()), "Reader": err} {
		e, ok := errors.AsType[*client.Error](err)
		if !errors.Is(err, client.ErrFenced) || !ok || e.Metadata["by"] != "new" {
			t.Errorf("%s: got %v, want ErrFenced by new", name, err)
		}
	}
	_ = r.Close(t.Context())
	if got, want := w2.Lease().Epoch(), w.Lease().Epoch()+1; got != want {
		t.Errorf("epoch %d, want %d", got, want)
	}
	if err := w2.Send(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	next(t, r2)
	closeAll(t, w2, r2)
}

func TestLeaseKeepsOthersOutUntilTheWriterIsBack(t *testing.T) {
	one, two := newPipe(t, dial(t), "line")
	c, p := throughProxy(t)
	w := newWriter(t, c.Endpoint(one.Ref()), client.WriterOptions{ID: "me"})
	if err := w.Send(t.Context(), []byte("a")); err != nil {
		t.Fatal(err)
	}
	p.refuse(true)
	p.cutAll(false)
	_, err := one.NewWriter(t.Context(), client.WriterOptions{})
	if e, ok := errors.AsType[*client.Error](err); !ok || !errors.Is(err, client.ErrBusyWriter) || e.Metadata["client"] != "me" {
		t.Errorf("another writer: got %v, want ErrBusyWriter of me", err)
	}
	p.refuse(false)
	if err := w.Send(t.Context(), []byte("b")); err != nil {
		t.Fatal(err)
	}
	closeAll(t, w)
	// It was given back.
	send(t, one, "c")
	if got := receive(t, two, 3); got != "a b c" {
		t.Errorf("got %q, want a b c", got)
	}
}

func TestWriterComesBackAfterItsLeaseEndedUnlessSomebodyWroteMeanwhile(t *testing.T) {
	for name, meanwhile := range map[string]bool{"nobody": false, "somebody": true} {
		t.Run(name, func(t *testing.T) {
			one, two := newPipe(t, dial(t), "line")
			c, p := throughProxy(t)
			w := newWriter(t, c.Endpoint(one.Ref()), client.WriterOptions{ID: "me", LeaseDuration: 10 * time.Millisecond})
			if err := w.Send(t.Context(), []byte("a")); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.refuse(true)
			p.cutAll(false)
			if err := until(t.Context(), func() bool {
				if !meanwhile {
					return leaseOf(t, one) == nil
				}
				other, err := one.NewWriter(t.Context(), client.WriterOptions{ID: "other"})
				if err == nil {
					closeAll(t, other)
				}
				return err == nil
			}); err != nil {
				t.Fatal(err)
			}
			if err := w.Send(t.Context(), []byte("b")); err != nil {
				t.Fatal(err)
			}
			p.refuse(false)
			err := w.Close(t.Context())
			if meanwhile {
				if !errors.Is(err, client.ErrFenced) {
					t.Errorf("got %v, want ErrFenced", err)
				}
				return
			}
			if err != nil {
				t.Error(err)
			}
			if got := receive(t, two, 2); got != "a b" {
				t.Errorf("got %q, want a b", got)
			}
		})
	}
}

// leaseOf returns the writer's lease of an end as the daemon tells it.
func leaseOf(t *testing.T, e *client.Endpoint) *pipedv1.Lease {
	t.Helper()
	session, err := dial(t).Get(t.Context(), e.Ref().Session)
	if err != nil {
		t.Fatal(err)
	}
	return session.GetPipes()[0].GetEndpoints()[e.Ref().End-1].GetOutbox().GetLease()
}

func TestAcquiredLeaseOutlivesItsStreamsAndIsReleased(t *testing.T) {
	one, _ := newPipe(t, dial(t), "line")
	lease, err := one.AcquireLease(t.Context(), client.LeaseOptions{Role: writerRole, Holder: "me", Duration: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if lease.Expiry().Before(time.Now()) || lease.Epoch() == 0 || lease.Role() != writerRole {
		t.Errorf("until %v, epoch %d, role %v", lease.Expiry(), lease.Epoch(), lease.Role())
	}
	w := newWriter(t, one, client.WriterOptions{LeaseToken: lease.Token()})
	closeAll(t, w)
	if _, err := one.NewWriter(t.Context(), client.WriterOptions{}); !errors.Is(err, client.ErrBusyWriter) {
		t.Errorf("another: got %v, want ErrBusyWriter", err)
	}
	if _, err := one.AcquireLease(t.Context(), client.LeaseOptions{Role: writerRole}); !errors.Is(err, client.ErrBusyWriter) {
		t.Errorf("acquired again: got %v, want ErrBusyWriter", err)
	}
	again, err := one.AcquireLease(t.Context(), client.LeaseOptions{Role: writerRole, Token: lease.Token(), Duration: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if again.Holder() != "me" || again.Epoch() != lease.Epoch() || again.Expiry().Before(lease.Expiry().Add(50*time.Minute)) {
		t.Errorf("by its token: %q, epoch %d until %v", again.Holder(), again.Epoch(), again.Expiry())
	}
	if err := errors.Join(lease.Renew(t.Context()), lease.Release(t.Context()), lease.Release(t.Context())); err != nil {
		t.Error(err)
	}
	if err := lease.Renew(t.Context()); !errors.Is(err, client.ErrFenced) {
		t.Errorf("Renew after Release: got %v, want ErrFenced", err)
	}
	if _, err := one.AcquireLease(t.Context(), client.LeaseOptions{Role: writerRole, Token: lease.Token()}); !errors.Is(err, client.ErrFenced) {
		t.Errorf("its token after Release: got %v, want ErrFenced", err)
	}
	send(t, one, "x")
}

func TestKeepAliveRenewsUntilTheLeaseIsStolen(t *testing.T) {
	one, _ := newPipe(t, dial(t), "line")
	c, p := throughProxy(t)
	lease, err := c.Endpoint(one.Ref()).AcquireLease(t.Context(), client.LeaseOptions{Role: writerRole, Duration: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	kept := make(chan error, 1)
	go func() { kept <- lease.KeepAlive(t.Context()) }()
	first := lease.Expiry()
	p.cutAll(false)
	if err := until(t.Context(), func() bool { return lease.Expiry().After(first.Add(400 * time.Millisecond)) }); err != nil {
		t.Fatal(err)
	}
	if _, err := one.AcquireLease(t.Context(), client.LeaseOptions{Role: writerRole, Steal: true}); err != nil {
		t.Fatal(err)
	}
	if err := <-kept; !errors.Is(err, client.ErrFenced) {
		t.Errorf("got %v, want ErrFenced", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := lease.KeepAlive(ctx); err != nil {
		t.Errorf("with a context that has ended: got %v, want nil", err)
	}
}
