package keeper

import (
	"context"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// Local is a keeper inside this process: the children are ours.
type Local struct {
	log     *slog.Logger
	handled chan os.Signal // nobody reads it; see handleIgnored

	starts  sync.WaitGroup // calls of Start that are under way
	reapers sync.WaitGroup

	mu       sync.Mutex // guards what follows
	closed   bool
	children map[*child]struct{} // not reaped yet
}

var _ Keeper = (*Local)(nil)

// New returns a keeper whose children are children of this process. It marks
// every descriptor from 3 up that this process was started with as
// close-on-exec, and installs handlers for the signals that were ignored at
// its start: they stay without effect on this process, but children get their
// default action. Call it once and early, and Close it.
func New(log *slog.Logger) *Local {
	k := &Local{
		log:      log,
		handled:  make(chan os.Signal, 1),
		children: make(map[*child]struct{}),
	}
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		log.Warn("descriptors inherited by the daemon may reach its children", "error", err)
	}
	if err := handleIgnored(k.handled); err != nil {
		log.Warn("signals ignored by the daemon may be ignored by its children", "error", err)
	}
	return k
}

// Start implements [Keeper].
func (k *Local) Start(ctx context.Context, spec Spec) (Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return nil, ErrClosed
	}
	// Close waits for this, so a child that was made is always adopted.
	k.starts.Add(1)
	k.mu.Unlock()
	defer k.starts.Done()

	pid, pidfd, err := spawn(spec)
	if err != nil {
		return nil, err
	}
	c, err := newChild(pid, pidfd)
	if err != nil {
		abandon(pid)
		return nil, &SpawnError{Step: "watch", Path: spec.Path, Err: err}
	}
	k.mu.Lock()
	k.children[c] = struct{}{}
	k.mu.Unlock()
	k.reapers.Go(func() { k.reap(c) })
	k.log.Debug("process started", "pid", pid, "path", spec.Path)
	return c, nil
}

// reap waits for the exit of c and lets go of it.
func (k *Local) reap(c *child) {
	err := c.wait()
	k.mu.Lock()
	delete(k.children, c)
	k.mu.Unlock()
	c.release()
	if err != nil {
		return // Close came first
	}
	exit := c.Exit()
	k.log.Debug("process exited", "pid", c.pid, "code", exit.Code, "signal", int(exit.Signal))
	close(c.done)
}

// Holders implements [Keeper].
func (k *Local) Holders(ctx context.Context, ends []End) ([][]Holder, error) {
	k.mu.Lock()
	closed := k.closed
	k.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	return scanHolders(ctx, ends)
}

// Close implements [Keeper].
func (k *Local) Close() error {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.starts.Wait()

	k.mu.Lock()
	for c := range k.children {
		c.release() // its reaper wakes up
	}
	k.mu.Unlock()
	k.reapers.Wait()
	signal.Stop(k.handled)
	return nil
}
