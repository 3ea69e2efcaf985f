package pipe

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A port is what the exact moves ask of the kernel. Behind it are the descriptor
// of one direction and the file of its log. The kernel keeps two counters in
// them that outlive every process: the peek offset of the socket and the file
// position of the log. Each call does one thing, which a process that is killed
// has done or has not done.
//
// No call waits: unix.EAGAIN when nothing can be done now.
type port interface {
	// ready reports whether there is anything to be received, and whether a reset
	// is among it: only one look at it will see that.
	ready() (readable, reset bool)
	// peek copies bytes from the peek offset on and moves that behind them; 0 is
	// end of file.
	peek(b []byte) (int, error)
	// consume takes up to n bytes out of the socket, which brings the peek offset
	// back by as many.
	consume(n int) (int, error)
	// peeked returns the peek offset.
	peeked() (int, error)
	// unpeek sets it to 0.
	unpeek() error
	// splice moves up to n bytes out of the pipe into the log file at its
	// position, and that behind them; 0 is end of file.
	splice(n int) (int, error)
	// sendfile moves up to n bytes from the log file at its position into the pipe
	// or socket, and the position behind them.
	sendfile(n int) (int, error)
	// position returns the position of the log file.
	position() (uint64, error)
}

// A cursorPort is a port to the real kernel. Only one goroutine at a time may
// receive through it, and one send.
type cursorPort struct {
	d *descriptor
	l *log
}

func (p *cursorPort) ready() (readable, reset bool) {
	ev := p.d.ready(unix.POLLIN | unix.POLLRDHUP)
	if ev&(unix.POLLHUP|unix.POLLERR) == unix.POLLHUP {
		ev |= p.d.ready(0) // the other end hangs up first and leaves the reset then
	}
	return ev != 0, ev&unix.POLLERR != 0
}

func (p *cursorPort) peek(b []byte) (int, error) { return p.d.recv(b, unix.MSG_PEEK) }

// consumed are buffers for bytes that nobody looks at.
var consumed = sync.Pool{New: func() any { b := make([]byte, maxStep); return &b }}

func (p *cursorPort) consume(n int) (int, error) {
	b := consumed.Get().(*[]byte)
	defer consumed.Put(b)
	return p.d.recv((*b)[:min(n, len(*b))], 0)
}

func (p *cursorPort) peeked() (int, error) {
	n, err := unix.GetsockoptInt(p.d.fd(), unix.SOL_SOCKET, unix.SO_PEEK_OFF)
	return n, os.NewSyscallError("getsockopt", err)
}

func (p *cursorPort) unpeek() error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(p.d.fd(), unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0))
}

// file returns the log's file, which must be there.
func (p *cursorPort) file() int { return p.l.space.(*memfdSpace).fd }

func (p *cursorPort) splice(n int) (int, error) {
	return ignoringEINTR(func() (int, error) {
		moved, err := unix.Splice(p.d.fd(), nil, p.file(), nil, n, unix.SPLICE_F_NONBLOCK)
		return max(int(moved), 0), err
	})
}

func (p *cursorPort) sendfile(n int) (int, error) {
	return ignoringEINTR(func() (int, error) {
		moved, err := unix.Sendfile(p.d.fd(), p.file(), nil, n)
		return max(moved, 0), err
	})
}

func (p *cursorPort) position() (uint64, error) {
	if p.l.space == nil {
		return 0, nil // nothing was ever moved
	}
	off, err := unix.Seek(p.file(), 0, unix.SEEK_CUR)
	if err != nil {
		return 0, os.NewSyscallError("lseek", err)
	}
	return uint64(off), nil //nolint:gosec // not negative
}
