package pipe

import (
	"bytes"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// goldenMessages are what testdata/connection.py sends.
func goldenMessages() []string {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	return []string{"", "a", "hello", "", string(all), string(bytes.Repeat([]byte("\n\r\n"), 100))}
}

func golden(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/connection.bin")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGoldenBytesAreWhatPythonSends(t *testing.T) {
	one, two := open(t, testSpec(Duplex, "raw", false))
	code, err := os.ReadFile("testdata/connection.py")
	if err != nil {
		t.Fatal(err)
	}
	startOnEnd(t, two, string(code)).wait(t)
	r, _ := one.Descriptors()
	got := make([]byte, 1<<16)
	n, err := unix.Read(r, got)
	if err != nil || !bytes.Equal(got[:n], golden(t)) {
		t.Errorf("Python sends %q, %v", got[:n], err)
	}
}

func TestGoldenBytesAreWhatWeSendAndReceive(t *testing.T) {
	got := decode(t, Framing{Name: "mp"}, memorySpec(), golden(t), Limits{})
	if diff := cmp.Diff(goldenMessages(), got.Messages); diff != "" {
		t.Error(diff)
	}
	one, two := open(t, testSpec(Duplex, "mp", true))
	p := takePeer(t, two)
	for _, m := range goldenMessages() {
		send(t, one, m)
	}
	if sent := p.read(t, len(golden(t))); sent != string(golden(t)) {
		t.Errorf("we send %q", sent)
	}
}

// fuzzSpec is small, so that few bytes reach every bound.
func fuzzSpec() Spec {
	return Spec{LogSize: 4 << 10, TailSize: 100, MaxMessage: 9 << 10}
}

// fuzzDecoder checks what holds for every framing, and hands on what was cut.
func fuzzDecoder(t *testing.T, f Framing, stream, chunks []byte) decoded {
	spec := fuzzSpec()
	sizes := make([]int, len(chunks))
	for i, c := range chunks {
		sizes[i] = int(c)
	}
	whole := decode(t, f, spec, stream, Limits{})
	for _, lim := range []Limits{{Messages: 3, Bytes: 50}, {Messages: 1000, KeepFraming: false}} {
		again := decode(t, f, spec, stream, lim, sizes...)
		if f.Name == "raw" {
			whole.Messages, again.Messages = joined(whole.Messages), joined(again.Messages)
		}
		if diff := cmp.Diff(whole, again); diff != "" {
			t.Fatalf("chunks of %v change what is seen: %s", sizes, diff)
		}
	}
	if whole.End.Bytes > uint64(len(stream)) {
		t.Fatalf("the end is at %d of %d bytes", whole.End.Bytes, len(stream))
	}
	return whole
}

func joined(messages []string) []string {
	var all string
	for _, m := range messages {
		all += m
	}
	return []string{all}
}

// encode is what an outbox would write.
func encode(t *testing.T, f Framing, messages []string) []byte {
	c, err := f.cutter()
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for _, m := range messages {
		if err := c.check([]byte(m)); err != nil {
			t.Fatalf("%q is refused: %v", m, err)
		}
		b = append(append(c.header(b, uint64(len(m))), m...), c.trailer()...)
	}
	return b
}

func FuzzMP(f *testing.F) {
	f.Add(golden(f), []byte{1})
	for _, test := range streamTests() {
		if test.framing.Name == "mp" {
			f.Add([]byte(test.stream), []byte{3, 1, 200})
		}
	}
	framing := Framing{Name: "mp"}
	f.Fuzz(func(t *testing.T, stream, chunks []byte) {
		d := fuzzDecoder(t, framing, stream, chunks)
		again := decode(t, framing, fuzzSpec(), encode(t, framing, d.Messages), Limits{})
		if diff := cmp.Diff(d.Messages, again.Messages); diff != "" {
			t.Errorf("encoded and decoded again: %s", diff)
		}
		if again.End.Cause != CauseClosed {
			t.Errorf("end %+v", again.End)
		}
	})
}

func FuzzLine(f *testing.F) {
	f.Add(golden(f), []byte{1}, true)
	for _, test := range streamTests() {
		if test.framing.Name == "line" {
			f.Add([]byte(test.stream), []byte{3, 1, 200}, test.framing.StripCR)
		}
	}
	f.Fuzz(func(t *testing.T, stream, chunks []byte, stripCR bool) {
		framing := Framing{Name: "line", StripCR: stripCR}
		d := fuzzDecoder(t, framing, stream, chunks)
		if d.End.Cause != CauseClosed {
			return // over the limit
		}
		encoded := encode(t, framing, d.Messages)
		if d.Partial {
			encoded = encoded[:len(encoded)-len(line{stripCR: stripCR}.trailer())]
		}
		if !stripCR && !bytes.Equal(encoded, stream) {
			t.Errorf("encoded again it is %q", encoded)
		}
		if again := decode(t, framing, fuzzSpec(), encoded, Limits{}); !cmp.Equal(d.Messages, again.Messages) {
			t.Errorf("encoded and decoded again: %s", cmp.Diff(d.Messages, again.Messages))
		}
	})
}

func FuzzRaw(f *testing.F) {
	f.Add(golden(f), []byte{1})
	f.Add([]byte("ab\x00\n"), []byte{})
	f.Fuzz(func(t *testing.T, stream, chunks []byte) {
		d := fuzzDecoder(t, Framing{Name: "raw"}, stream, chunks)
		if joined(d.Messages)[0] != string(stream) || d.End != closed(uint64(len(stream))+1, uint64(len(stream))) {
			t.Errorf("got %q, end %+v", d.Messages, d.End)
		}
	})
}
