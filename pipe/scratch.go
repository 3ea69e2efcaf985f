package pipe

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A scratch is a kernel pipe of our own, through which bytes of other pipes are
// looked at and moved without waiting. Those pipes are blocking, so read and
// write on them would wait as soon as another holder is faster; tee and splice
// take "do not wait" as a flag on every kernel (preadv2 does on pipes only since
// Linux 6.4). It is empty between uses.
type scratch struct {
	mu   sync.Mutex
	r, w int
}

func newScratch() (*scratch, error) {
	var pair [2]int
	if err := unix.Pipe2(pair[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	return &scratch{r: pair[0], w: pair[1]}, nil
}

func (s *scratch) close() {
	_ = unix.Close(s.r)
	_ = unix.Close(s.w)
}

// peek copies what lies in the pipe fd to b and leaves it there. 0 is end of
// file, unix.EAGAIN an empty pipe.
func (s *scratch) peek(fd int, b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := ignoringEINTR(func() (int, error) {
		n, err := unix.Tee(fd, s.w, len(b), unix.SPLICE_F_NONBLOCK)
		return int(n), err
	})
	if err != nil || n <= 0 {
		return 0, err
	}
	return s.readLocked(b[:n])
}

// take moves bytes from the pipe fd to b.
func (s *scratch) take(fd int, b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := splice(fd, s.w, len(b))
	if err != nil || n == 0 {
		return 0, err
	}
	return s.readLocked(b[:n])
}

// readLocked fills b from the scratch.
func (s *scratch) readLocked(b []byte) (int, error) {
	for n := 0; n < len(b); {
		got, err := ignoringEINTR(func() (int, error) { return unix.Read(s.r, b[n:]) })
		if err != nil {
			return n, err
		}
		n += got
	}
	return len(b), nil
}

// splice moves up to n bytes from pipe to pipe, without waiting.
func splice(from, to, n int) (int, error) {
	return ignoringEINTR(func() (int, error) {
		moved, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_NONBLOCK)
		return max(int(moved), 0), err
	})
}

// put moves bytes from vecs to the pipe fd.
func (s *scratch) put(fd int, vecs [][]byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	there, err := ignoringEINTR(func() (int, error) { return unix.Writev(s.w, vecs) })
	if err != nil {
		return 0, err
	}
	n, err := splice(s.r, fd, there)
	s.drainLocked(there - n)
	return n, err
}

// drainLocked forgets the n bytes that the other pipe did not take.
func (s *scratch) drainLocked(n int) {
	if n == 0 {
		return
	}
	b := consumed.Get().(*[]byte)
	defer consumed.Put(b)
	for n > 0 {
		got, err := ignoringEINTR(func() (int, error) { return unix.Read(s.r, *b) })
		if err != nil || got == 0 {
			return
		}
		n -= got
	}
}
