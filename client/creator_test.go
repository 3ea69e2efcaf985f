//go:build linux

package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// createBound creates a session with a process, "cat" where none is given, bound to
// the test for so long. Its input is closed when it is stopped, and no more.
func createBound(t *testing.T, c *client.Client, duration time.Duration, program ...string) (*pipedv1.Session, *client.SessionLease) {
	t.Helper()
	if len(program) == 0 {
		program = []string{"cat"}
	}
	s, lease, err := c.CreateBound(t.Context(), &pipedv1.CreateSessionRequest{
		Process: &pipedv1.ProcessSpec{Args: program, Stop: &pipedv1.StopPolicy{CloseGrace: durationpb.New(time.Minute)}},
		Lease:   &pipedv1.SessionLease{Duration: durationpb.New(duration)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		_ = c.Delete(ctx, s.GetUid(), true)
	})
	return s, lease
}

func TestProcessIsStoppedWhenItsCreatorIsGone(t *testing.T) {
	c := dial(t)
	s, lease := createBound(t, c, 300*time.Millisecond)
	p, err := c.Wait(t.Context(), s.GetUid(), "", 20*time.Second)
	if err != nil || p.GetExit().GetCause() != pipedv1.Exit_CAUSE_LEASE_ENDED {
		t.Fatalf("%v, %v", p, err)
	}
	if err := lease.KeepAlive(t.Context()); !errors.Is(err, client.ErrSessionLease) {
		t.Errorf("kept alive too late: %v", err)
	}
	if got, err := c.Get(t.Context(), s.GetUid()); err != nil || got.GetLease().GetEndTime() == nil {
		t.Errorf("%v, %v", got.GetLease(), err)
	}
}

func TestKeepAliveRenewsUntilItIsEnded(t *testing.T) {
	c := dial(t)
	s, lease := createBound(t, c, 6*time.Second)
	expiry := func() time.Time {
		got, err := c.Get(t.Context(), s.GetUid())
		if err != nil || got.GetLease().GetExpireTime() == nil {
			t.Fatalf("the lease %v, %v", got.GetLease(), err)
		}
		return got.GetLease().GetExpireTime().AsTime()
	}
	last := expiry()
	ctx, cancel := context.WithCancel(t.Context())
	kept := make(chan error, 1)
	go func() { kept <- lease.KeepAlive(ctx) }()
	for range 3 { // at once, and at each third
		if err := until(t.Context(), func() bool { return expiry().After(last) }); err != nil {
			t.Fatal(err)
		}
		last = expiry()
	}
	cancel()
	if err := <-kept; err != nil {
		t.Error(err)
	}
}

func TestCreatorsLeaseOutlivesTheDaemon(t *testing.T) {
	c := mortal(t)
	s, lease := createBound(t, c, time.Hour)
	before, err := c.Get(t.Context(), s.GetUid())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kill(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	after, err := c.Get(t.Context(), s.GetUid())
	if err != nil || !after.GetLease().GetExpireTime().AsTime().After(before.GetLease().GetExpireTime().AsTime()) {
		t.Errorf("the next daemon gives it its time again: %v, %v; before %v", after.GetLease(), err, before.GetLease())
	}
	if err := lease.Renew(t.Context()); err != nil {
		t.Errorf("renewed with the next daemon: %v", err)
	}
	other, late := createBound(t, c, 100*time.Millisecond, "sleep", "1000") // which does not mind its input
	if err := until(t.Context(), func() bool {
		got, err := c.Get(t.Context(), other.GetUid())
		return err != nil || got.GetLease().GetEndTime() != nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := kill(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	again, err := c.Get(t.Context(), other.GetUid())
	if err != nil || again.GetLease().GetEndTime() == nil || again.GetProcesses()[0].GetStopping().GetCause() != pipedv1.Exit_CAUSE_LEASE_ENDED {
		t.Errorf("one that had ended: %v, %v", again, err)
	}
	if err := late.Renew(t.Context()); !errors.Is(err, client.ErrSessionLease) {
		t.Errorf("one that had ended is renewed: %v", err)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := kill(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Get(t.Context(), s.GetUid()); err != nil || got.GetLease() != nil || got.GetProcesses()[0].GetState() != pipedv1.Process_STATE_RUNNING {
		t.Errorf("one that was given up: %v, %v", got, err)
	}
}
