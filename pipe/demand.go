package pipe

import "golang.org/x/sys/unix"

// A shared end is filled on demand: only while a consumer waits for a message,
// and one message at a time.

// fillOnce reads from a shared descriptor without waiting, unless a filler
// does; it reports whether anything happened.
func (in *Inbox) fillOnce(c *Cursor) bool {
	in.mu.Lock()
	if in.filling || in.closed || in.end != nil || in.wants != nil && in.wants != c || in.fullLocked() {
		in.mu.Unlock()
		return false
	}
	in.filling = true
	in.fillers.Add(1)
	in.mu.Unlock()
	defer in.fillers.Done()
	happened := false
	for !happened {
		n, err := in.readShared()
		if err == unix.EAGAIN {
			break
		}
		happened = in.filled(n, err) || in.complete(c)
	}
	in.mu.Lock()
	in.filling = false
	in.mu.Unlock()
	return happened
}

// complete reports whether there is something for c now.
func (in *Inbox) complete(c *Cursor) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return c.availableLocked() || in.fullLocked()
}

// want lets a filler run until there is something for c.
func (in *Inbox) want(c *Cursor) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed || in.end != nil || in.wants == c || c.availableLocked() {
		return
	}
	in.wants, in.unwanted = c, make(chan struct{})
	if !in.filling {
		in.filling = true
		in.fillers.Go(in.fillWanted)
	}
}

// fillWanted reads a shared descriptor as long as a consumer wants a message.
func (in *Inbox) fillWanted() {
	for {
		in.mu.Lock()
		if in.wants != nil && (in.end != nil || in.wants.availableLocked()) {
			in.wants = nil
		}
		if in.wants == nil || in.closed {
			in.filling = false
			in.mu.Unlock()
			return
		}
		unwanted := in.unwanted
		in.mu.Unlock()
		n, err := in.readShared()
		if err == unix.EAGAIN {
			in.desc.waitReadable(unwanted)
			continue
		}
		in.filled(n, err)
	}
}

// readShared reads at most up to the end of the next message into reserved
// space, so that what follows stays in the kernel for the next reader of the
// end, whoever that is: a socket is peeked first, on a pipe the framing says how
// many bytes it is sure to need.
func (in *Inbox) readShared() (int, error) {
	b := in.reserve()
	var err error
	if in.desc.socket {
		n, perr := in.desc.tryRead(b, true)
		if n > 0 {
			b = b[:in.upToMessageEnd(b[:n])]
		}
		err = perr
	} else if need := in.need(); need < len(b) {
		b = b[:need]
	}
	n := 0
	if err == nil {
		n, err = in.desc.tryRead(b, false)
	}
	if err == unix.EAGAIN {
		in.unreserve()
	}
	return max(n, 0), err
}

// upToMessageEnd returns how many of the peeked bytes belong to the message at
// head.
func (in *Inbox) upToMessageEnd(b []byte) int {
	if _, ok := in.cut.(raw); ok {
		return len(b)
	}
	in.mu.Lock()
	p := in.head
	in.mu.Unlock()
	n := 0
	for n < len(b) {
		seg, err := p.step(in.cut, b[n:])
		n += seg.n
		if err != nil || seg.end {
			break
		}
	}
	return n
}

// need returns how many bytes the message at head is sure to have still.
func (in *Inbox) need() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	if _, ok := in.cut.(mp); !ok {
		return maxPage
	}
	st := &in.head.st
	switch {
	case st.body:
		return int(min(st.left, maxPage)) //nolint:gosec // at most a page
	case st.n >= mpShort:
		return mpLong - int(st.n)
	default:
		return mpShort - int(st.n)
	}
}

