package pipe

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/piped-dev/piped/failpoint"
	"golang.org/x/sys/unix"
)

// A Control is the part of a session's pipes that has to outlive the process
// that moves their bytes, and that the kernel does not keep by itself: what each
// pipe is, and for each direction the committed offset and a few words more. It
// is one file in memory, a memfd, for all pipes of a session, and also holds a
// [Journal] for what else has to. Close it; it stays until the last of its pipes is
// closed too. Its methods may be called concurrently.
//
// The file is a sequence of segments, each a header and slots; a slot describes
// one pipe: a description and four records, one a direction (end 1 in and out,
// end 2 in and out). The header is written last: what has none is no segment. Far
// behind them, with nothing in between, lies the journal. Numbers are little-endian;
// words are aligned and stored at once. Whoever reads it believes nothing of it
// before it was checked.
type Control struct {
	fd      int
	kept    deposit
	journal *Journal

	mu       sync.Mutex
	segments [][]byte
	slots    int   // described, from the first on
	free     []int // of these, what no pipe has any more
	users    int   // ends whose records are in use
	closed   bool
}

// The layout of a control file. A change of it needs another version.
const (
	controlMagic    = "piped.control\x00\x00\x00"
	controlVersion  = 2
	segmentSize     = 64 << 10
	headerSize      = 256
	descriptionSize = 256
	recordSize      = 32 + 2*checkpointSize
	slotSize        = descriptionSize + 4*recordSize
	segmentSlots    = (segmentSize - headerSize) / slotSize
	maxSegments     = 1 << 10
)

