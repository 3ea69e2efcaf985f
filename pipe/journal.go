package pipe

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/piped-dev/piped/failpoint"
	"golang.org/x/sys/unix"
)

// A Journal keeps values under keys in a [Control]'s file, for whoever comes after
// this process. What a method did when it returned stays, whatever instant the
// process is killed at; a change that was under way has happened or not. The
// methods may be called concurrently; those of a nil Journal, and of one whose
// Control was retired, do nothing.
//
// In the file it lies behind the segments: a page whose first word is a generation,
// and two areas that the generations use in turn. An area is entries one after
// another, of which a later one of the same key replaces an earlier one. An entry
// is a state word, a checksum, the lengths of key and value, and these; it counts
// once the state, which is written last, says so. The word behind the last entry is
// 0. Only what is used of an area has memory.
type Journal struct {
	mu         sync.Mutex
	fd         int   // the Control's; -1 when there is no file any more
	err        error // what the methods return then
	generation uint64
	limit      uint64 // of an area
	end        uint64 // in the area, behind the last entry
	live       uint64 // bytes of the entries that count
	entries    map[string]entry
}

// An entry is where a value is: from the offset at of the area on, size bytes with
// all that belongs to it.
type entry struct{ at, size uint64 }

const (
	journalBase   = maxSegments * segmentSize
	journalArea   = 256 << 20
	controlLimit  = journalBase + pageSize + 2*journalArea
	entryHeader   = 24
	maxJournalKey = 1 << 12
	// entryLive and entryDead are the states of an entry; a dead one counts no more.
	entryLive = 0x6576696c
	entryDead = 0x64616564
	// journalSlack is how much that does not count any more may lie about.
	journalSlack = 64 << 10
)

// openJournal reads the journal of a control file.
func openJournal(fd int) (*Journal, error) {
	j := &Journal{fd: fd, limit: journalArea, entries: make(map[string]entry)}
	var word [8]byte
	if _, err := j.read(word[:], journalBase); err != nil {
		return nil, err
	}
	j.generation = binary.LittleEndian.Uint64(word[:])
	for {
		ok, err := j.load()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
	}
	j.clear(j.generation + 1) // whoever compacted was killed
	return j, nil
}

// load takes the next entry of the area, false at the end.
func (j *Journal) load() (bool, error) {
	var head [entryHeader]byte
	if _, err := j.read(head[:], j.area(j.generation)+j.end); err != nil {
		return false, err
	}
	le := binary.LittleEndian
	state, key, value := le.Uint64(head[:]), uint64(le.Uint32(head[12:])), le.Uint64(head[16:])
	if state == 0 {
		return false, nil
	}
	size := entrySize(key, value)
	if state != entryLive && state != entryDead || key > maxJournalKey || value > j.limit || !j.fits(size) {
		return false, fmt.Errorf("%w: byte %d of the journal is no entry", ErrCorrupt, j.end)
	}
	b := make([]byte, size)
	if _, err := j.read(b, j.area(j.generation)+j.end); err != nil {
		return false, err
	}
	if le.Uint32(b[8:]) != crc32.Checksum(b[12:entryHeader+key+value], crcTable) {
		return false, fmt.Errorf("%w: the entry at byte %d of the journal is torn", ErrCorrupt, j.end)
	}
	if state == entryLive {
		name := string(b[entryHeader : entryHeader+key])
		if err := j.strike(name); err != nil { // whoever replaced it was killed
			return false, err
		}
		j.entries[name] = entry{j.end, size}
		j.live += size
	}
	j.end += size
	return true, nil
}

func entrySize(key, value uint64) uint64 { return (entryHeader + key + value + 7) / 8 * 8 }

func encodeEntry(key string, value []byte) []byte {
	used := entryHeader + len(key) + len(value)
	b := make([]byte, entrySize(uint64(len(key)), uint64(len(value))))
	le := binary.LittleEndian
	le.PutUint64(b[0:], entryLive)
	le.PutUint32(b[12:], uint32(len(key))) //nolint:gosec // keys are short
	le.PutUint64(b[16:], uint64(len(value)))
	copy(b[entryHeader:], key)
	copy(b[entryHeader+len(key):], value)
	le.PutUint32(b[8:], crc32.Checksum(b[12:used], crcTable))
	return b
}

// area is where the area of a generation begins in the file.
func (j *Journal) area(generation uint64) uint64 {
	return journalBase + pageSize + generation%2*journalArea
}

// fits reports whether an entry has room behind the last one, and the word behind
// it.
func (j *Journal) fits(size uint64) bool { return j.end+size+8 <= j.limit }

