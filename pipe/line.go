package pipe

import (
	"bytes"
	"fmt"
)

// line is text whose messages end in a newline. Carriage returns are data
// unless stripCR; then one before the newline belongs to the line end.
type line struct{ stripCR bool }

func (l line) cut(st *state, data []byte) (segment, error) {
	if st.held {
		st.held = false
		if data[0] == '\n' {
			return segment{n: 1, end: true}, nil
		}
		return segment{payload: true, carry: true}, nil
	}
	i := bytes.IndexByte(data, '\n')
	if i == 0 {
		return segment{n: 1, end: true}, nil
	}
	n := i
	if i < 0 {
		n = len(data)
	}
	if l.stripCR && data[n-1] == '\r' {
		if n == 1 {
			st.held = true
			return segment{n: 1}, nil
		}
		n--
	}
	return segment{n: n, payload: true}, nil
}

func (line) header(dst []byte, _ uint64) []byte { return dst }

func (l line) trailer() string {
	if l.stripCR {
		return "\r\n"
	}
	return "\n"
}

func (line) needsSize() bool { return false }
func (line) open() bool      { return true }

func (line) check(payload []byte) error {
	if i := bytes.IndexByte(payload, '\n'); i >= 0 {
		return fmt.Errorf("%w line: there is a newline at byte %d; send one message a line, or use mp or raw", ErrMessage, i)
	}
	return nil
}
