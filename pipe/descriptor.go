package pipe

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/piped-dev/piped/failpoint"
	"golang.org/x/sys/unix"
)

// errStopped: a wait was ended by whoever waits, not by the descriptor.
var errStopped = errors.New("stopped")

// A descriptor is the daemon's copy of an end, or of one half of it. A sealed
// one is non-blocking and lives in Go's poller; a shared one stays blocking, so
// every call on it carries its own "do not wait".
type descriptor struct {
	// number is -1 once the descriptor is closed: the kernel gives the old one to
	// whoever opens something next, and a call that came too late would hit that.
	number   atomic.Int32
	socket   bool
	unsealed bool
	poller   *Poller

	file *os.File // sealed only
	conn syscall.RawConn

	stopRead, stopWrite stopper
	closeOnce           sync.Once
	closed              atomic.Bool
	kept                deposit // removed before the descriptor is closed
	// tty: it is the master of a terminal.
	tty bool
	// reset: the other end was closed with input unread. The kernel says so once,
	// to whoever receives.
	reset atomic.Bool
	// ended: what came out of the socket has ended, and whether by a reset is known.
	ended atomic.Bool
	logs  *atomic.Int64 // logs that may yet need a descriptor
}

// A stopper ends the waits of one direction, for good.
type stopper struct {
	once sync.Once
	ch   chan struct{}
}

// bareDescriptor is one with which calls can be made and nothing waited for.
func bareDescriptor(fd int, socket bool) *descriptor {
	d := &descriptor{socket: socket}
	d.number.Store(int32(fd)) //nolint:gosec // a descriptor
	d.stopRead.ch, d.stopWrite.ch = make(chan struct{}), make(chan struct{})
	return d
}

// fd returns the number of the descriptor, -1 once it is closed.
func (d *descriptor) fd() int { return int(d.number.Load()) }

