package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
)

const (
	// minPause and maxPause bound the time between two attempts to come back: it
	// doubles from one to the other, and half of it is left to chance.
	minPause = 10 * time.Millisecond
	maxPause = 2 * time.Second
	// openFor bounds the attempts of what is opened for the first time.
	openFor = 10 * time.Second
)

// A retry is the attempts to come back after the connection was lost. It belongs
// to one goroutine.
type retry struct {
	// limit is how long it goes on; 0 means for ever.
	limit time.Duration
	// since is when the connection was lost; zero while there is one.
	since time.Time
	pause time.Duration
	// proven says that the streams have a lease that nobody else can prove: what
	// superseded one of them was their own attempt, which arrived late. Another
	// life of the same ID would have ended the lease, so the next attempt tells.
	proven bool
}

// again waits before the next attempt. It returns an error, err or that of ctx,
// when there is to be none.
func (r *retry) again(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case !lost(err) && !r.overtaken(err):
		return fromRPC(err)
	case r.since.IsZero():
		r.since, r.pause = time.Now(), minPause
	}
	pause := r.pause/2 + rand.N(r.pause/2) //nolint:gosec // nothing secret is made of it
	r.pause = min(2*r.pause, maxPause)
	if r.limit > 0 {
		left := r.limit - time.Since(r.since)
		if left <= 0 {
			return fromRPC(err)
		}
		pause = min(pause, left)
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// left bounds the next attempt.
func (r *retry) left(atMost time.Duration) time.Duration {
	if r.limit <= 0 || r.since.IsZero() {
		return atMost
	}
	return min(atMost, max(r.limit-time.Since(r.since), maxPause))
}

// succeeded says that the daemon has answered.
func (r *retry) succeeded() { r.since = time.Time{} }

// overtaken says whether err may be of no more than an attempt that arrived late.
func (r *retry) overtaken(err error) bool {
	return r.proven && errors.Is(fromRPC(err), ErrSuperseded)
}

// lost says whether an error means no more than that the connection, or the
// daemon for a while, is gone. Every error with a reason is the daemon's own and
// final, but that it is about to stop.
func lost(err error) bool {
	e, ok := errors.AsType[*Error](fromRPC(err))
	if !ok {
		return false
	}
	if e.Reason != "" {
		return e.Reason == ErrShuttingDown
	}
	switch e.Code {
	// What proxies and gRPC itself make of a stream that was cut.
	case codes.Unavailable, codes.Canceled, codes.Internal, codes.DeadlineExceeded:
		return true
	}
	return false
}
