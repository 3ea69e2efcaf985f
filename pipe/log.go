package pipe

import (
	"math/bits"
	"slices"
	"sort"
	"sync"

	"golang.org/x/sys/unix"
)

// Pages grow from small to large with the log, so that a direction that carried
// a few bytes costs a few KiB and a busy one has few pages.
const (
	minPage = 4 << 10
	maxPage = 64 << 10
)

// pagePools holds free pages by size class. Pages are not cleared between uses:
// no byte of a page is read before it was written.
var pagePools [4]sync.Pool // 4, 8, 16, 32 KiB

// Pages of the full size are mapped, not allocated, and given back at once: as
// a part of Go's heap, logs that are full would let the garbage collector wait
// until as much again is garbage. A few are kept for the next log.
var mapped struct {
	sync.Mutex
	free [4][]byte
	n    int
}

func newMapped() []byte {
	mapped.Lock()
	defer mapped.Unlock()
	if mapped.n > 0 {
		mapped.n--
		return mapped.free[mapped.n]
	}
	b, err := unix.Mmap(-1, 0, maxPage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return make([]byte, maxPage) // no more mappings are allowed
	}
	return b
}

func freeMapped(b []byte) {
	mapped.Lock()
	defer mapped.Unlock()
	if mapped.n < len(mapped.free) {
		mapped.free[mapped.n] = b
		mapped.n++
		return
	}
	_ = unix.Munmap(b) // refuses, rightly, what is no mapping
}

func newPage(size int) []byte {
	if size == maxPage {
		return newMapped()
	}
	class := bits.Len(uint(size-1)) - bits.Len(uint(minPage-1))
	if p, ok := pagePools[class].Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, minPage<<class)
}

func freePage(b []byte) {
	b = b[:cap(b)]
	if len(b) == maxPage {
		freeMapped(b)
		return
	}
	class := bits.Len(uint(len(b)-1)) - bits.Len(uint(minPage-1))
	pagePools[class].Put(&b)
}

// A page holds stream bytes from the stream offset start on.
type page struct {
	start uint64
	data  []byte // len: committed; cap: size
}

// A log is the retained bytes of one direction: append-only, published bytes
// never change, space is released in whole pages. It is not safe for concurrent
// use; its direction's mutex guards it, except that the one filler may write
// into reserved space while others read what is committed.
type log struct {
	pages []page
	end   uint64 // stream offset after the last committed byte
	next  int    // size of the next page
}

// reserve returns space for at least one byte behind the committed ones.
func (l *log) reserve() []byte {
	if n := len(l.pages); n > 0 {
		if last := l.pages[n-1].data; len(last) < cap(last) {
			return last[len(last):cap(last)]
		}
	}
	size := max(l.next, minPage)
	l.next = min(2*size, maxPage)
	data := newPage(size)[:0]
	l.pages = append(l.pages, page{start: l.end, data: data})
	return data[:size]
}

// unreserve gives an unused page back, so that an idle log holds none.
func (l *log) unreserve() {
	if n := len(l.pages); n > 0 && len(l.pages[n-1].data) == 0 {
		freePage(l.pages[n-1].data)
		l.pages = l.pages[:n-1]
	}
}

// commit makes n bytes of the reserved space part of the log.
func (l *log) commit(n int) {
	p := &l.pages[len(l.pages)-1]
	p.data = p.data[:len(p.data)+n]
	l.end += uint64(n) //nolint:gosec // n counts bytes
}

// write appends and commits b.
func (l *log) write(b []byte) {
	for len(b) > 0 {
		n := copy(l.reserve(), b)
		l.commit(n)
		b = b[n:]
	}
}

// from returns the committed bytes of one page from off on; empty at the end.
// off must be retained.
func (l *log) from(off uint64) []byte {
	if off >= l.end {
		return nil
	}
	i := len(l.pages) - 1
	if off < l.pages[i].start || len(l.pages[i].data) == 0 {
		i = sort.Search(len(l.pages), func(i int) bool { return l.pages[i].start > off }) - 1
	}
	return l.pages[i].data[off-l.pages[i].start:]
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

// firstPageEnd is the offset after the oldest full page, or 0 when there is
// none to release.
func (l *log) firstPageEnd() uint64 {
	if len(l.pages) == 0 || len(l.pages[0].data) < cap(l.pages[0].data) {
		return 0
	}
	return l.pages[0].start + uint64(len(l.pages[0].data))
}

// release frees the full pages that lie wholly below off. A page with space
// left stays: the filler may be writing into it.
func (l *log) release(off uint64) {
	n := 0
	for n < len(l.pages) && len(l.pages[n].data) == cap(l.pages[n].data) && l.pages[n].start+uint64(len(l.pages[n].data)) <= off {
		freePage(l.pages[n].data)
		n++
	}
	l.pages = slices.Delete(l.pages, 0, n)
}

// drop frees everything. Nothing may be reserved.
func (l *log) drop() {
	for _, p := range l.pages {
		freePage(p.data)
	}
	l.pages = nil
}
