package pipe

import (
	"context"
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Kind is the kind of a pipe.
type Kind uint8

// The kinds of pipes.
const (
	// Duplex is a stream socket pair.
	Duplex Kind = iota + 1
	// OneWay is a kernel pipe: end 1 receives, end 2 sends, as the two
	// connections of Python's Pipe(duplex=False).
	OneWay
	// Stdio is two kernel pipes: end 1 writes a process's standard input and
	// reads its standard output.
	Stdio
	// StdinOnly and StdoutOnly are one half of Stdio.
	StdinOnly
	StdoutOnly
)

// Overflow is what a full inbox does.
type Overflow uint8

// The ways to overflow.
const (
	// Block stops reading.
	Block Overflow = iota
	// DropOldest drops the oldest messages and counts them.
	DropOldest
)

// A Spec says what pipe to make.
type Spec struct {
	Kind Kind
	// In is the framing of what goes into end 1 and comes out of end 2, Out of
	// what comes out of end 1.
	In, Out Framing
	// LogSize bounds each direction, in bytes, and must not be 0; TailSize is kept
	// beyond what is acknowledged.
	LogSize, TailSize uint64
	// MaxMessage is the largest payload where the framing has no smaller limit; it
	// must not be 0.
	MaxMessage uint64
	Overflow   Overflow
	// Sealed: end 1 will never be inherited.
	Sealed bool
}

// partSize keeps a part well below the log, so that a log that is full of one
// message always has a part to deliver.
func (s *Spec) partSize() uint64 { return min(DefaultPart, max(s.LogSize/2, 1)) }

// An Endpoint is the daemon's copy of one end.
type Endpoint struct {
	in  *Inbox  // nil when the end cannot receive
	out *Outbox // nil when the end cannot send

	sealed      bool
	read, write *descriptor // the same for a socket; nil without that direction

	mu        sync.Mutex
	closing   bool
	halfClose bool // CloseSend was called
	hungUp    bool // the sending direction is closed
	retired   bool // Retire gave the descriptors back
	closed    chan struct{}
	drop      sync.Once
}

// Open makes a pipe and returns the daemon's copies of its ends 1 and 2.
func Open(poller *Poller, spec Spec) (one, two *Endpoint, err error) {
	if err := errors.Join(spec.In.Check(), spec.Out.Check()); err != nil {
		return nil, nil, err
	}
	fds, err := openDescriptors(poller, spec.Kind, spec.Sealed)
	if err != nil {
		return nil, nil, err
	}
	if one, err = newEndpoint(fds[0], spec.Out, spec.In, &spec, spec.Sealed); err != nil {
		return nil, nil, err
	}
	two, err = newEndpoint(fds[1], spec.In, spec.Out, &spec, false)
	return one, two, err
}

// ends are the descriptors of one end.
type ends struct{ read, write *descriptor }

func openDescriptors(poller *Poller, kind Kind, sealed bool) (fds [2]ends, err error) {
	defer func() {
		if err != nil {
			for _, e := range fds {
				e.close()
			}
		}
	}()
	if kind == Duplex {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fds, os.NewSyscallError("socketpair", err)
		}
		for i, fd := range pair {
			d, derr := newDescriptor(fd, true, sealed && i == 0, poller)
			if derr != nil {
				err = derr
				continue
			}
			fds[i] = ends{d, d}
		}
		return fds, err
	}
	if kind == Stdio || kind == StdinOnly {
		if fds[1].read, fds[0].write, err = openPipe(poller, false, sealed); err != nil {
			return fds, err
		}
	}
	if kind != StdinOnly {
		fds[0].read, fds[1].write, err = openPipe(poller, sealed, false)
	}
	return fds, err
}

