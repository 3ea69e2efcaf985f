package pipe

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A decoded is what a reader sees of a stream: payloads, joined over their
// parts, and the end.
type decoded struct {
	Messages []string
	Partial  bool
	// Cut is what arrived of a message that the end cut.
	Cut   string
	IsCut bool
	End   End
}

// newTestInbox is an inbox without a descriptor: bytes are put into it.
func newTestInbox(t cleaner, f Framing, spec Spec) *Inbox {
	t.Helper()
	in, err := newInbox(&descriptor{}, f, &spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.log.drop)
	return in
}

// room is space to put bytes into, with the inbox locked.
func room(in *Inbox) []byte {
	b, err := in.reserveLocked()
	if err != nil {
		panic(err)
	}
	return b
}

// feed puts bytes into an inbox as one read after another would, in chunks of
// the given sizes, taken in turn; it stops at the end of the direction.
func feed(in *Inbox, data []byte, chunks ...int) {
	for i := 0; len(data) > 0 && in.End() == nil; i++ {
		n := len(data)
		if len(chunks) > 0 {
			n = min(n, max(chunks[i%len(chunks)], 1))
		}
		in.mu.Lock()
		n = copy(room(in), data[:n])
		in.filledLocked(n, nil)
		in.mu.Unlock()
		data = data[n:]
	}
}

func feedEnd(in *Inbox) {
	if in.End() == nil {
		in.filled(0, nil)
	}
}

// collect reads everything there is, acknowledging as it goes.
func collect(t testing.TB, in *Inbox, lim Limits, d *decoded, c *Cursor, open *[]byte) {
	t.Helper()
	for {
		ev, err := c.Next(nil, lim)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case ev.End != nil:
			d.End = *ev.End
			return
		case ev.Gap != nil:
			t.Fatalf("gap %v", ev.Gap)
		case ev.None():
			return
		}
		b := ev.Batch
		data := b.Data
		sizes := b.Sizes
		if len(sizes) == 0 {
			sizes = []uint32{uint32(len(data))}
		}
		for i, size := range sizes {
			*open = append(*open, data[:size]...)
			data = data[size:]
			if last := i == len(sizes)-1; last && (b.More || b.Truncated) {
				if b.Truncated {
					d.Cut, d.IsCut = string(*open), true
				}
				break
			}
			d.Messages = append(d.Messages, string(*open))
			*open = (*open)[:0]
		}
		if b.Partial {
			d.Partial = true
		}
		if err := in.Ack(b.Next); err != nil {
			t.Fatal(err)
		}
	}
}

// decode runs a whole stream through an inbox.
func decode(t testing.TB, f Framing, spec Spec, stream []byte, lim Limits, chunks ...int) decoded {
	t.Helper()
	in := newTestInbox(t, f, spec)
	in.desc.file = nil
	c := in.Consumer()
	in.consumer = nil // nothing is read from a descriptor
	defer c.Close()
	var d decoded
	var part []byte
	for i := 0; len(stream) > 0 && in.End() == nil; i++ {
		n := len(stream)
		if len(chunks) > 0 {
			n = max(chunks[i%len(chunks)], 1)
		}
		n = min(n, len(stream), int(spec.LogSize)/4)
		feed(in, stream[:n])
		stream = stream[n:]
		if held := held(&in.direction); held > spec.LogSize+spec.TailSize+2*maxStep {
			t.Fatalf("%d bytes are held", held)
		}
		collect(t, in, lim, &d, c, &part)
	}
	feedEnd(in)
	collect(t, in, lim, &d, c, &part)
	return d
}

func memorySpec() Spec {
	return Spec{LogSize: 256 << 10, TailSize: 8 << 10, MaxMessage: 1 << 20}
}

func mpHeader(n uint64) string { return string(mp{}.header(nil, n)) }

type streamTest struct {
	name    string
	framing Framing
	stream  string
	want    decoded
}

func closed(message, bytes uint64) End {
	return End{Cause: CauseClosed, Position: Position{Message: message}, Bytes: bytes}
}

