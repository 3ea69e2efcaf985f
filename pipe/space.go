package pipe

import (
	"fmt"
	"os"

	"github.com/piped-dev/piped/failpoint"
	"golang.org/x/sys/unix"
)

// A space is where the bytes of a log lie: a file as long as the stream, of
// which only what is retained has memory. It is seen through windows. It is not
// safe for concurrent use, but for the windows themselves.
type space interface {
	// window maps the windowSize bytes from the offset off on, a multiple of
	// windowSize. They may be touched where they are allocated.
	window(off uint64) ([]byte, error)
	// allocate gives the bytes [from, to) memory; both are multiples of pageSize.
	allocate(from, to uint64) error
	// punch takes the memory of [from, to) back; both are multiples of pageSize.
	// Nobody may look there any more, but the kernel may still hold pages that it
	// was given before.
	punch(from, to uint64) error
	// size returns how far the file reaches.
	size() (uint64, error)
	// close gives everything back. The windows must be unmapped.
	close()
}

const (
	// pageSize is the unit of memory of a space: a multiple of the kernel's page
	// size on every machine.
	pageSize = 4 << 10
	// windowSize is how much of a space one mapping shows: large, because mappings
	// are few (vm.max_map_count), while what is not allocated costs nothing.
	windowSize = 1 << 20
)

// A memfdSpace is a file in memory that lives as long as anybody has its
// descriptor. Its file position is free for use as a cursor.
type memfdSpace struct {
	fd   int
	kept deposit
}

// newMemfd makes the file of a space. It can grow, and pages can be taken out of
// it, but nobody can make it shorter: that would turn a look into it into SIGBUS.
func newMemfd(name string) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("fcntl", err)
	}
	return fd, nil
}

func (s *memfdSpace) window(off uint64) ([]byte, error) {
	b, err := unix.Mmap(s.fd, int64(off), windowSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED) //nolint:gosec // a file offset
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	// A large page is one page: taking back a part of it would clear bytes that
	// the kernel still holds. This keeps large ones out of the mapping only; where
	// shmem_enabled makes fallocate use them, SelfTest sees what comes of it.
	_ = unix.Madvise(b, unix.MADV_NOHUGEPAGE)
	return b, nil
}

func (s *memfdSpace) allocate(from, to uint64) error {
	_, err := ignoringEINTR(func() (int, error) {
		return 0, unix.Fallocate(s.fd, 0, int64(from), int64(to-from)) //nolint:gosec // file offsets
	})
	return os.NewSyscallError("fallocate", err)
}

func (s *memfdSpace) punch(from, to uint64) error {
	_, err := ignoringEINTR(func() (int, error) {
		return 0, unix.Fallocate(s.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(from), int64(to-from)) //nolint:gosec // file offsets
	})
	return os.NewSyscallError("fallocate", err)
}

func (s *memfdSpace) close() {
	s.kept.remove()
	failpoint.Hit("log.after-remove")
	_ = unix.Close(s.fd)
}

func (s *memfdSpace) size() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	if st.Size < 0 {
		return 0, fmt.Errorf("%w: a file of %d bytes", ErrCorrupt, st.Size)
	}
	return uint64(st.Size), nil
}

// An anonymousSpace is memory of this process alone. It lies outside the Go
// heap: logs that are full would let the garbage collector wait until as much
// again is garbage.
type anonymousSpace struct {
	windows map[uint64][]byte
}

func (s *anonymousSpace) window(off uint64) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, windowSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	_ = unix.Madvise(b, unix.MADV_NOHUGEPAGE) // as in memfdSpace
	if s.windows == nil {
		s.windows = make(map[uint64][]byte)
	}
	s.windows[off] = b
	return b, nil
}

// allocate does nothing: touching is enough.
func (s *anonymousSpace) allocate(uint64, uint64) error { return nil }

func (s *anonymousSpace) punch(from, to uint64) error {
	for from < to {
		start := from / windowSize * windowSize
		end := min(to, start+windowSize)
		if w := s.windows[start]; w != nil {
			if err := unix.Madvise(w[from-start:end-start], unix.MADV_DONTNEED); err != nil {
				return os.NewSyscallError("madvise", err)
			}
			if end == start+windowSize {
				delete(s.windows, start)
			}
		}
		from = end
	}
	return nil
}

func (s *anonymousSpace) size() (uint64, error) { return 1<<64 - 1, nil }

// close does nothing: the memory goes with its windows.
func (s *anonymousSpace) close() {}
