package pipe

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// WaitReady waits until [Inbox.Ready] finds anything, consuming nothing. It
// returns ErrClosed when the end is closed meanwhile, or the context's error.
func (in *Inbox) WaitReady(ctx context.Context) (Readiness, error) {
	changed, stop := in.Watch()
	defer stop()
	for {
		r, err := in.Ready()
		if err != nil || r.Any() {
			return r, err
		}
		if err := in.waitChange(ctx, changed); err != nil {
			return Readiness{}, err
		}
	}
}

// waitChange waits for a change of the inbox or, on a shared end, which nobody
// reads ahead, for its descriptor.
func (in *Inbox) waitChange(ctx context.Context, changed <-chan struct{}) error {
	in.mu.Lock()
	if in.desc.shared() && !in.closed && in.end == nil {
		in.fillers.Add(1) // keeps the descriptor open
		in.mu.Unlock()
		defer in.fillers.Done()
		if err := in.desc.poller.Wait(in.desc.fd(), unix.EPOLLIN|unix.EPOLLRDHUP, ctx.Done(), changed); !errors.Is(err, errStopped) {
			return err
		}
		return ctx.Err()
	}
	in.mu.Unlock()
	select {
	case <-changed:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// Arriving reports whether the filler of a sealed end has something to take
// from the kernel right now, so that a change is certain to come.
func (in *Inbox) Arriving() bool {
	in.moving.Lock()
	defer in.moving.Unlock()
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.desc.shared() || in.closed || in.end != nil || in.fullLocked() || in.starved {
		return false
	}
	return in.desc.ready(unix.POLLIN|unix.POLLRDHUP) != 0
}