func streamTests() []streamTest {
	mpf, lf, cr, rf := Framing{Name: "mp"}, Framing{Name: "line"}, Framing{Name: "line", StripCR: true}, Framing{Name: "raw"}
	small := func(f Framing) Framing { f.MaxMessage = 5; return f }
	cut := func(want, got uint64, at Position, bytes uint64, detail string) End {
		return End{Cause: CauseTruncated, Position: at, Bytes: bytes, Want: want, Got: got, Detail: detail}
	}
	m1 := Position{Message: 1}
	return []streamTest{
		{"mp/nothing", mpf, "", decoded{End: closed(1, 0)}},
		{"mp/messages and empty ones", mpf, mpHeader(3) + "abc" + mpHeader(0) + mpHeader(0) + mpHeader(1) + "d",
			decoded{Messages: []string{"abc", "", "", "d"}, End: closed(5, 20)}},
		{"mp/long header for a short message", mpf, "\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x02hi" + "\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00",
			decoded{Messages: []string{"hi", ""}, End: closed(3, 26)}},
		{"mp/cut after 1 header byte", mpf, mpHeader(0) + "\x00", decoded{Messages: []string{""},
			End: cut(0, 0, Position{Message: 2}, 5, "end of file after 1 header bytes")}},
		{"mp/cut after 3 header bytes", mpf, "\x00\x00\x00", decoded{End: cut(0, 0, m1, 3, "end of file after 3 header bytes")}},
		{"mp/cut after the pre-header", mpf, "\xff\xff\xff\xff", decoded{End: cut(0, 0, m1, 4, "end of file after 4 header bytes")}},
		{"mp/cut in the long header", mpf, "\xff\xff\xff\xff\x00\x00\x00", decoded{End: cut(0, 0, m1, 7, "end of file after 7 header bytes")}},
		{"mp/cut after the header", mpf, mpHeader(7), decoded{End: cut(7, 0, m1, 4, "end of file after 0 of 7 payload bytes")}},
		{"mp/cut in the payload", mpf, mpHeader(7) + "abc", decoded{Cut: "abc", IsCut: true,
			End: cut(7, 3, Position{Message: 1, Offset: 3}, 7, "end of file after 3 of 7 payload bytes")}},
		{"mp/length -2", mpf, mpHeader(1) + "a" + "\xff\xff\xff\xfe" + "rest", decoded{Messages: []string{"a"},
			End: End{Cause: CauseBadFrame, Position: Position{Message: 2}, Bytes: 9, Detail: "mp header announces -2 bytes"}}},
		{"mp/length -2^31", mpf, "\x80\x00\x00\x00", decoded{
			End: End{Cause: CauseBadFrame, Position: m1, Bytes: 4, Detail: "mp header announces -2147483648 bytes"}}},
		{"mp/length 2^62", mpf, "\xff\xff\xff\xff\x40\x00\x00\x00\x00\x00\x00\x00x", decoded{End: End{Cause: CauseOverLimit, Position: m1, Bytes: 12,
			Want: 1 << 62, Detail: "mp header announces 4611686018427387904 bytes, the limit is 1048576"}}},
		{"mp/length 2^64-1", mpf, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", decoded{End: End{Cause: CauseOverLimit, Position: m1, Bytes: 12,
			Want: math.MaxUint64, Detail: "mp header announces 18446744073709551615 bytes, the limit is 1048576"}}},
		{"mp/at the limit", small(mpf), mpHeader(5) + "12345", decoded{Messages: []string{"12345"}, End: closed(2, 9)}},
		{"mp/over the limit", small(mpf), mpHeader(6) + "123456", decoded{End: End{Cause: CauseOverLimit, Position: m1, Bytes: 4, Want: 6,
			Detail: "mp header announces 6 bytes, the limit is 5"}}},
		{"line/nothing", lf, "", decoded{End: closed(1, 0)}},
		{"line/lines and empty ones", lf, "a\n\n\nbc\n", decoded{Messages: []string{"a", "", "", "bc"}, End: closed(5, 7)}},
		{"line/last without newline", lf, "a\nbc", decoded{Messages: []string{"a", "bc"}, Partial: true, End: closed(3, 4)}},
		{"line/carriage returns are data", lf, "a\r\n\r\n\r", decoded{Messages: []string{"a\r", "\r", "\r"}, Partial: true, End: closed(4, 6)}},
		{"line/at the limit", small(lf), "12345\n", decoded{Messages: []string{"12345"}, End: closed(2, 6)}},
		{"line/over the limit", small(lf), "a\n1234567\n", decoded{Messages: []string{"a"}, Cut: "12345", IsCut: true,
			End: End{Cause: CauseOverLimit, Position: Position{Message: 2, Offset: 5}, Bytes: 7, Want: 6, Detail: "message is longer than the limit of 5 bytes"}}},
		{"crlf/stripped", cr, "a\r\n\r\nb\n", decoded{Messages: []string{"a", "", "b"}, End: closed(4, 7)}},
		{"crlf/lone ones are data", cr, "\ra\rb\r\r\n\r", decoded{Messages: []string{"\ra\rb\r", "\r"}, Partial: true, End: closed(3, 8)}},
		{"crlf/at the end", cr, "abc\r", decoded{Messages: []string{"abc\r"}, Partial: true, End: closed(2, 4)}},
		{"crlf/limit is without it", small(cr), "12345\r\n", decoded{Messages: []string{"12345"}, End: closed(2, 7)}},
		{"crlf/over the limit by it", small(cr), "12345\rx", decoded{Cut: "12345", IsCut: true,
			End: End{Cause: CauseOverLimit, Position: Position{Message: 1, Offset: 5}, Bytes: 6, Want: 6, Detail: "message is longer than the limit of 5 bytes"}}},
		{"raw/nothing", rf, "", decoded{End: closed(1, 0)}},
		{"raw/bytes", rf, "ab\x00\n", decoded{Messages: []string{"ab\x00\n"}, End: closed(5, 4)}},
	}
}