// Put keeps a value under a key, in place of the one before. The error is
// ErrNoSpace where there is no room for both, or ErrClosed; the value before is
// kept then.
func (j *Journal) Put(key string, value []byte) error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fd < 0 {
		return j.err
	}
	size := entrySize(uint64(len(key)), uint64(len(value)))
	if len(key) > maxJournalKey || j.live+size+8 > j.limit {
		return fmt.Errorf("%w: a journal has no room for %d bytes under a key of %d", ErrNoSpace, len(value), len(key))
	}
	if waste := j.end - j.live; !j.fits(size) || waste > max(j.live, journalSlack) {
		if err := j.compact(); err != nil && !j.fits(size) {
			return err
		}
	}
	if err := j.append(encodeEntry(key, value)); err != nil {
		return err
	}
	// The new one counts already, so that this may fail: reading does it again.
	_ = j.strike(key)
	failpoint.Hit("journal.after-replace")
	j.entries[key] = entry{j.end, size}
	j.live += size
	j.end += size
	return nil
}

// append writes an entry behind the last one.
func (j *Journal) append(b []byte) error {
	at := j.area(j.generation) + j.end
	if err := j.write(append(b[8:len(b):len(b)], make([]byte, 8)...), at+8); err != nil {
		return err
	}
	failpoint.Hit("journal.after-body")
	if err := j.write(b[:8], at); err != nil {
		return err
	}
	failpoint.Hit("journal.after-commit")
	return nil
}

// Remove removes what is kept under a key, if anything. It needs no room. The error
// is ErrClosed.
func (j *Journal) Remove(key string) error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fd < 0 {
		return j.err
	}
	return j.strike(key)
}

// strike makes the entry of a key dead, if there is one.
func (j *Journal) strike(key string) error {
	e, ok := j.entries[key]
	if !ok {
		return nil
	}
	var word [8]byte
	binary.LittleEndian.PutUint64(word[:], entryDead)
	if err := j.write(word[:], j.area(j.generation)+e.at); err != nil {
		return err
	}
	failpoint.Hit("journal.after-strike")
	delete(j.entries, key)
	j.live -= e.size
	return nil
}

// All returns what is kept. The values are the caller's.
func (j *Journal) All() map[string][]byte {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fd < 0 {
		return nil
	}
	all := make(map[string][]byte, len(j.entries))
	for key, e := range j.entries {
		b := make([]byte, e.size)
		if _, err := j.read(b, j.area(j.generation)+e.at); err != nil {
			continue // a file in memory can be read
		}
		from := entryHeader + uint64(len(key))
		all[key] = b[from : from+binary.LittleEndian.Uint64(b[16:])]
	}
	return all
}

// compact writes what counts into the other area, and goes on there.
func (j *Journal) compact() error {
	next, end := j.generation+1, uint64(0)
	j.clear(next)
	kept := maps.Clone(j.entries)
	keys := slices.SortedFunc(maps.Keys(kept), func(a, b string) int { return cmp.Compare(kept[a].at, kept[b].at) })
	for _, key := range keys {
		b := make([]byte, kept[key].size)
		_, err := j.read(b, j.area(j.generation)+kept[key].at)
		if err == nil {
			err = j.write(b, j.area(next)+end)
		}
		if err != nil {
			j.clear(next)
			return err
		}
		failpoint.Hit("journal.mid-compact")
		kept[key] = entry{end, uint64(len(b))}
		end += uint64(len(b))
	}
	var word [8]byte
	err := j.write(word[:], j.area(next)+end) // the word behind the last one
	if err == nil {
		binary.LittleEndian.PutUint64(word[:], next)
		err = j.write(word[:], journalBase)
	}
	if err != nil {
		j.clear(next)
		return err
	}
	failpoint.Hit("journal.after-compact")
	j.generation, j.end, j.live, j.entries = next, end, end, kept
	j.clear(next + 1)
	return nil
}

// clear makes the area of a generation empty, which is not in use.
func (j *Journal) clear(generation uint64) {
	at := j.area(generation)
	_ = (&memfdSpace{fd: j.fd}).punch(at, at+journalArea) // it can be
}

// read fills b from an offset of the file on; behind the end there are zeros.
func (j *Journal) read(b []byte, at uint64) (int, error) {
	for n := 0; n < len(b); {
		m, err := ignoringEINTR(func() (int, error) { return unix.Pread(j.fd, b[n:], int64(at)+int64(n)) }) //nolint:gosec // a file offset
		switch {
		case err != nil:
			return n, os.NewSyscallError("pread", err)
		case m == 0:
			clear(b[n:])
			return n, nil
		}
		n += m
	}
	return len(b), nil
}

// write writes b from an offset of the file on. It is ErrNoSpace for want of memory.
func (j *Journal) write(b []byte, at uint64) error {
	for n := 0; n < len(b); {
		m, err := ignoringEINTR(func() (int, error) { return unix.Pwrite(j.fd, b[n:], int64(at)+int64(n)) }) //nolint:gosec // a file offset
		if err == nil && m == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNoSpace, os.NewSyscallError("pwrite", err))
		}
		n += m
	}
	return nil
}

// leave makes the methods return err from now on, and do nothing.
func (j *Journal) leave(err error) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fd >= 0 || !errors.Is(j.err, ErrClosed) {
		j.fd, j.err = -1, err
	}
}
