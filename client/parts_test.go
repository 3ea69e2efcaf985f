package client

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"pgregory.net/rapid"
)

func TestPartsAreFullUntilTheLast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(20, 40).Draw(t, "part size")
		msg := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "message")
		total := int64(UnknownSize)
		if rapid.Bool().Draw(t, "size is known") {
			total = int64(len(msg))
		}
		p := readParts(iotest.HalfReader(bytes.NewReader(msg)), total, size)
		var got []byte
		for more := true; more; {
			var part []byte
			var err error
			if part, more, err = p.next(); err != nil {
				t.Fatal(err)
			}
			if more && len(part) != size {
				t.Fatalf("a part before the last has %d bytes, want %d", len(part), size)
			}
			if len(part) == 0 && len(msg) > 0 {
				t.Fatal("an empty part")
			}
			got = append(got, part...)
			if err := p.advance(len(part)); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, msg) {
			t.Fatalf("parts join to %q, want %q", got, msg)
		}
	})
}

func TestPartsRefuseASourceThatIsTooShort(t *testing.T) {
	p := readParts(strings.NewReader("short"), 6, 100)
	if _, _, err := p.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want io.ErrUnexpectedEOF", err)
	}
}

func TestPartsPassOnAnErrorOfTheSource(t *testing.T) {
	broken := errors.New("broken disk")
	p := readParts(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken)), UnknownSize, 100)
	if _, _, err := p.next(); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

func TestUnpackedGivesEachMessageItsPlaceAndMarks(t *testing.T) {
	at := func(message, offset uint64) Position { return Position{Message: message, Offset: offset} }
	for _, test := range []struct {
		name  string
		raw   bool
		first Position
		batch *pipedv1.Batch
		want  []Message
	}{
		{
			name: "one message without sizes", first: at(1, 0),
			batch: &pipedv1.Batch{Data: []byte("ab")},
			want:  []Message{{Position: at(1, 0), After: at(2, 0), Data: []byte("ab"), TotalSize: 2}},
		},
		{
			name: "an empty one", first: at(4, 0),
			batch: &pipedv1.Batch{},
			want:  []Message{{Position: at(4, 0), After: at(5, 0), Data: []byte{}}},
		},
		{
			name: "several, marks on the last alone", first: at(7, 0),
			batch: &pipedv1.Batch{Data: []byte("abc"), Sizes: []uint32{1, 0, 2}, Partial: true},
			want: []Message{
				{Position: at(7, 0), After: at(8, 0), Data: []byte("a"), TotalSize: 1},
				{Position: at(8, 0), After: at(9, 0), Data: []byte{}},
				{Position: at(9, 0), After: at(10, 0), Data: []byte("bc"), TotalSize: 2, Partial: true},
			},
		},
		{
			name: "a part in the middle", first: at(3, 10),
			batch: &pipedv1.Batch{Data: []byte("xy"), More: true, TotalSize: 50},
			want:  []Message{{Position: at(3, 10), After: at(3, 12), Data: []byte("xy"), TotalSize: 50, More: true}},
		},
		{
			name: "raw counts bytes", raw: true, first: at(11, 0),
			batch: &pipedv1.Batch{Data: []byte("xyz")},
			want:  []Message{{Position: at(11, 0), After: at(14, 0), Data: []byte("xyz"), TotalSize: 3}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := unpacked{batch: test.batch, raw: test.raw, at: test.first}
			var got []Message
			for !u.empty() {
				m := u.next()
				m.Data = append([]byte{}, m.Data...)
				got = append(got, m)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestSkippedMessagesLeaveTheRestAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.Bool().Draw(t, "raw")
		sizes := rapid.SliceOfN(rapid.Uint32Range(0, 4), 1, 5).Draw(t, "sizes")
		offset := uint64(0)
		if raw || len(sizes) == 1 {
			sizes = sizes[:1]
			offset = rapid.Uint64Range(0, 3).Draw(t, "offset")
		}
		more := !raw && rapid.Bool().Draw(t, "more")
		if raw || more {
			// A batch that moves nothing on is never sent.
			sizes[len(sizes)-1]++
		}
		if raw {
			offset = 0
		}
		var data []byte
		for _, size := range sizes {
			for range size {
				data = append(data, byte(len(data)))
			}
		}
		batch := &pipedv1.Batch{Data: data, More: more, TotalSize: 99}
		if len(sizes) > 1 {
			batch.Sizes = sizes
		}
		u := unpacked{batch: batch, raw: raw, at: Position{Message: 7, Offset: offset}}
		all, end := drain(u), u.end()
		if last := all[len(all)-1]; last.After != end {
			t.Fatalf("the end is %v, the last message ends at %v", end, last.After)
		}
		// Every place at which a reader may stand, and one before and after.
		places := []Position{{Message: 6}, u.at, {Message: end.Message + 1}}
		for _, m := range all {
			for k := range uint64(len(m.Data)) {
				place := m.Position
				if raw {
					place.Message += k
				} else {
					place.Offset += k
				}
				places = append(places, place)
			}
			places = append(places, m.After)
		}
		for _, place := range places {
			rest := u
			rest.skipTo(place)
			if diff := cmp.Diff(from(all, place, raw), drain(rest)); diff != "" {
				t.Fatalf("from %v (-want +got):\n%s", place, diff)
			}
		}
	})
}

func drain(u unpacked) []Message {
	var all []Message
	for !u.empty() {
		all = append(all, u.next())
	}
	return all
}

// from returns what of the messages lies at or above a place.
func from(all []Message, place Position, raw bool) []Message {
	var rest []Message
	for _, m := range all {
		if m.After.Compare(place) <= 0 {
			continue
		}
		if skip := place.Offset - m.Position.Offset; !raw && m.Position.Compare(place) < 0 {
			m.Data, m.Position = m.Data[skip:], place
			m.TotalSize = 99
		}
		if skip := place.Message - m.Position.Message; raw && m.Position.Compare(place) < 0 {
			m.Data, m.Position = m.Data[skip:], place
			m.TotalSize = uint64(len(m.Data))
		}
		rest = append(rest, m)
	}
	return rest
}
