package client

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// A connDeadline releases the calls of one direction of a Conn: when their time
// is up, and when the Conn closes. The zero value has no deadline.
type connDeadline struct {
	mu    sync.Mutex
	timer *time.Timer
	// setting counts the calls of set, so that a timer that fired too late for
	// its own does not speak for the next.
	setting uint64
	// err is what calls get from now on; nil while they may run.
	err error
	// calls are those that run.
	calls map[*connCall]struct{}
}

// A connCall is a call that a connDeadline may release.
type connCall struct {
	deadline *connDeadline
	cancel   context.CancelCauseFunc
}

// begin returns a context for one call; its cause says why it was released. The
// caller ends the call.
func (d *connDeadline) begin() (context.Context, *connCall, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return nil, nil, d.err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	call := &connCall{deadline: d, cancel: cancel}
	if d.calls == nil {
		d.calls = make(map[*connCall]struct{})
	}
	d.calls[call] = struct{}{}
	return ctx, call, nil
}

// end must be called once the call is over.
func (c *connCall) end() {
	c.deadline.mu.Lock()
	defer c.deadline.mu.Unlock()
	delete(c.deadline.calls, c)
	c.cancel(nil)
}

// set changes the deadline, also for calls that run; the zero time means none.
func (d *connDeadline) set(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if errors.Is(d.err, net.ErrClosed) {
		return d.err
	}
	d.stopLocked()
	d.setting++
	d.err = nil
	if t.IsZero() {
		return nil
	}
	left := time.Until(t)
	if left <= 0 {
		d.releaseLocked(os.ErrDeadlineExceeded)
		return nil
	}
	setting := d.setting
	d.timer = time.AfterFunc(left, func() { d.expire(setting) })
	return nil
}

func (d *connDeadline) expire(setting uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.setting == setting {
		d.releaseLocked(os.ErrDeadlineExceeded)
	}
}

// close releases every call, now and later, with net.ErrClosed.
func (d *connDeadline) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopLocked()
	d.setting++
	d.releaseLocked(net.ErrClosed)
}

func (d *connDeadline) stopLocked() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func (d *connDeadline) releaseLocked(err error) {
	d.err = err
	for call := range d.calls {
		call.cancel(err)
	}
}
