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
	maxPause = time.Second
)

// A retry is the attempts to come back after the connection was lost. It belongs
// to one goroutine.
type retry struct {
	// limit is how long it goes on; 0 means for ever.
	limit time.Duration
	// since is when the connection was lost; zero while there is one.
	since time.Time
	pause time.Duration
	// met is when an attempt met the daemon; zero if the last one did not.
	met time.Time
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
	case !r.met.IsZero():
		// This is another loss. It is not come back from sooner where nothing lasts.
		if time.Since(r.met) > r.pause {
			r.pause = minPause
		}
		r.since = time.Now()
	}
	r.met = time.Time{}
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

// reached says that an attempt has met the daemon at a time, and need not have got
// an answer: the limit counts from the next loss.
func (r *retry) reached(at time.Time) { r.met = at }

// succeeded says that the daemon has answered.
func (r *retry) succeeded() { r.since = time.Time{} }

// overtaken says whether err may be of no more than an attempt that arrived late.
func (r *retry) overtaken(err error) bool {
	return r.proven && errors.Is(fromRPC(err), ErrSuperseded)
}

// untouched says that the daemon did nothing of what was asked for, and will do it
// later: it is about to stop, or waits for its keeper.
func untouched(err error) bool {
	err = fromRPC(err)
	return errors.Is(err, ErrShuttingDown) || errors.Is(err, ErrKeeperAway)
}

// lost says whether an error means no more than that the connection, or the
// daemon for a while, is gone. Every error with a reason is the daemon's own and
// final, but for those that ask to come again.
func lost(err error) bool {
	e, ok := errors.AsType[*Error](fromRPC(err))
	if !ok {
		return false
	}
	if e.Reason != "" {
		return untouched(err)
	}
	switch e.Code {
	// What proxies and gRPC itself make of a stream that was cut.
	case codes.Unavailable, codes.Canceled, codes.Internal, codes.DeadlineExceeded:
		return true
	}
	return false
}
