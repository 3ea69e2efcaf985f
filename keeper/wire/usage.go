package wire

// A Usage is what a process has used until its exit.
type Usage struct {
	User, System int64 // CPU time, in microseconds
	Peak         int64 // most memory that was resident at a time, in bytes
}

// usageWords is how many keys of a message a usage takes, two for a number: the
// arguments are full, and no message about a process has keys. Front or keeper of
// an earlier version do not look at them.
const usageWords = 6

// words returns the usage as keys, none for nil.
//
//nolint:gosec // the same bits
func (u *Usage) words() []uint32 {
	if u == nil {
		return nil
	}
	words := make([]uint32, 0, usageWords)
	for _, n := range [...]int64{u.User, u.System, u.Peak} {
		words = append(words, uint32(n), uint32(uint64(n)>>32))
	}
	return words
}

// usageOf is the inverse of words.
//
//nolint:gosec // the same bits
func usageOf(words []uint32) *Usage {
	if len(words) != usageWords {
		return nil
	}
	number := func(i int) int64 { return int64(uint64(words[i]) | uint64(words[i+1])<<32) }
	return &Usage{User: number(0), System: number(2), Peak: number(4)}
}
