package pipe

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPartsAreHeldToTheirOrderAndSizes(t *testing.T) {
	type step struct {
		part Part
		want string // part of the error; empty for none
	}
	ab, c := []byte("ab"), []byte("c")
	for _, test := range []struct {
		name, framing string
		steps         []step
	}{
		{"whole", "mp", []step{{Part{Data: ab}, ""}, {Part{}, ""}}},
		{"in parts", "mp", []step{{Part{Data: ab, Total: 3, More: true}, ""}, {Part{Data: c, Offset: 2}, ""}}},
		{"unknown total", "line", []step{{Part{Data: ab, More: true}, ""}, {Part{Data: c, Offset: 2, More: true}, ""}, {Part{Offset: 3}, ""}}},
		{"total is needed", "mp", []step{{Part{Data: ab, More: true}, "must tell the total size"}, {Part{Data: ab}, ""}}},
		{"offset from nowhere", "mp", []step{{Part{Data: ab, Offset: 2}, "go on at offset 0"}}},
		{"a new message in the middle", "mp", []step{{Part{Data: ab, Total: 3, More: true}, ""}, {Part{Data: c}, "message 1 is unfinished: go on at offset 2 of 3"}}},
		{"a part again", "mp", []step{{Part{Data: ab, Total: 5, More: true}, ""}, {Part{Data: c, Offset: 1}, "go on at offset 2 of 5"}}},
		{"more than the total", "mp", []step{{Part{Data: ab, Total: 3, More: true}, ""}, {Part{Data: ab, Offset: 2}, "4 of 3"}, {Part{Data: c, Offset: 2}, ""}}},
		{"less than the total", "mp", []step{{Part{Data: ab, Total: 4, More: true}, ""}, {Part{Data: c, Offset: 2}, "3 of 4"}}},
		{"all of it, and more", "mp", []step{{Part{Data: ab, Total: 2, More: true}, "2 of 2"}}},
		{"another total", "mp", []step{{Part{Data: ab, Total: 4, More: true}, ""}, {Part{Data: c, Offset: 2, Total: 5, More: true}, "was 4 before, now 5"}}},
		{"empty part", "line", []step{{Part{More: true}, "cannot be empty"}}},
		{"too long", "mp", []step{{Part{Data: make([]byte, 11)}, "11 bytes is longer than 10"}}},
		{"too long altogether", "line", []step{{Part{Data: make([]byte, 9), More: true}, ""}, {Part{Data: ab, Offset: 9}, "11 bytes is longer than 10"}}},
		{"total too long", "mp", []step{{Part{Data: ab, Total: 11, More: true}, "11 bytes is longer than 10"}}},
		{"newline", "line", []step{{Part{Data: []byte("a\nb")}, "newline at byte 1"}, {Part{Data: ab}, ""}}},
		{"newline in a later part", "line", []step{{Part{Data: ab, More: true}, ""}, {Part{Data: []byte("\n"), Offset: 2}, "newline at byte 0"}, {Part{Data: c, Offset: 2}, ""}}},
		{"raw has no parts", "raw", []step{{Part{Data: ab, More: true}, "parts"}, {Part{Data: ab, Offset: 1}, "parts"}, {Part{Data: ab}, ""}, {Part{Data: ab}, ""}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := testSpec(Duplex, test.framing, true)
			spec.MaxMessage = 10
			one, _ := open(t, spec)
			for i, s := range test.steps {
				before := one.out.Info()
				err := one.out.Append(s.part)
				switch {
				case s.want == "" && err != nil:
					t.Fatalf("step %d: %v", i, err)
				case s.want != "" && (err == nil || !strings.Contains(err.Error(), s.want)):
					t.Fatalf("step %d: %v, want %q", i, err, s.want)
				}
				if after := one.out.Info(); err != nil && after != before {
					t.Errorf("step %d: refused, but %+v became %+v", i, before, after)
				}
			}
		})
	}
}

func TestRefusalsAreTyped(t *testing.T) {
	spec := testSpec(Duplex, "mp", true)
	spec.MaxMessage = 10
	one, _ := open(t, spec)
	var tooLong *TooLongError
	if err := one.out.Append(Part{Data: make([]byte, 11)}); !errors.As(err, &tooLong) || *tooLong != (TooLongError{Size: 11, Max: 10}) {
		t.Error(err)
	}
	if err := one.out.Append(Part{Data: []byte("x"), More: true}); !errors.Is(err, ErrMessage) {
		t.Error(err)
	}
	if u := one.out.Unfinished(); u != nil {
		t.Errorf("unfinished %+v", u)
	}
	if err := one.out.Append(Part{Data: []byte("x"), Total: 2, More: true}); err != nil {
		t.Fatal(err)
	}
	want := &UnfinishedError{Number: 1, Have: 1, Total: 2}
	if diff := cmp.Diff(want, one.out.Unfinished()); diff != "" {
		t.Error(diff)
	}
	var unfinished *UnfinishedError
	if err := one.out.Append(Part{Data: []byte("x")}); !errors.As(err, &unfinished) || *unfinished != *want {
		t.Error(err)
	}
}

func TestClosingInsideAMessageTruncatesIt(t *testing.T) {
	for _, discard := range []bool{false, true} {
		one, two := open(t, testSpec(Duplex, "mp", true))
		p := takePeer(t, two)
		if err := one.out.Append(Part{Data: []byte("abc"), Total: 7, More: true}); err != nil {
			t.Fatal(err)
		}
		if err := one.out.Push(); err != nil {
			t.Fatal(err)
		}
		if err := one.CloseSend(discard); err != nil {
			t.Fatal(err)
		}
		await(t, "flushed", one.out.Flushed())
		want := &End{Cause: CauseTruncated, Position: Position{Message: 1, Offset: 3}, Bytes: 7, Want: 7, Got: 3, Detail: "closed inside an unfinished message"}
		if diff := cmp.Diff(want, one.out.End()); diff != "" {
			t.Error(diff)
		}
		if got := p.read(t, 7); got != mpHeader(7)+"abc" {
			t.Errorf("got %q", got)
		}
	}
}

func TestLogTakesOneMessageLargerThanItself(t *testing.T) {
	spec := testSpec(Stdio, "mp", true)
	spec.LogSize = 64 << 10
	one, two := open(t, spec)
	p := takePeer(t, two)
	big := strings.Repeat("x", 300<<10)
	send(t, one, big)
	if err := one.out.Append(Part{Data: []byte("y")}); !errors.Is(err, ErrNoRoom) {
		t.Fatalf("appending to a full log: %v", err)
	}
	if got := p.read(t, 4+len(big)); got != mpHeader(uint64(len(big)))+big {
		t.Error("it is not the same")
	}
	sendWaiting(t, one, Part{Data: []byte("y")})
	if got := p.read(t, 5); got != mpHeader(1)+"y" {
		t.Errorf("got %q", got)
	}
	changed, stop := one.out.Watch()
	defer stop()
	until(t, "all but the tail to be given back", changed, func() bool { return held(&one.out.direction) <= one.out.tail+2*maxStep })
}

func TestOutboxHoldsOnlyWhatIsNotHandedOver(t *testing.T) {
	one, two := open(t, testSpec(Stdio, "raw", true))
	p := takePeer(t, two)
	changed, stop := one.out.Watch()
	defer stop()
	const size = 1 << 20
	send(t, one, strings.Repeat("x", size))
	for got := 0; got < size; got += 128 << 10 {
		p.read(t, 128<<10)
		until(t, "pages to be given back", changed, func() bool {
			return held(&one.out.direction) <= one.out.Info().QueuedBytes+one.out.tail+2*maxStep
		})
	}
}
