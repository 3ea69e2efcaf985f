package wire

// A Measured is what a session uses and has used, in the keys of an answer to
// [Measure]. What nobody counts there is -1.
type Measured struct {
	Memory, MemoryPeak int64 // bytes
	CPU, Throttled     int64 // microseconds
	Processes          int64
	OutOfMemory        int64 // kills for want of memory
}

func (u *Measured) fields() []*int64 {
	return []*int64{&u.Memory, &u.MemoryPeak, &u.CPU, &u.Throttled, &u.Processes, &u.OutOfMemory}
}

// Words returns the keys, two for a number.
//
//nolint:gosec // the same bits
func (u *Measured) Words() (words []uint32) {
	for _, n := range u.fields() {
		words = append(words, uint32(*n), uint32(uint64(*n)>>32))
	}
	return words
}

// MeasuredOf is the inverse of Words. More words than it knows are left aside.
//
//nolint:gosec // the same bits
func MeasuredOf(words []uint32) *Measured {
	u := &Measured{}
	fields := u.fields()
	if len(words) < 2*len(fields) {
		return nil
	}
	for i, n := range fields {
		*n = int64(uint64(words[2*i]) | uint64(words[2*i+1])<<32)
	}
	return u
}
