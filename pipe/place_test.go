package pipe

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// Whatever the chunks and acknowledgements, every position is found again from
// the bytes, and numbering them anew leads to the same place.
func TestPlacesAreAPureFunctionOfTheBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.SampledFrom([]Framing{{Name: "mp"}, {Name: "line"}, {Name: "line", StripCR: true}, {Name: "raw"}}).Draw(t, "framing")
		spec := Spec{LogSize: 1 << 20, TailSize: uint64(rapid.IntRange(0, 20_000).Draw(t, "tail")), MaxMessage: 1 << 20}
		in := newTestInbox(t, f, spec)
		type mark struct {
			at  Position
			off uint64
		}
		var marks []mark
		var want place
		for range rapid.IntRange(1, 60).Draw(t, "chunks") {
			var data []byte
			switch f.Name {
			case "mp":
				data = encodeOne(f, bytes.Repeat([]byte("x"), rapid.IntRange(0, 3000).Draw(t, "size")))
			default:
				data = []byte(rapid.StringOfN(rapid.RuneFrom([]rune("ab\r\n")), 0, 300, -1).Draw(t, "text"))
			}
			cut := rapid.IntRange(0, len(data)).Draw(t, "cut")
			for _, chunk := range [][]byte{data[:cut], data[cut:]} {
				feed(in, chunk)
				marks = append(marks, mark{in.head.position(), in.head.off})
			}
			if rapid.Bool().Draw(t, "ack") {
				if err := in.Ack(marks[rapid.IntRange(0, len(marks)-1).Draw(t, "mark")].at); err != nil {
					t.Fatal(err)
				}
			}
		}
		want = in.head
		for _, m := range marks {
			if m.off < in.base.off || m.at.Before(in.base.position()) {
				continue
			}
			p, ok := in.recoverLocked(in.base, m.at)
			if !ok || p.position() != m.at || p.off > m.off {
				t.Fatalf("%v at %d is found at %v, %d (%t)", m.at, m.off, p.position(), p.off, ok)
			}
			p.forward(in.cut, &in.log, in.head.off)
			if p != want {
				t.Fatalf("from %v on the bytes lead to %+v, not %+v", m.at, p, want)
			}
		}
		base := in.base
		base.forward(in.cut, &in.log, in.head.off)
		if base != want {
			t.Fatalf("from the base the bytes lead to %+v, not %+v", base, want)
		}
	})
}

func encodeOne(f Framing, payload []byte) []byte {
	c, err := f.cutter()
	if err != nil {
		panic(err)
	}
	return append(append(c.header(nil, uint64(len(payload))), payload...), c.trailer()...)
}