// newDescriptor takes fd over.
func newDescriptor(fd int, socket, sealed bool, poller *Poller) (*descriptor, error) {
	d := bareDescriptor(fd, socket)
	d.unsealed, d.poller, d.logs = !sealed, poller, &poller.unmade
	if !sealed {
		return d, nil
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	d.file = os.NewFile(uintptr(fd), "pipe")
	conn, err := d.file.SyscallConn()
	if err != nil {
		_ = d.file.Close()
		return nil, err
	}
	d.conn = conn
	return d, nil
}

// goneDescriptor stands for one that was closed before.
func goneDescriptor(socket, sealed bool, poller *Poller) *descriptor {
	d := bareDescriptor(-1, socket)
	d.unsealed, d.poller, d.logs = !sealed, poller, &poller.unmade
	d.interruptRead()
	d.interruptWrite()
	d.closeOnce.Do(func() { d.closed.Store(true) })
	return d
}

func closeFD(fd *int, really bool) {
	if really && *fd >= 0 {
		_ = unix.Close(*fd)
	}
	*fd = -1
}

// shared reports whether the end may be inherited.
func (d *descriptor) shared() bool { return d.unsealed }

// interruptRead releases whoever waits to read, for good.
func (d *descriptor) interruptRead() {
	d.stopRead.once.Do(func() {
		close(d.stopRead.ch)
		if d.file != nil {
			_ = d.file.SetReadDeadline(time.Unix(1, 0))
		}
	})
}

// interruptWrite releases whoever waits to write, for good.
func (d *descriptor) interruptWrite() {
	d.stopWrite.once.Do(func() {
		close(d.stopWrite.ch)
		if d.file != nil {
			_ = d.file.SetWriteDeadline(time.Unix(1, 0))
		}
	})
}

// close closes the daemon's copy. Nobody may be using d any more. Closing again
// does nothing.
func (d *descriptor) close() {
	d.closeOnce.Do(func() {
		d.closed.Store(true)
		d.interruptRead()
		d.interruptWrite()
		fd := int(d.number.Swap(-1))
		d.poller.Forget(fd)
		d.kept.remove() // or it would hold the other end up
		failpoint.Hit("descriptor.after-remove")
		if d.file != nil {
			_ = d.file.Close()
			return
		}
		_ = unix.Close(fd)
	})
}

// isClosed reports whether the daemon's copy is gone.
func (d *descriptor) isClosed() bool { return d.closed.Load() }

// whenReadable calls f until it returns anything but unix.EAGAIN, waiting for
// bytes in between. The attempt is made inside the wait: Go's poller is
// edge-triggered, and an edge between an attempt and the wait would be lost. Only
// for sealed descriptors.
func (d *descriptor) whenReadable(f func() error) (err error) {
	werr := d.conn.Read(func(uintptr) bool {
		err = f()
		return err != unix.EAGAIN
	})
	if werr != nil {
		return errStopped
	}
	return err
}

// peek copies what is there to b and consumes nothing, but for a reset, which
// only one look can see. It does not wait: unix.EAGAIN when nothing is there.
// Only for shared descriptors, as take.
func (d *descriptor) peek(b []byte) (int, error) {
	if d.socket {
		return d.recv(b, unix.MSG_PEEK)
	}
	return d.poller.scratch.peek(d.fd(), b)
}

// take reads without waiting; unix.EAGAIN when nothing is there.
func (d *descriptor) take(b []byte) (int, error) {
	if d.socket {
		return d.recv(b, 0)
	}
	return d.poller.scratch.take(d.fd(), b)
}

func (d *descriptor) recv(b []byte, flags int) (int, error) {
	return ignoringEINTR(func() (int, error) {
		n, _, err := unix.Recvfrom(d.fd(), b, flags|unix.MSG_DONTWAIT)
		return n, err
	})
}

// tryWrite writes what fits without waiting; unix.EAGAIN when nothing does.
func (d *descriptor) tryWrite(vecs [][]byte) (int, error) {
	switch {
	case d.socket:
		return ignoringEINTR(func() (int, error) {
			return unix.SendmsgBuffers(d.fd(), vecs, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		})
	case d.shared():
		return d.poller.scratch.put(d.fd(), vecs)
	}
	return ignoringEINTR(func() (int, error) { return unix.Writev(d.fd(), vecs) })
}

// whenWritable is whenReadable for sending, on any descriptor.
func (d *descriptor) whenWritable(f func() (int, error)) (n int, err error) {
	if d.shared() {
		for {
			if n, err = f(); err != unix.EAGAIN {
				return n, err
			}
			if err = d.poller.Wait(d.fd(), unix.EPOLLOUT, d.stopWrite.ch, nil); err != nil {
				return 0, err
			}
		}
	}
	werr := d.conn.Write(func(uintptr) bool {
		n, err = f()
		return err != unix.EAGAIN
	})
	if werr != nil {
		return 0, errStopped
	}
	return n, err
}

// waitReadable blocks until a shared descriptor is readable; errStopped means
// that reading is interrupted or stop is closed.
func (d *descriptor) waitReadable(stop <-chan struct{}) error {
	return d.poller.Wait(d.fd(), unix.EPOLLIN|unix.EPOLLRDHUP, d.stopRead.ch, stop)
}

// unread returns how much of what was written the other end has not read: bytes
// on a pipe, on a socket some number that is 0 when everything was read. It is -1
// where that cannot be known.
func (d *descriptor) unread() int {
	if d.tty {
		return -1 // the kernel does not tell
	}
	req := uint(unix.TIOCINQ)
	if d.socket {
		req = unix.TIOCOUTQ
	}
	n, err := unix.IoctlGetInt(d.fd(), req)
	if err != nil {
		return -1
	}
	return n
}

// keptUnread reports whether what the other end of a socket has not read, if
// anything, is still counted: a peer that goes away takes it with it, and leaves a
// reset, which whoever receives may be just taking. Ask after looking at the
// count.
func (d *descriptor) keptUnread() bool {
	ev := d.ready(0)
	if ev&(unix.POLLHUP|unix.POLLERR) == unix.POLLHUP {
		ev |= d.ready(0) // the other end hangs up first and leaves the reset then
	}
	return ev&unix.POLLERR == 0 && (ev&unix.POLLHUP == 0 || d.ended.Load()) && !d.reset.Load()
}

// shutdown closes a direction of a socket for all its holders. A socket whose
// other end is gone refuses it, rightly.
func (d *descriptor) shutdown(how int) { _ = unix.Shutdown(d.fd(), how) }

// broken reports whether nobody reads any more what is written here. It consumes
// nothing. A socket may have been shut by a reader who reads what it has.
func (d *descriptor) broken() bool {
	want := int16(unix.POLLERR)
	if d.tty {
		want = unix.POLLHUP
	}
	return d.ready(unix.POLLOUT)&want != 0
}

// ready polls without waiting and without consuming anything, a pending reset
// included.
func (d *descriptor) ready(events int16) int16 {
	fds := []unix.PollFd{{Fd: int32(d.fd()), Events: events}} //nolint:gosec // a descriptor
	if _, err := unix.Poll(fds, 0); err != nil {
		return 0
	}
	return fds[0].Revents
}

// ignoringEINTR repeats a call that a signal interrupted before it did anything.
func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}
