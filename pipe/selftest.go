package pipe

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A Check is one thing that [SelfTest] tried out.
type Check struct {
	Name string
	// Err is what happened instead; nil if it works.
	Err error
}

// SelfTest tries out, in some milliseconds and with descriptors of its own, what
// exact moves ask of the kernel. Where all checks pass, a [Control] may be used;
// where one does not (gVisor, old kernels), logs must stay in memory.
func SelfTest() []Check {
	checks := []struct {
		name string
		try  func(*trial) error
	}{
		{"log-file", (*trial).file},
		{"socket-peek-cursor", (*trial).peekCursor},
		{"pipe-splice-cursor", (*trial).spliceCursor},
		{"pipe-sendfile-cursor", (*trial).pipeSendfile},
		{"socket-sendfile-cursor", (*trial).socketSendfile},
	}
	results := make([]Check, len(checks))
	for i, c := range checks {
		t := &trial{}
		results[i] = Check{Name: c.name, Err: c.try(t)}
		t.close()
	}
	return results
}

// A trial holds what one check uses.
type trial struct {
	fds []int
	log log
}

func (t *trial) close() {
	t.log.drop()
	for _, fd := range t.fds {
		_ = unix.Close(fd)
	}
}

func (t *trial) pair() (a, b *descriptor, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	t.fds = append(t.fds, fds[:]...)
	return bareDescriptor(fds[0], true), bareDescriptor(fds[1], true), nil
}

func (t *trial) pipe() (r, w *descriptor, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	t.fds = append(t.fds, fds[:]...)
	return bareDescriptor(fds[0], false), bareDescriptor(fds[1], false), nil
}

// open makes the file of the trial's log.
func (t *trial) open() error {
	t.log.releaseStep = pageSize
	t.log.open = func() (space, error) {
		fd, err := newMemfd("piped-self-test")
		return &memfdSpace{fd: fd}, err
	}
	_, err := t.log.reserve()
	return err
}

var sample = bytes.Repeat([]byte("piped"), 3*pageSize/5)

func equal(what string, got, want any) error {
	if got != want {
		return fmt.Errorf("%s is %v, expected %v", what, got, want)
	}
	return nil
}

// file: a file in memory that grows, gives pages back, and cannot shrink.
func (t *trial) file() error {
	if err := t.open(); err != nil {
		return err
	}
	if err := t.log.write(sample); err != nil {
		return err
	}
	fd := t.log.space.(*memfdSpace).fd
	if err := unix.Ftruncate(fd, 0); err == nil {
		return fmt.Errorf("the file can be made shorter although it is sealed")
	}
	t.log.release(pageSize)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if held := t.log.allocated - pageSize; uint64(st.Blocks)*512 > held { //nolint:gosec // not negative
		return fmt.Errorf("%d bytes of memory are held after a release, expected %d", st.Blocks*512, held)
	}
	return nil
}

// peekCursor: the peek offset counts what was looked at, from whatever descriptor
// it is asked, and goes back by what is taken out.
func (t *trial) peekCursor() error {
	a, b, err := t.pair()
	if err != nil {
		return err
	}
	p := &cursorPort{a, &t.log}
	if err := p.unpeek(); err != nil {
		return err
	}
	if _, err := unix.Write(b.fd(), sample[:100]); err != nil {
		return os.NewSyscallError("write", err)
	}
	buf := make([]byte, 60)
	if n, err := p.peek(buf); err != nil || n != len(buf) {
		return fmt.Errorf("peek: %d, %w", n, err)
	}
	if n, err := p.peek(buf); err != nil || n != 40 || !bytes.Equal(buf[:n], sample[60:100]) {
		return fmt.Errorf("a second peek does not go on behind the first: %d, %w", n, err)
	}
	other, err := unix.Dup(a.fd())
	if err != nil {
		return os.NewSyscallError("dup", err)
	}
	t.fds = append(t.fds, other)
	seen := &cursorPort{bareDescriptor(other, true), &t.log}
	for taken, left := range map[int]int{30: 70} {
		if n, err := p.consume(taken); err != nil || n != taken {
			return fmt.Errorf("consume: %d, %w", n, err)
		}
		got, err := seen.peeked()
		if err != nil {
			return err
		}
		if err := equal("the peek offset after a consume", got, left); err != nil {
			return err
		}
	}
	return nil
}

// spliceCursor: splice moves the bytes and the file position together.
func (t *trial) spliceCursor() error {
	r, w, err := t.pipe()
	if err != nil {
		return err
	}
	if err := t.open(); err != nil {
		return err
	}
	if _, err := unix.Write(w.fd(), sample[:300]); err != nil {
		return os.NewSyscallError("write", err)
	}
	p := &cursorPort{r, &t.log}
	for _, want := range []uint64{200, 300} {
		if _, err := p.splice(200); err != nil {
			return os.NewSyscallError("splice", err)
		}
		at, err := p.position()
		if err != nil {
			return err
		}
		if err := equal("the file position after a splice", at, want); err != nil {
			return err
		}
	}
	t.log.commit(300)
	if !bytes.Equal(t.log.from(0), sample[:300]) {
		return fmt.Errorf("what was spliced is not what is seen in the file")
	}
	if _, err := p.splice(1); err != unix.EAGAIN {
		return fmt.Errorf("splice from an empty pipe: %w, expected EAGAIN", err)
	}
	return nil
}

func (t *trial) pipeSendfile() error {
	r, w, err := t.pipe()
	if err != nil {
		return err
	}
	return t.sendfile(r, w)
}

func (t *trial) socketSendfile() error {
	a, b, err := t.pair()
	if err != nil {
		return err
	}
	return t.sendfile(a, b)
}

// sendfile: the bytes and the file position move together, and pages that are
// given back afterwards stay as they were for whoever reads them.
func (t *trial) sendfile(r, w *descriptor) error {
	if err := t.open(); err != nil {
		return err
	}
	if err := t.log.write(sample); err != nil {
		return err
	}
	p := &cursorPort{w, &t.log}
	n, err := p.sendfile(len(sample) - 10)
	if err != nil {
		return os.NewSyscallError("sendfile", err)
	}
	at, err := p.position()
	if err != nil {
		return err
	}
	if err := equal("the file position after a sendfile", at, uint64(n)); err != nil { //nolint:gosec // not negative
		return err
	}
	t.log.release(t.log.releasable(at))
	got := make([]byte, n)
	for have := 0; have < n; {
		m, err := unix.Read(r.fd(), got[have:])
		if err != nil || m == 0 {
			return fmt.Errorf("reading what was sent: %d, %w", m, err)
		}
		have += m
	}
	if !bytes.Equal(got, sample[:n]) {
		return fmt.Errorf("pages that were given back changed for who had them to read")
	}
	return nil
}
