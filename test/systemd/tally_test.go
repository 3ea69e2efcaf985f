package systemd

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"strconv"
	"testing"
)

// A tally checks the messages of one direction, which are numbered from 1. The
// zero value is ready.
type tally struct {
	// Next is the number that must come.
	Next uint64
	// What is wrong: all must stay 0. Lost are numbers that were left out and did
	// not come later, which are Reordered.
	Lost, Duplicated, Reordered, Torn, Phantom uint64
	missing                                    map[uint64]bool
}

// message returns message n, which says text besides.
func message(n uint64, text string) []byte {
	head := fmt.Appendf(nil, "%d %s ", n, text)
	return fmt.Appendf(head, "%08x", crc32.ChecksumIEEE(head))
}

// take checks a message and returns its text.
func (t *tally) take(msg []byte) string {
	cut := bytes.LastIndexByte(msg, ' ') + 1
	sum, err := strconv.ParseUint(string(msg[cut:]), 16, 32)
	number, text, found := bytes.Cut(bytes.TrimSuffix(msg[:cut], []byte(" ")), []byte(" "))
	n, err2 := strconv.ParseUint(string(number), 10, 64)
	if err != nil || err2 != nil || !found || uint64(crc32.ChecksumIEEE(msg[:cut])) != sum {
		t.Torn++
		return ""
	}
	if t.Next == 0 {
		t.Next, t.missing = 1, make(map[uint64]bool)
	}
	switch {
	case n == t.Next:
		t.Next++
	case n > t.Next+1<<20:
		t.Phantom++ // nothing is ever so far ahead
	case n > t.Next:
		for ; t.Next < n; t.Next++ {
			t.missing[t.Next] = true
			t.Lost++
		}
		t.Next++
	case t.missing[n]:
		delete(t.missing, n)
		t.Lost--
		t.Reordered++
	default:
		t.Duplicated++
	}
	return string(text)
}

// end compares with how many were sent.
func (t *tally) end(sent uint64) {
	switch got := max(t.Next, 1) - 1; {
	case got < sent:
		t.Lost += sent - got
	case got > sent:
		t.Phantom += got - sent
	}
}

// faults are all that is wrong.
func (t *tally) faults() uint64 { return t.Lost + t.Duplicated + t.Reordered + t.Torn + t.Phantom }

func (t *tally) String() string {
	return fmt.Sprintf("lost=%d duplicated=%d reordered=%d torn=%d phantom=%d", t.Lost, t.Duplicated, t.Reordered, t.Torn, t.Phantom)
}

func TestTallyFindsWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name    string
		numbers []uint64
		torn    bool
		want    tally
	}{
		{"nothing", []uint64{1, 2, 3, 4}, false, tally{}},
		{"one left out", []uint64{1, 3, 4}, false, tally{Lost: 1}},
		{"the last left out", []uint64{1, 2, 3}, false, tally{Lost: 1}},
		{"one twice", []uint64{1, 2, 2, 3, 4}, false, tally{Duplicated: 1}},
		{"two changed", []uint64{1, 3, 2, 4}, false, tally{Reordered: 1}},
		{"one that nobody sent", []uint64{1, 2, 3, 4, 5}, false, tally{Phantom: 1}},
		{"one far off", []uint64{1, 2, 1 << 40, 3, 4}, false, tally{Phantom: 1}},
		{"one torn", []uint64{1, 2, 3, 4}, true, tally{Torn: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got tally
			for _, n := range c.numbers {
				if text := got.take(message(n, "a b")); text != "a b" {
					t.Errorf("text %q", text)
				}
			}
			if c.torn {
				got.take(message(5, "a")[1:])
			}
			got.end(4)
			if got.String() != c.want.String() {
				t.Errorf("%v, want %v", &got, &c.want)
			}
		})
	}
}