func TestStreamIsCutTheSameWhateverTheChunks(t *testing.T) {
	for _, test := range streamTests() {
		for _, chunk := range []int{1, 2, 3, 5, 1 << 20} {
			for _, lim := range []Limits{{}, {Messages: 100}} {
				t.Run(fmt.Sprintf("%s/chunk %d/messages %d", test.name, chunk, lim.Messages), func(t *testing.T) {
					got := decode(t, test.framing, memorySpec(), []byte(test.stream), lim, chunk)
					if test.framing.Name == "raw" && len(got.Messages) > 0 {
						got.Messages = []string{strings.Join(got.Messages, "")}
					}
					if diff := cmp.Diff(test.want, got); diff != "" {
						t.Error(diff)
					}
				})
			}
		}
	}
}

func TestSizesAroundAPartArriveWhole(t *testing.T) {
	spec := memorySpec()
	part := int(spec.partSize())
	for _, f := range []Framing{{Name: "mp"}, {Name: "line"}, {Name: "line", StripCR: true}} {
		for _, size := range []int{0, 1, part - 1, part, part + 1, 2*part - 1, 2 * part, 2*part + 1, 7 * part} {
			for _, chunk := range []int{1021, 64 << 10} {
				t.Run(fmt.Sprintf("%s crlf %t/%d bytes/chunk %d", f.Name, f.StripCR, size, chunk), func(t *testing.T) {
					payload := bytes.Repeat([]byte("x"), size)
					cut, err := f.cutter()
					if err != nil {
						t.Fatal(err)
					}
					stream := append(cut.header(nil, uint64(size)), payload...)
					stream = append(append(stream, cut.trailer()...), cut.header(nil, 1)...)
					stream = append(append(stream, 'y'), cut.trailer()...)
					got := decode(t, f, spec, stream, Limits{Messages: 10}, chunk)
					if len(got.Messages) != 2 || got.Messages[0] != string(payload) || got.Messages[1] != "y" {
						t.Errorf("got %d messages", len(got.Messages))
					}
					if got.End != closed(3, uint64(len(stream))) {
						t.Errorf("end %+v", got.End)
					}
				})
			}
		}
	}
}

func TestPartsTellTheirOffsetAndTotal(t *testing.T) {
	spec := memorySpec()
	part := spec.partSize()
	in := newTestInbox(t, Framing{Name: "mp"}, spec)
	size := 2 * part
	feed(in, append([]byte(mpHeader(size)), make([]byte, part)...), 1000)
	c := in.Observer()
	defer c.Close()
	want := &Batch{First: Position{Message: 1}, More: true, Total: size, Next: Position{Message: 1, Offset: part}}
	if diff := cmp.Diff(want, dataless(nextBatch(t, c, Limits{}))); diff != "" {
		t.Fatal(diff)
	}
	none(t, c)
	// An acknowledgement inside the message makes room for the rest.
	if err := in.Ack(Position{Message: 1, Offset: part}); err != nil {
		t.Fatal(err)
	}
	feed(in, make([]byte, part), 1000)
	want = &Batch{First: Position{Message: 1, Offset: part}, Total: size, Next: Position{Message: 2}}
	if diff := cmp.Diff(want, dataless(nextBatch(t, c, Limits{}))); diff != "" {
		t.Fatal(diff)
	}
}

func TestLineOfWholePartsHasNoEmptyLastPart(t *testing.T) {
	spec := memorySpec()
	in := newTestInbox(t, Framing{Name: "line"}, spec)
	part := int(spec.partSize())
	feed(in, []byte(strings.Repeat("x", 2*part-10)+"\n"))
	c := in.Observer()
	defer c.Close()
	if b := nextBatch(t, c, Limits{}); len(b.Data) != part || !b.More {
		t.Fatalf("first part: %d bytes, more %t", len(b.Data), b.More)
	}
	if b := nextBatch(t, c, Limits{}); len(b.Data) != part-10 || b.More {
		t.Fatalf("second part: %d bytes, more %t", len(b.Data), b.More)
	}

	in = newTestInbox(t, Framing{Name: "line"}, Spec{LogSize: 8 << 10, MaxMessage: 1 << 20})
	in.limit = 1 << 20 // so that all of it arrives before it is read
	feed(in, []byte(strings.Repeat("x", 8<<10)+"\n"))
	c2 := in.Observer()
	defer c2.Close()
	for i, more := range []bool{true, false} {
		if b := nextBatch(t, c2, Limits{}); len(b.Data) != 4<<10 || b.More != more {
			t.Fatalf("part %d: %d bytes, more %t", i, len(b.Data), b.More)
		}
	}
}

