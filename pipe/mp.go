package pipe

import (
	"encoding/binary"
	"fmt"
	"math"
)

// mp is the framing of Python's multiprocessing.connection.Connection
// (CPython Lib/multiprocessing/connection.py, _send_bytes and _recv_bytes): a
// signed 32-bit big-endian length and the payload; the length -1 announces an
// unsigned 64-bit length in the next 8 bytes. Python takes other negative
// lengths for an empty message; here they are a bad frame.
type mp struct{ max uint64 }

const (
	mpShort = 4
	mpLong  = 12
)

func (m mp) cut(st *state, data []byte) (segment, error) {
	if st.body {
		n := int(min(st.left, uint64(len(data)))) //nolint:gosec // at most len(data)
		st.left -= uint64(n)
		seg := segment{n: n, payload: true, end: st.left == 0}
		if seg.end {
			*st = state{}
		}
		return seg, nil
	}
	need := mpShort
	if st.n >= mpShort {
		need = mpLong
	}
	n := copy(st.head[st.n:need], data)
	st.n += uint8(n) //nolint:gosec // at most 12
	if int(st.n) < need {
		return segment{n: n}, nil
	}
	size, long, err := m.size(st.head[:need])
	if err != nil || long {
		return segment{n: n}, err
	}
	if size == 0 {
		*st = state{}
		return segment{n: n, end: true}, nil
	}
	*st = state{body: true, total: size, left: size}
	return segment{n: n}, nil
}

// size reads a complete header; long says that 8 more bytes are needed.
func (m mp) size(head []byte) (size uint64, long bool, err error) {
	if len(head) == mpLong {
		size = binary.BigEndian.Uint64(head[mpShort:])
	} else {
		v := int32(binary.BigEndian.Uint32(head)) //nolint:gosec // the wire's own sign
		if v == -1 {
			return 0, true, nil
		}
		if v < 0 {
			return 0, false, &frameError{cause: CauseBadFrame, detail: fmt.Sprintf("mp header announces %d bytes", v)}
		}
		size = uint64(v)
	}
	if size > m.max {
		return 0, false, &frameError{cause: CauseOverLimit, want: size,
			detail: fmt.Sprintf("mp header announces %d bytes, the limit is %d", size, m.max)}
	}
	return size, false, nil
}

func (mp) header(dst []byte, size uint64) []byte {
	if size <= math.MaxInt32 {
		return binary.BigEndian.AppendUint32(dst, uint32(size))
	}
	dst = binary.BigEndian.AppendUint32(dst, math.MaxUint32)
	return binary.BigEndian.AppendUint64(dst, size)
}

func (mp) trailer() string    { return "" }
func (mp) needsSize() bool    { return true }
func (mp) check([]byte) error { return nil }
func (mp) open() bool         { return false }
