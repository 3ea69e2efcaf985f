package pipe

import (
	"context"

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
		if in.desc.shared() {
			_ = in.desc.poller.Wait(in.desc.fd, unix.EPOLLIN|unix.EPOLLRDHUP, ctx.Done(), changed)
		} else {
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
		if err := ctx.Err(); err != nil {
			return Readiness{}, err
		}
	}
}

// Arriving reports whether the filler of a sealed end has something to take
// from the kernel right now, so that a change is certain to come.
func (in *Inbox) Arriving() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.desc.shared() || in.closed || in.end != nil || in.fullLocked() {
		return false
	}
	return in.desc.ready(unix.POLLIN|unix.POLLRDHUP) != 0
}

// Arrived returns the position of the next message to arrive, or inside the one
// that is arriving.
func (in *Inbox) Arrived() Position {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.head.position()
}
