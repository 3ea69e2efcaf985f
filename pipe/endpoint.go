package pipe

import (
	"context"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// An Endpoint is the daemon's copy of one end.
type Endpoint struct {
	in  *Inbox  // nil when the end cannot receive
	out *Outbox // nil when the end cannot send

	num         int // 1 or 2
	sealed      bool
	slot        int         // in control; -1 without
	sent        *record     // of the sending direction; nil without control
	control     *Control    // keeps the records of the directions; may be nil
	read, write *descriptor // the same for a socket; nil without that direction
	terminal    *terminal   // nil without one

	mu        sync.Mutex
	closing   bool
	halfClose bool // CloseSend was called
	hungUp    bool // the sending direction is closed
	retired   bool // Retire gave the descriptors back
	closed    chan struct{}
	drop      sync.Once
	// lastRead is what AllRead knew when the sending descriptor was closed.
	lastRead *bool
}

// Inbox returns what came out of the end, or ErrWrongDirection.
func (e *Endpoint) Inbox() (*Inbox, error) {
	if e.in == nil {
		return nil, ErrWrongDirection
	}
	return e.in, nil
}

// Outbox returns what is sent into the end, or ErrWrongDirection.
func (e *Endpoint) Outbox() (*Outbox, error) {
	if e.out == nil {
		return nil, ErrWrongDirection
	}
	return e.out, nil
}

// Slot returns the slot of the pipe in its [Control], -1 without one.
func (e *Endpoint) Slot() int { return e.slot }

// Sealed reports whether the end can never be inherited.
func (e *Endpoint) Sealed() bool { return e.sealed }

// Descriptors returns the numbers of the daemon's copies for reading and
// writing, -1 where there is none. They stay the endpoint's and are valid until
// it is closed.
func (e *Endpoint) Descriptors() (read, write int) {
	read, write = -1, -1
	if e.read != nil {
		read = e.read.fd()
	}
	if e.write != nil {
		write = e.write.fd()
	}
	return read, write
}

// A Copy is a caller's own copy of an end, to be given to a process. Close it: it
// counts as a copy of the end.
type Copy struct {
	// Read and Write are descriptor numbers, -1 where the end does not work in
	// that direction; for a socket both are the same.
	Read, Write int
}

// Close closes the copy.
func (c Copy) Close() {
	if c.Read >= 0 {
		_ = unix.Close(c.Read)
	}
	if c.Write >= 0 && c.Write != c.Read {
		_ = unix.Close(c.Write)
	}
}

// Copy makes a copy of the end that stays valid whatever happens to the
// endpoint meanwhile. It returns ErrClosed once the endpoint is closing.
func (e *Endpoint) Copy() (Copy, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := Copy{Read: -1, Write: -1}
	if e.closing || e.retired || e.hungUp && e.read != e.write {
		return c, ErrClosed
	}
	var err error
	if e.read != nil {
		if c.Read, err = duplicate(e.read.fd()); err != nil {
			return c, err
		}
	}
	switch {
	case e.write == e.read:
		c.Write = c.Read
	case e.write != nil:
		if c.Write, err = duplicate(e.write.fd()); err != nil {
			c.Close()
		}
	}
	return c, err
}

func duplicate(fd int) (int, error) {
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	return copied, nil
}

// hangup half-closes: the outbox has handed over everything and is closing. On
// a socket this acts on every copy of the end in every process.
func (e *Endpoint) hangup(handedOver bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.write.tty: // the way out would be closed too
	case e.write != e.read:
		e.rememberReadLocked(handedOver)
		e.write.close()
	case e.halfClose:
		e.write.shutdown(unix.SHUT_WR)
	}
	e.hungUp = true
}

// CloseSend is half-close: what was accepted is handed over (or dropped, with
// discard), then the sending direction closes. It does not wait; see
// [Outbox.Flushed]. On a terminal it types the end of input, once, and returns
// ErrTerminalRaw where that means nothing.
func (e *Endpoint) CloseSend(discard bool) error {
	if e.out == nil {
		return ErrWrongDirection
	}
	if e.write.tty {
		if err := e.out.endInput(); err != nil {
			return err
		}
	}
	e.mu.Lock()
	e.halfClose = true
	e.mu.Unlock()
	e.out.mark(flagHalfClose | flagClosing)
	e.out.Close(discard)
	return nil
}

// Close closes the end: receiving at once, sending once everything that was
// accepted is handed over (or dropped, with discard). It releases everyone who
// waits on the end and does not wait itself; see [Endpoint.Closed]. Closing
// again is harmless and may still discard.
func (e *Endpoint) Close(discard bool) {
	e.mu.Lock()
	e.closing = true
	e.mu.Unlock()
	if e.in != nil {
		e.in.close()
		e.read.interruptRead()
	}
	if e.out != nil {
		e.out.mark(flagEndClosed)
		e.out.Close(discard)
	}
	e.drop.Do(func() { go e.release() })
}