func dataless(b *Batch) *Batch {
	c := *b
	c.Data = nil
	return &c
}

func TestFramingIsChecked(t *testing.T) {
	for _, f := range []Framing{{Name: "mq"}, {Name: "mp", StripCR: true}, {Name: "raw", StripCR: true}} {
		if err := f.Check(); !errors.Is(err, ErrFraming) {
			t.Errorf("%+v: %v", f, err)
		}
		if _, _, err := Open(newTestPoller(t), Spec{Kind: Duplex, In: f, LogSize: 1 << 20}); !errors.Is(err, ErrFraming) {
			t.Errorf("open with %+v: %v", f, err)
		}
	}
	for _, name := range append(FramingNames(), "") {
		if err := (Framing{Name: name}).Check(); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestBatchKeepsFramingBytesWhereTheyAreUniform(t *testing.T) {
	long := "\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x01z"
	in := newTestInbox(t, Framing{Name: "mp"}, memorySpec())
	feed(in, []byte(mpHeader(1)+"a"+mpHeader(2)+"bc"+long))
	c := in.Observer()
	defer c.Close()
	lim := Limits{Messages: 10, KeepFraming: true}
	want := &Batch{First: Position{Message: 1}, Data: []byte(mpHeader(1) + "a" + mpHeader(2) + "bc"), Sizes: []uint32{1, 2}, Prefix: 4, Next: Position{Message: 3}}
	if diff := cmp.Diff(want, nextBatch(t, c, lim)); diff != "" {
		t.Error(diff)
	}
	want = &Batch{First: Position{Message: 3}, Data: []byte(long), Prefix: 12, Next: Position{Message: 4}}
	if diff := cmp.Diff(want, nextBatch(t, c, lim)); diff != "" {
		t.Error(diff)
	}
	lines := newTestInbox(t, Framing{Name: "line"}, memorySpec())
	feed(lines, []byte("a\nbc\n"))
	lc := lines.Observer()
	defer lc.Close()
	want = &Batch{First: Position{Message: 1}, Data: []byte("a\nbc\n"), Sizes: []uint32{1, 2}, Suffix: 1, Next: Position{Message: 3}}
	if diff := cmp.Diff(want, nextBatch(t, lc, lim)); diff != "" {
		t.Error(diff)
	}
}

func TestTooLongMessageStays(t *testing.T) {
	for _, test := range []struct {
		framing, stream string
	}{{"mp", mpHeader(5) + "12345" + mpHeader(0)}, {"line", "12345\n\n"}} {
		t.Run(test.framing, func(t *testing.T) {
			in := newTestInbox(t, Framing{Name: test.framing}, memorySpec())
			feed(in, []byte(test.stream))
			c := in.Observer()
			defer c.Close()
			for _, lim := range []Limits{{MaxMessage: 4}, {Zero: true}} {
				_, err := c.Next(nil, lim)
				var tooLong *TooLongError
				if !errors.As(err, &tooLong) || tooLong.Size != 5 || tooLong.Max != lim.MaxMessage {
					t.Fatalf("got %v", err)
				}
			}
			if b := nextBatch(t, c, Limits{MaxMessage: 5}); string(b.Data) != "12345" {
				t.Fatalf("got %q", b.Data)
			}
			if b := nextBatch(t, c, Limits{Zero: true}); len(b.Data) != 0 {
				t.Fatalf("got %q", b.Data)
			}
		})
	}
}

func TestLengthIsLongOnlyWhereItMustBe(t *testing.T) {
	for size, want := range map[uint64]string{
		0:         "\x00\x00\x00\x00",
		1<<31 - 1: "\x7f\xff\xff\xff",
		1 << 31:   "\xff\xff\xff\xff\x00\x00\x00\x00\x80\x00\x00\x00",
	} {
		if got := mpHeader(size); got != want {
			t.Errorf("%d: %x", size, got)
		}
	}
}

func TestPositionsAreOrderedAndReadable(t *testing.T) {
	sorted := []Position{{1, 0}, {1, 5}, {2, 0}}
	for i, p := range sorted {
		for j, q := range sorted {
			if p.Before(q) != (i < j) {
				t.Errorf("%v before %v is %t", p, q, p.Before(q))
			}
		}
	}
	if got := fmt.Sprint(sorted, CauseReset, CauseOverLimit, EndCause(99)); got != "[1 1+5 2] reset frame over limit cause 99" {
		t.Error(got)
	}
}
