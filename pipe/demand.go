package pipe

import (
	"errors"

	"golang.org/x/sys/unix"
)

// A shared end is filled on demand: only while a consumer waits for a message,
// and one message at a time. A look at who wants, and the read that follows from
// it, are one critical section: after [Cursor.Rest] not a byte is taken any more.

// errFull: nothing is read because the log is full.
var errFull = errors.New("log is full, nothing is read")

// pullLocked reads from a shared descriptor until there is something for c or
// the direction has ended. It does not wait: it returns unix.EAGAIN when the
// kernel has nothing more, errFull when the log takes nothing more.
func (in *Inbox) pullLocked(c *Cursor) error {
	for in.end == nil && !c.availableLocked() {
		if !in.roomLocked() {
			return errFull
		}
		n, err := in.readMessageLocked()
		if err == unix.EAGAIN || errors.Is(err, ErrNoSpace) {
			return err
		}
		in.filledLocked(n, err)
	}
	return nil
}

// readMessageLocked reads at most up to the end of the message at head: what
// follows stays in the kernel for the next reader of the end, whoever that is.
func (in *Inbox) readMessageLocked() (int, error) {
	b, err := in.reserveLocked()
	if err != nil {
		return 0, err
	}
	n, err := in.desc.peek(b)
	if n > 0 {
		n, err = in.desc.take(b[:in.upToMessageEndLocked(b[:n])])
	}
	return n, err
}

// upToMessageEndLocked returns how many of the bytes b, which come after head,
// belong to the message there.
func (in *Inbox) upToMessageEndLocked(b []byte) int {
	p, n := in.head, 0
	for n < len(b) {
		seg, err := p.step(in.cut, b[n:])
		n += seg.n
		if err != nil || seg.end {
			break
		}
	}
	return n
}

// wantLocked lets a filler run until there is something for c.
func (in *Inbox) wantLocked(c *Cursor) {
	in.wants = c
	if in.unwanted == nil {
		in.unwanted = make(chan struct{})
	}
	if !in.filling {
		in.filling = true
		in.fillers.Go(in.fillWanted)
	}
}

// restLocked releases the filler if it runs for c.
func (in *Inbox) restLocked(c *Cursor) {
	if c != nil && in.wants == c {
		in.wants = nil
		close(in.unwanted)
		in.unwanted = nil
	}
}

// fillWanted reads a shared descriptor as long as a consumer wants a message.
func (in *Inbox) fillWanted() {
	for {
		in.mu.Lock()
		var err error
		if in.wants != nil && !in.closed {
			if err = in.pullLocked(in.wants); err == nil {
				in.wants = nil
			}
		}
		if in.wants == nil || in.closed {
			in.filling = false
			in.mu.Unlock()
			return
		}
		full, unwanted := in.fullLocked(), in.unwanted
		in.mu.Unlock()
		if errors.Is(err, ErrNoSpace) {
			in.waitSpace()
			continue
		}
		if full {
			select {
			case <-in.room:
			case <-unwanted:
			case <-in.desc.stopRead.ch:
			}
			continue
		}
		if err := in.desc.waitReadable(unwanted); err != nil && !errors.Is(err, errStopped) {
			in.filled(0, err)
		}
	}
}
