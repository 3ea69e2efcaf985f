package pipe

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync/atomic"
	"unsafe"

	"github.com/piped-dev/piped/failpoint"
)

// A record is what is kept of one direction: words that change one at a time,
// and a checkpoint in two copies, of which one is always whole.
//
// Words, at 8 bytes each:
//
//	head     committed stream offset (not where a file position says it)
//	moved    stream offset up to which the kernel was relieved of what was
//	         committed (inbox), or was given what was (shared outbox)
//	acked    stream offset that the consumer has acknowledged (inbox), or the
//	         announced size of the message of which only parts are there (outbox),
//	         or, marked, where the end of input was typed into a terminal
//	flags    what happened to the direction
type record struct {
	head, moved, acked, flags *atomic.Uint64
	slots                     [2][]byte
	// newest is the copy that holds the newest checkpoint.
	newest int
	seq    uint64
	log    deposit // of the log's file, once there is one
}

// Flags of a record. They are set and never cleared.
const (
	flagReset      = 1 << iota   // the other end left input unread
	flagClosing                  // sending ends after what was accepted
	flagDiscard                  // what was accepted and not handed over is dropped
	flagEndClosed                // the end is closed in both directions
	flagHalfClose                // closing acts on all copies of the end
	flagBroken                   // nobody reads any more
	flagEnded                    // end of file was seen
	flagTaken                    // nothing is left to be handed over: the descriptor may be given back
	flagLogGone                  // the log's file was given back before the end was closed
	flagAllRead                  // the other end has read all that was accepted, and
	flagNotAllRead               // it has not: where that is known for good
	flagAbandoned                // the direction has ended although somebody holds the other end
	knownFlags     = 1<<iota - 1 // all of them
)

func newRecord(b []byte) *record {
	word := func(n int) *atomic.Uint64 {
		return (*atomic.Uint64)(unsafe.Pointer(&b[8*n])) //nolint:gosec // aligned: records begin at multiples of 128
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
	// top is up to where it ever came, for when the log is gone or was cut: what had
	// arrived (inbox), or what was accepted (outbox).
	top place
	// cause and want are of the end that bytes made which could be no frame; 0 without.
	cause EndCause
	want  uint64
}

const (
	checkpointSize = 176
	checkpointSum  = checkpointSize - 8 // where its checksum is
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// encode writes a checkpoint with its number and checksum.
func (k *checkpoint) encode(b []byte, seq uint64) {
	clear(b)
	le := binary.LittleEndian
	le.PutUint64(b[0:], seq)
	encodePlace(b[8:63], &k.base)
	le.PutUint64(b[64:], k.acked)
	le.PutUint64(b[72:], k.drops.Messages)
	le.PutUint64(b[80:], k.drops.Bytes)
	if k.lost != nil {
		b[63] = 1
		le.PutUint64(b[88:], k.lost.Message)
		le.PutUint64(b[96:], k.lost.Offset)
	}
	encodePlace(b[104:159], &k.top)
	b[159] = byte(k.cause)
	le.PutUint64(b[160:], k.want)
	le.PutUint32(b[checkpointSum:], crc32.Checksum(b[:checkpointSum], crcTable))
}

func encodePlace(b []byte, p *place) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], p.off)
	le.PutUint64(b[8:], p.num)
	le.PutUint64(b[16:], p.pay)
	le.PutUint64(b[24:], p.st.total)
	le.PutUint64(b[32:], p.st.left)
	copy(b[40:52], p.st.head[:])
	b[52] = p.st.n
	b[53] = boolByte(p.st.body)
	b[54] = boolByte(p.st.held)
}

func decodePlace(b []byte) place {
	le := binary.LittleEndian
	p := place{off: le.Uint64(b[0:]), num: le.Uint64(b[8:]), pay: le.Uint64(b[16:])}
	p.st = state{n: b[52], body: b[53] == 1, held: b[54] == 1, total: le.Uint64(b[24:]), left: le.Uint64(b[32:])}
	copy(p.st.head[:], b[40:52])
	return p
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
	if le.Uint32(b[checkpointSum:]) != crc32.Checksum(b[:checkpointSum], crcTable) {
		return checkpoint{}, 0
	}
	k.base = decodePlace(b[8:63])
	k.acked = le.Uint64(b[64:])
	k.drops = Drops{Messages: le.Uint64(b[72:]), Bytes: le.Uint64(b[80:])}
	if b[63] == 1 {
		k.lost = &Position{Message: le.Uint64(b[88:]), Offset: le.Uint64(b[96:])}
	}
	k.top, k.cause, k.want = decodePlace(b[104:159]), EndCause(b[159]), le.Uint64(b[160:])
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
	failpoint.Hit("record.mid-checkpoint")
	copy(to[checkpointSize/2:], b[checkpointSize/2:])
	failpoint.Hit("record.after-checkpoint")
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
