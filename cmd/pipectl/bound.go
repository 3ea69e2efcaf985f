package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"
)

// defaultBound is how long a bound program goes on without pipectl when --bound does
// not say.
const defaultBound = 10 * time.Second

// A boundFlag is --bound; 0 is not bound.
type boundFlag struct {
	duration time.Duration
	changed  func(flag string) bool
}

func (b *boundFlag) add(flags *pflag.FlagSet) {
	flags.DurationVar(&b.duration, "bound", 0, "stop the program when pipectl has been gone for so long, as =30s; 10s if no time is given (else it goes on)")
	flags.Lookup("bound").NoOptDefVal = defaultBound.String()
	b.changed = flags.Changed
}

// create creates a session, bound to this pipectl if that is asked for. release ends
// what keeps it alive.
func (b *boundFlag) create(ctx context.Context, f *factory, c *client.Client, req *pipedv1.CreateSessionRequest) (s *pipedv1.Session, release func(), err error) {
	if !b.changed("bound") {
		s, err = c.Create(ctx, req)
		return s, func() {}, err
	}
	if b.duration <= 0 {
		return nil, nil, usageError("--bound %v: give a duration above 0, as --bound=30s", b.duration)
	}
	req.Lease = &pipedv1.SessionLease{Duration: durationpb.New(b.duration), Action: pipedv1.SessionLease_ACTION_STOP}
	s, lease, err := c.CreateBound(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	alive, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// That the session is gone is told by whoever waits for it.
		if err := lease.KeepAlive(alive); err != nil && !errors.Is(err, client.ErrSessionNotFound) {
			f.tell("note", fmt.Sprintf("session %s is not bound to this pipectl any more: %v", s.GetName(), err))
		}
	}()
	return s, func() { stop(); <-done }, nil
}

// boundText says until when a session waits for its creator; empty where it does not.
func boundText(lease *pipedv1.SessionLease) string {
	switch {
	case lease == nil:
		return ""
	case lease.GetEndTime() != nil:
		return "its creator was gone at " + lease.GetEndTime().AsTime().Format(time.RFC3339) + ", and its processes were stopped for that"
	}
	return fmt.Sprintf("is bound to its creator: its processes are stopped at %s, unless that is put off for %v",
		lease.GetExpireTime().AsTime().Format(time.RFC3339), lease.GetDuration().AsDuration())
}