// release frees the inbox, and closes the descriptors once the outbox is done.
func (e *Endpoint) release() {
	defer close(e.closed)
	if e.control != nil {
		defer e.control.leave()
	}
	if e.in != nil {
		e.in.fillers.Wait()
		e.in.free()
		e.stopReceiving()
	}
	if e.out != nil {
		<-e.out.Flushed()
		e.out.drainers.Wait()
		e.out.free()
	}
	handedOver := e.out != nil && e.out.handedOver()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rememberReadLocked(handedOver)
	e.terminal.close()
	ends{e.read, e.write}.close()
}

// stopReceiving lets the other end know that nobody reads any more, so that it
// does not wait for us while we wait for it to take what is left. On a socket
// that acts on all copies of the end, so it is done only where there are none.
func (e *Endpoint) stopReceiving() {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.read != e.write:
		e.read.close()
	case e.sealed:
		e.read.shutdown(unix.SHUT_RD)
	}
}

// Retire gives the descriptors back of an end at which nothing can flow any
// more (see [Endpoint.HungUp]), unless the kernel may still hold bytes that came
// out of it. What is in the inbox can still be received, also by whoever comes
// after this process, and sending is a broken pipe, as before. The logs keep the
// descriptors of their files: see [Endpoint.RetireLogs].
func (e *Endpoint) Retire() {
	if _, going := e.Abandoned(); going {
		return // whoever holds the other end would get SIGPIPE
	}
	if e.in != nil && e.in.End() == nil || e.out != nil && !e.out.abandon() {
		return
	}
	if e.in != nil {
		e.in.fillers.Wait()
		e.in.wontGrow()
	}
	handedOver := e.out != nil && e.out.handedOver()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rememberReadLocked(handedOver)
	e.retired = true
	e.terminal.close()
	ends{e.read, e.write}.close()
}

// RetireLogs gives back what a retired end still has, the descriptors of its logs,
// also the vault's copies; on another end it does nothing. What is in the inbox can
// still be received, but not by whoever comes after this process: there it counts as
// dropped.
func (e *Endpoint) RetireLogs() {
	e.mu.Lock()
	retired := e.retired
	e.mu.Unlock()
	if !retired {
		return
	}
	if e.in != nil {
		e.in.retire()
	}
	if e.out != nil {
		e.out.retire()
	}
}

// Closing reports whether Close was called.
func (e *Endpoint) Closing() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closing
}

// Closed is closed when the daemon's copy is gone.
func (e *Endpoint) Closed() <-chan struct{} { return e.closed }

// Flush waits until everything that was accepted lies in the kernel. It returns
// the context's error if that ends first, and ErrBrokenPipe or ErrClosed if it
// will not happen.
func (e *Endpoint) Flush(ctx context.Context) error {
	if e.out == nil {
		return nil
	}
	changed, stop := e.out.Watch()
	defer stop()
	if err := e.out.Push(); err != nil {
		return err
	}
	for {
		if done, err := e.out.delivered(); done || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// AllRead reports whether the other end has read all that was accepted for the
// end. The answer is final once no copy of the other end is left. It is not known
// for an end that cannot send, nor for one that was closed while the other end
// still had something to read, nor of a terminal.
func (e *Endpoint) AllRead() (all, known bool) {
	if e.out == nil || e.write.tty {
		return false, false
	}
	handedOver := e.out.handedOver()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.write.isClosed() {
		return e.lastRead != nil && *e.lastRead, e.lastRead != nil
	}
	return handedOver && e.nothingUnreadLocked(), true
}

// nothingUnreadLocked reports whether the other end has read all that was handed
// over.
func (e *Endpoint) nothingUnreadLocked() bool {
	return e.write.unread() == 0 && (!e.write.socket || e.write.keptUnread())
}

// rememberReadLocked keeps what AllRead knows for good, before the sending
// descriptor is closed.
func (e *Endpoint) rememberReadLocked(handedOver bool) {
	if e.out == nil || e.write.tty || e.write.isClosed() {
		return
	}
	all := handedOver && e.nothingUnreadLocked()
	gone := e.write.ready(unix.POLLOUT)&(unix.POLLERR|unix.POLLHUP) != 0
	switch {
	case all:
		e.sent.set(flagAllRead)
	case gone:
		e.sent.set(flagNotAllRead)
	default:
		return
	}
	e.lastRead = &all
}

// HungUp reports whether no copy of the other end is left, or what comes of it is
// thrown away: nothing more can come or be read there. It consumes nothing.
func (e *Endpoint) HungUp() bool {
	abandoned, _ := e.Abandoned()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing || e.retired {
		return true
	}
	switch {
	case e.read != nil && !abandoned && e.read.ready(unix.POLLIN)&unix.POLLHUP == 0:
		return false
	case e.write == nil || e.write == e.read || e.hungUp:
		return true
	}
	return e.write.broken()
}