// NewControl makes the file of a new session, and keeps it in the vault (nil: none)
// under [ControlKey]. The error wraps ErrNoSpace where there is no memory for it, or
// the vault refuses it.
func NewControl(vault Vault) (*Control, error) {
	fd, err := newMemfd("piped-control")
	if err != nil {
		return nil, err
	}
	c := &Control{fd: fd}
	err = c.grow()
	if err == nil {
		c.journal, err = openJournal(fd)
	}
	if err == nil {
		if err = (deposit{vault, ControlKey}).put(fd); err != nil {
			err = fmt.Errorf("%w: keeping the control file: %w", ErrNoSpace, err)
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	c.kept = deposit{vault, ControlKey}
	return c, nil
}

// OpenControl takes the descriptor of a control file over, which the vault keeps
// under [ControlKey]. Errors: ErrVersion for a file of another version of this
// program, ErrCorrupt for one that is none. Then the descriptor is closed, and the
// vault's copy stays.
func OpenControl(fd int, vault Vault) (*Control, error) {
	c := &Control{fd: fd}
	err := c.check()
	for err == nil && len(c.segments) < maxSegments {
		if !c.hasSegment(len(c.segments)) {
			break
		}
		err = c.mapSegment()
	}
	if err == nil {
		c.journal, err = openJournal(fd)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	c.kept = deposit{vault, ControlKey}
	for c.slots < len(c.segments)*segmentSlots && inUse(c.slot(c.slots)).Load() != 0 {
		c.slots++
	}
	return c, nil
}

func allZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

// check looks at the beginning of the file before anything is changed in it.
func (c *Control) check() error {
	size, err := (&memfdSpace{fd: c.fd}).size()
	switch {
	case err != nil:
		return err
	case size > controlLimit:
		return fmt.Errorf("%w: a control file of %d bytes", ErrCorrupt, size)
	case !c.hasSegment(0):
		return fmt.Errorf("%w: no control file", ErrCorrupt)
	}
	var head [4]byte
	if _, err := unix.Pread(c.fd, head[:], int64(len(controlMagic))); err != nil {
		return os.NewSyscallError("pread", err)
	}
	if v := binary.LittleEndian.Uint32(head[:]); v != controlVersion {
		return fmt.Errorf("%w: the control file has version %d, this program knows version %d only", ErrVersion, v, controlVersion)
	}
	return nil
}

// hasSegment reports whether there is a segment n. A look through a mapping would
// give it memory.
func (c *Control) hasSegment(n int) bool {
	head := make([]byte, len(controlMagic))
	got, err := unix.Pread(c.fd, head, int64(n)*segmentSize)
	return err == nil && got == len(head) && string(head) == controlMagic
}

// grow adds a segment.
func (c *Control) grow() error {
	from := uint64(len(c.segments)) * segmentSize
	// Memory for the first page only; the others get it with their slots.
	if err := c.allocate(from, from+pageSize); err != nil {
		return err
	}
	failpoint.Hit("control.mid-grow")
	if err := c.mapSegment(); err != nil {
		return err
	}
	head := c.segments[len(c.segments)-1]
	binary.LittleEndian.PutUint32(head[len(controlMagic):], controlVersion)
	copy(head, controlMagic)
	return nil
}

// allocate gives a part of the file memory, or says ErrNoSpace.
func (c *Control) allocate(from, to uint64) error {
	if err := (&memfdSpace{fd: c.fd}).allocate(from, to); err != nil {
		return fmt.Errorf("%w: the control file: %w", ErrNoSpace, err)
	}
	return nil
}

// mapSegment maps the next segment.
func (c *Control) mapSegment() error {
	size, err := (&memfdSpace{fd: c.fd}).size()
	if err != nil {
		return err
	}
	if end := uint64(len(c.segments)+1) * segmentSize; size < end {
		if err := unix.Ftruncate(c.fd, int64(end)); err != nil { //nolint:gosec // a file offset
			return os.NewSyscallError("ftruncate", err)
		}
	}
	b, err := unix.Mmap(c.fd, int64(len(c.segments))*segmentSize, segmentSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	c.segments = append(c.segments, b)
	return nil
}

// add takes the next slot for a pipe. Before the slot counts as taken the pipe's
// descriptors are kept (nil: they are not): a slot that counts has them.
func (c *Control) add(d *description, keep func(slot int) error) (slot int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.fd < 0 {
		return 0, ErrClosed
	}
	if n := len(c.free); n > 0 {
		slot, c.free = c.free[n-1], c.free[:n-1]
		if err := c.describeAnew(slot, d, keep); err != nil {
			c.free = append(c.free, slot)
			return 0, err
		}
		return slot, nil
	}
	if c.slots == maxSegments*segmentSlots {
		return 0, fmt.Errorf("%w: the control file is full", ErrNoSpace)
	}
	if c.slots == len(c.segments)*segmentSlots {
		if err := c.grow(); err != nil {
			return 0, err
		}
	}
	slot = c.slots
	from := uint64(slot/segmentSlots*segmentSize + headerSize + slot%segmentSlots*slotSize) //nolint:gosec // not negative
	to := (from + slotSize + pageSize - 1) / pageSize * pageSize
	if err := c.allocate(from/pageSize*pageSize, to); err != nil {
		return 0, err
	}
	if keep != nil {
		if err := keep(slot); err != nil {
			return 0, err
		}
	}
	b, words := d.encode(), c.slot(c.slots)
	failpoint.Hit("control.before-describe")
	copy(words[8:descriptionSize], b[8:])
	failpoint.Hit("control.mid-describe")
	inUse(words).Store(binary.NativeEndian.Uint64(b)) // the commit: before it the slot is free
	failpoint.Hit("control.after-describe")
	c.slots++
	return slot, nil
}

// inUse is the first word of a slot, which is 0 as long as the slot is free.
func inUse(slot []byte) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&slot[0])) //nolint:gosec // aligned: slots begin at multiples of 256
}

func (c *Control) slot(n int) []byte {
	at := headerSize + n%segmentSlots*slotSize
	return c.segments[n/segmentSlots][at : at+slotSize]
}

// describe returns what the pipe of a slot is, checked.
func (c *Control) describe(slot int) (*description, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slot < 0 || slot >= c.slots {
		return nil, fmt.Errorf("%w: slot %d, there are %d", ErrCorrupt, slot, c.slots)
	}
	return decodeDescription(c.slot(slot)[:descriptionSize])
}

// record returns the record of a direction: of end 1 or 2, what is sent into it
// or what comes out.
func (c *Control) record(slot, end int, sent bool) *record {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 2 * (end - 1)
	if sent {
		n++
	}
	at := descriptionSize + n*recordSize
	return newRecord(c.slot(slot)[at : at+recordSize])
}

// Pipes returns how many pipes the file describes; their slots are 0 and up, in
// the order in which they were made.
func (c *Control) Pipes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.slots
}

// Descriptor returns the file's descriptor, which stays the Control's; -1 after
// Retire.
func (c *Control) Descriptor() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fd
}

// Journal returns the journal, nil for a nil Control.
func (c *Control) Journal() *Journal {
	if c == nil {
		return nil
	}
	return c.journal
}

// Retire gives the descriptor back when all pipes have ended, also the vault's copy:
// what the pipes and the journal hold does not outlive this process any more. It
// lives on in here until Close, but for the journal; no pipe can be made with it.
func (c *Control) Retire() {
	c.journal.leave(nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeFDLocked()
}

// closeFDLocked closes the descriptor when the vault has no copy any more.
func (c *Control) closeFDLocked() {
	if c.fd >= 0 {
		c.kept.remove()
	}
	closeFD(&c.fd, true)
}

// Close closes the file once the ends of its pipes are closed. No pipe can be
// made with it any more, and the journal returns ErrClosed.
func (c *Control) Close() {
	c.journal.leave(ErrClosed)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.freeLocked()
}

// enter and leave bound the time in which records are in use; enter returns
// ErrClosed where there are none any more.
func (c *Control) enter() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.segments == nil {
		return ErrClosed
	}
	c.users++
	return nil
}

func (c *Control) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.users--
	c.freeLocked()
}

func (c *Control) freeLocked() {
	if !c.closed || c.users > 0 {
		return
	}
	for _, s := range c.segments {
		_ = unix.Munmap(s)
	}
	c.segments = nil
	c.closeFDLocked()
}
