package pipe

import (
	"fmt"
	"sync/atomic"

	"github.com/piped-dev/piped/failpoint"
	"golang.org/x/sys/unix"
)

// Memory is taken in steps that grow with the log, so that a direction that
// carried a few bytes costs a few KiB and a busy one asks the kernel seldom. It
// is given back in steps that are a small part of the log.
const (
	minStep = pageSize
	maxStep = 64 << 10
)

// releaseStep returns the step in which a log of limit bytes is released.
func releaseStep(limit uint64) uint64 {
	return min(max(limit/16/pageSize*pageSize, minStep), maxStep)
}

// A log is the retained bytes of one direction: append-only, published bytes
// never change, space is given back in whole pages. Its file offset is the
// stream offset. It is made when the first byte comes. It is not safe for
// concurrent use; its direction's mutex guards it, except that the one filler
// may write into reserved space while others read what is committed.
type log struct {
	open func() (space, error)
	// space is nil before the first byte and after drop.
	space   space
	windows [][]byte // from the offset first on
	first   uint64   // a multiple of windowSize
	// released ≤ end ≤ allocated: what lies between the outer two has memory.
	released, end, allocated uint64
	next                     uint64 // size of the next step
	releaseStep              uint64
	retired                  bool // the space has no descriptor any more
	// unmade counts the logs that may yet need a descriptor, this one among them;
	// nil when it does not or has it.
	unmade *atomic.Int64
}

// account enters the log among those that may yet need a descriptor.
func (l *log) account(unmade *atomic.Int64) {
	l.unmade = unmade
	l.unmade.Add(1)
}

// settle strikes it out there.
func (l *log) settle() {
	if l.unmade != nil {
		l.unmade.Add(-1)
		l.unmade = nil
	}
}

// reserve returns space for at least one byte behind the committed ones. The
// error is ErrNoSpace, for want of a descriptor, memory or a mapping; nothing has
// changed then.
func (l *log) reserve() ([]byte, error) {
	if l.space == nil {
		s, err := l.open()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoSpace, err)
		}
		l.settle()
		l.space = s
		l.first = l.end / windowSize * windowSize
		l.released = l.end / pageSize * pageSize
		l.allocated = l.released
	}
	if l.end == l.allocated {
		l.next = min(max(2*l.next, minStep), maxStep)
		to := min(l.allocated+l.next, (l.end/windowSize+1)*windowSize)
		if err := l.space.allocate(l.allocated, to); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoSpace, err)
		}
		l.allocated = to
	}
	w, err := l.windowOf(l.end)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	// After back the end may lie in an earlier window than what is allocated.
	return w[l.end%windowSize : min(l.allocated-l.end/windowSize*windowSize, windowSize)], nil
}

// windowOf returns the window in which off lies, which is retained or the end.
func (l *log) windowOf(off uint64) ([]byte, error) {
	for off >= l.first+uint64(len(l.windows))*windowSize {
		w, err := l.space.window(l.first + uint64(len(l.windows))*windowSize)
		if err != nil {
			return nil, err
		}
		l.windows = append(l.windows, w)
	}
	return l.windows[(off-l.first)/windowSize], nil
}

// commit makes n bytes of the reserved space part of the log.
func (l *log) commit(n int) { l.end += uint64(n) } //nolint:gosec // n counts bytes

// write appends and commits b. On an error, which is that of reserve, a part may
// have been written; back takes it back.
func (l *log) write(b []byte) error {
	for len(b) > 0 {
		room, err := l.reserve()
		if err != nil {
			return err
		}
		n := copy(room, b)
		l.commit(n)
		b = b[n:]
	}
	return nil
}

// back undoes what was written behind to and not published yet.
func (l *log) back(to uint64) { l.end = to }

// from returns the committed bytes of one window from off on; empty at the end.
// off must be retained.
func (l *log) from(off uint64) []byte {
	if off >= l.end {
		return nil
	}
	start := off / windowSize * windowSize
	w := l.windows[(start-l.first)/windowSize]
	return w[off-start : min(l.end-start, windowSize)]
}

// vectors appends to vecs the committed bytes from off on, at most limit
// slices.
func (l *log) vectors(vecs [][]byte, off uint64, limit int) [][]byte {
	for len(vecs) < limit {
		b := l.from(off)
		if len(b) == 0 {
			break
		}
		vecs = append(vecs, b)
		off += uint64(len(b))
	}
	return vecs
}

// releasable returns how far the log can be released when nothing below off is
// needed any more: a page boundary, or what is released already where giving
// back more would not pay yet.
func (l *log) releasable(off uint64) uint64 {
	if to := off / pageSize * pageSize; to >= l.released+l.releaseStep {
		return to
	}
	return l.released
}

// release gives the memory below to back, which releasable returned. That it
// fails is not an error for anybody: the memory is kept a little longer.
func (l *log) release(to uint64) {
	if to <= l.released || l.space == nil {
		return
	}
	if l.retired {
		l.remove(to)
	} else if l.space.punch(l.released, to) != nil {
		return
	}
	failpoint.Hit("log.after-release")
	l.released = to
	for len(l.windows) > 0 && l.first+windowSize <= to {
		_ = unix.Munmap(l.windows[0])
		l.windows = l.windows[1:]
		l.first += windowSize
	}
}

// retire gives the descriptor of the space back when nothing will be written any
// more. What is retained stays, in the windows.
func (l *log) retire() {
	l.settle()
	if _, file := l.space.(*memfdSpace); file && !l.retired {
		l.space.close()
		l.retired = true
	}
}

// remove gives the memory below to back through the windows.
func (l *log) remove(to uint64) {
	for at := l.released; at < to; {
		start := at / windowSize * windowSize
		end := min(to, start+windowSize)
		w := l.windows[(start-l.first)/windowSize]
		_ = unix.Madvise(w[at-start:end-start], unix.MADV_REMOVE)
		at = end
	}
}

// adopt takes a space over whose bytes another process wrote; restore follows.
func (l *log) adopt(s space) {
	l.settle()
	l.space = s
}

// restore makes everything up to head part of a log that was adopted, of which
// the bytes from base on are retained, at most most. It is ErrCorrupt where that
// cannot be.
func (l *log) restore(base, head, most uint64) error {
	if l.space == nil {
		if head != 0 || base != 0 {
			return fmt.Errorf("%w: %d bytes are committed to a log that has no file", ErrCorrupt, max(base, head))
		}
		return nil
	}
	size, err := l.space.size()
	if err != nil {
		return err
	}
	if base > head || head > size || head-base > most || size%pageSize != 0 {
		return fmt.Errorf("%w: %d bytes are committed and retained from %d on, the file has %d", ErrCorrupt, head, base, size)
	}
	l.first = base / windowSize * windowSize
	l.released = base / pageSize * pageSize
	for at := l.released; at < head; at = (at/windowSize + 1) * windowSize {
		if _, err := l.windowOf(at); err != nil {
			return err
		}
	}
	l.end = head
	l.allocated = max(l.released, (head+pageSize-1)/pageSize*pageSize)
	if l.released == 0 {
		return nil
	}
	return l.space.punch(0, l.released) // what was checkpointed and not released yet
}

// drop frees everything. Nothing may be reserved.
func (l *log) drop() {
	l.settle()
	if l.space == nil {
		return
	}
	for _, w := range l.windows {
		_ = unix.Munmap(w)
	}
	if !l.retired {
		l.space.close()
	}
	l.space, l.windows, l.next, l.retired = nil, nil, 0, false
}
