package pipe

// raw has no frames: each read is a chunk, and every byte counts as a message.
type raw struct{}

func isRaw(c cutter) bool {
	_, ok := c.(raw)
	return ok
}

func (raw) cut(_ *state, data []byte) (segment, error) {
	return segment{n: len(data), payload: true}, nil
}

func (raw) header(dst []byte, _ uint64) []byte { return dst }
func (raw) trailer() string                    { return "" }
func (raw) needsSize() bool                    { return false }
func (raw) check([]byte) error                 { return nil }
func (raw) open() bool                         { return true }