func openPipe(poller *Poller, readSealed, writeSealed bool) (r, w *descriptor, err error) {
	var pair [2]int
	if err := unix.Pipe2(pair[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	if r, err = newDescriptor(pair[0], false, readSealed, poller); err != nil {
		_ = unix.Close(pair[1])
		return nil, nil, err
	}
	if w, err = newDescriptor(pair[1], false, writeSealed, poller); err != nil {
		r.close()
		return nil, nil, err
	}
	return r, w, nil
}

func (e ends) close() {
	for _, d := range []*descriptor{e.read, e.write} {
		if d != nil {
			d.close()
		}
	}
}

func newEndpoint(fds ends, in, out Framing, spec *Spec, sealed bool) (*Endpoint, error) {
	e := &Endpoint{sealed: sealed, read: fds.read, write: fds.write, closed: make(chan struct{})}
	var err error
	if e.read != nil {
		if e.in, err = newInbox(e.read, in, spec); err != nil {
			return nil, err
		}
	}
	if e.write != nil {
		if e.out, err = newOutbox(e.write, out, spec, e.hangup); err != nil {
			return nil, err
		}
	}
	if sealed && e.in != nil {
		e.in.start()
	}
	return e, nil
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

// Sealed reports whether the end can never be inherited.
func (e *Endpoint) Sealed() bool { return e.sealed }

// Descriptors returns the numbers of the daemon's copies for reading and
// writing, -1 where there is none. They stay the endpoint's and are valid until
// it is closed.
func (e *Endpoint) Descriptors() (read, write int) {
	read, write = -1, -1
	if e.read != nil {
		read = e.read.fd
	}
	if e.write != nil {
		write = e.write.fd
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
		if c.Read, err = duplicate(e.read.fd); err != nil {
			return c, err
		}
	}
	switch {
	case e.write == e.read:
		c.Write = c.Read
	case e.write != nil:
		if c.Write, err = duplicate(e.write.fd); err != nil {
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
func (e *Endpoint) hangup() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hungUp = true
	switch {
	case e.write != e.read:
		e.write.close()
	case e.halfClose:
		_ = unix.Shutdown(e.write.fd, unix.SHUT_WR)
	}
}

// CloseSend is half-close: what was accepted is handed over (or dropped, with
// discard), then the sending direction closes. It does not wait; see
// [Outbox.Flushed].
func (e *Endpoint) CloseSend(discard bool) error {
	if e.out == nil {
		return ErrWrongDirection
	}
	e.mu.Lock()
	e.halfClose = true
	e.mu.Unlock()
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
		e.out.Close(discard)
	}
	e.drop.Do(func() { go e.release() })
}

// release frees the inbox, and closes the descriptors once the outbox is done.
func (e *Endpoint) release() {
	defer close(e.closed)
	if e.in != nil {
		e.in.fillers.Wait()
		e.in.free()
		e.stopReceiving()
	}
	if e.out != nil {
		<-e.out.Flushed()
		e.out.drainers.Wait()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
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
		_ = unix.Shutdown(e.read.fd, unix.SHUT_RD)
	}
}

// Retire gives the descriptors back of an end at which nothing can flow any
// more (see [Endpoint.HungUp]), unless the kernel may still hold bytes that came
// out of it. What is in the inbox can still be received, and sending is a broken
// pipe, as before.
func (e *Endpoint) Retire() {
	if e.in != nil && e.in.End() == nil || e.out != nil && !e.out.abandon() {
		return
	}
	if e.in != nil {
		e.in.fillers.Wait()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.retired = true
	ends{e.read, e.write}.close()
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

// HungUp reports whether no copy of the other end is left: nothing more can
// come or be read there. It consumes nothing.
func (e *Endpoint) HungUp() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing || e.retired {
		return true
	}
	switch {
	case e.read != nil && e.read.ready(unix.POLLIN)&unix.POLLHUP == 0:
		return false
	case e.write == nil || e.write == e.read || e.hungUp:
		return true
	}
	return e.write.ready(unix.POLLOUT)&unix.POLLERR != 0
}
