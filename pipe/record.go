package pipe

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync/atomic"
	"unsafe"
)

// A record is what is kept of one direction: words that change one at a time,
// and a checkpoint in two copies, of which one is always whole.
//
// Words, at 8 bytes each:
//
//	head     committed stream offset (not where a file position says it)
//	moved    stream offset up to which the kernel was relieved of what was
//	         committed (inbox), or was given what was (shared outbox)
//	acked    stream offset that the consumer has acknowledged
//	flags    what happened to the direction
type record struct {
	head, moved, acked, flags *atomic.Uint64
	slots                     [2][]byte
	// newest is the copy that holds the newest checkpoint.
	newest int
	seq    uint64
}

// Flags of a record. They are set and never cleared.
const (
	flagReset     = 1 << iota   // the other end left input unread
	flagClosing                 // sending ends after what was accepted
	flagDiscard                 // what was accepted and not handed over is dropped
	flagEndClosed               // the end is closed in both directions
	flagHalfClose               // closing acts on all copies of the end
	flagBroken                  // nobody reads any more
	flagEnded                   // end of file was seen
	flagTaken                   // nothing is left in the kernel: the descriptor was given back
	knownFlags    = 1<<iota - 1 // all of them
)

func newRecord(b []byte) *record {
	word := func(n int) *atomic.Uint64 {
		return (*atomic.Uint64)(unsafe.Pointer(&b[8*n])) //nolint:gosec // aligned: records begin at multiples of 256
	}
	r := &record{head: word(0), moved: word(1), acked: word(2), flags: word(3)}
	for i := range r.slots {
		r.slots[i] = b[32+i*checkpointSize : 32+(i+1)*checkpointSize]
	}
	return r
}

func (r *record) set(flag uint64) {
	if r != nil {
		r.flags.Or(flag)
	}
}

func (r *record) has(flag uint64) bool { return r != nil && r.flags.Load()&flag != 0 }

// A checkpoint is a place from which the bytes of the log can be read again, and
// what cannot be read there.
type checkpoint struct {
	base place
	// acked is never more than the record's word, except by what was dropped.
	acked uint64
	drops Drops
	lost  *Position
}

const checkpointSize = 112

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// encode writes a checkpoint with its number and checksum.
func (k *checkpoint) encode(b []byte, seq uint64) {
	clear(b)
	le := binary.LittleEndian
	le.PutUint64(b[0:], seq)
	le.PutUint64(b[8:], k.base.off)
	le.PutUint64(b[16:], k.base.num)
	le.PutUint64(b[24:], k.base.pay)
	le.PutUint64(b[32:], k.base.st.total)
	le.PutUint64(b[40:], k.base.st.left)
	copy(b[48:60], k.base.st.head[:])
	b[60] = k.base.st.n
	b[61] = boolByte(k.base.st.body)
	b[62] = boolByte(k.base.st.held)
	le.PutUint64(b[64:], k.acked)
	le.PutUint64(b[72:], k.drops.Messages)
	le.PutUint64(b[80:], k.drops.Bytes)
	if k.lost != nil {
		b[63] = 1
		le.PutUint64(b[88:], k.lost.Message)
		le.PutUint64(b[96:], k.lost.Offset)
	}
	le.PutUint32(b[104:], crc32.Checksum(b[:104], crcTable))
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// decodeCheckpoint reads a copy; seq is 0 for one that is empty or torn.
func decodeCheckpoint(b []byte) (k checkpoint, seq uint64) {
	le := binary.LittleEndian
	if le.Uint32(b[104:]) != crc32.Checksum(b[:104], crcTable) {
		return checkpoint{}, 0
	}
	k.base = place{off: le.Uint64(b[8:]), num: le.Uint64(b[16:]), pay: le.Uint64(b[24:])}
	k.base.st = state{n: b[60], body: b[61] == 1, held: b[62] == 1, total: le.Uint64(b[32:]), left: le.Uint64(b[40:])}
	copy(k.base.st.head[:], b[48:60])
	k.acked = le.Uint64(b[64:])
	k.drops = Drops{Messages: le.Uint64(b[72:]), Bytes: le.Uint64(b[80:])}
	if b[63] == 1 {
		k.lost = &Position{Message: le.Uint64(b[88:]), Offset: le.Uint64(b[96:])}
	}
	return k, le.Uint64(b[0:])
}

// checkpoint makes k the newest one: into the older copy, so that whatever
// happens in the middle, the newer one is whole. A nil record keeps nothing.
func (r *record) checkpoint(k checkpoint) {
	if r == nil {
		return
	}
	var b [checkpointSize]byte
	r.seq++
	k.encode(b[:], r.seq)
	r.newest = 1 - r.newest
	to := r.slots[r.newest]
	copy(to[:checkpointSize/2], b[:])
	failpoint("record.mid-checkpoint")
	copy(to[checkpointSize/2:], b[checkpointSize/2:])
	failpoint("record.after-checkpoint")
}

// latest returns the newest whole checkpoint; that of a new direction where none
// was ever made.
func (r *record) latest() (checkpoint, error) {
	best := checkpoint{base: place{num: 1}}
	r.seq = 0
	for i, b := range r.slots {
		if k, seq := decodeCheckpoint(b); seq > r.seq {
			best, r.seq, r.newest = k, seq, i
		}
	}
	if r.seq == 0 && (!allZero(r.slots[0]) || !allZero(r.slots[1])) && !r.firstTorn() {
		return best, fmt.Errorf("%w: no checkpoint is whole", ErrCorrupt)
	}
	return best, nil
}

// firstTorn reports whether the only checkpoint that was ever begun is torn: then
// nothing was released yet, and the beginning is the checkpoint.
func (r *record) firstTorn() bool { return allZero(r.slots[0]) || allZero(r.slots[1]) }
