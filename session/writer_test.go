package session_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

func TestRepeatedMessageIsAcknowledgedAndNotWrittenAgain(t *testing.T) {
	reg := newRegistry(t, nil)
	for _, framing := range []string{"mp", "line", "raw"} {
		t.Run(framing, func(t *testing.T) {
			one, two := barePipe(t, reg, framing)
			rapid.Check(t, func(rt *rapid.T) { checkRepeats(t, rt, one, two, framing == "raw") })
		})
	}
}

// checkRepeats sends numbered messages in batches that overlap what was sent
// before, from writers that come back under one id, and expects each once.
func checkRepeats(t *testing.T, rt *rapid.T, one, two *session.Endpoint, raw bool) {
	id := rapid.StringMatching(`[a-z]{12}`).Draw(rt, "writer")
	width := func(n int) uint64 {
		if raw {
			return uint64(8 * n)
		}
		return uint64(n)
	}
	const total = 20
	sent := 0
	for sent < total {
		w, err := one.OpenWriter(session.WriterOptions{ID: id})
		if err != nil {
			rt.Fatal(err)
		}
		if want := width(sent) + 1; w.Expected().Message != want {
			rt.Fatalf("expected is %v, want %d", w.Expected(), want)
		}
		from := sent - rapid.IntRange(0, sent).Draw(rt, "overlap")
		n := rapid.IntRange(1, 5).Draw(rt, "n")
		b := session.Outgoing{First: pipe.Position{Message: width(from) + 1}}
		for i := from; i < from+n; i++ {
			b.Data = fmt.Appendf(b.Data, "msg %04d", i)
			b.Sizes = append(b.Sizes, 8)
		}
		if err := w.Send(t.Context(), b); err != nil {
			rt.Fatal(err)
		}
		sent = max(sent, from+n)
		gap := session.Outgoing{First: pipe.Position{Message: width(sent) + 2}, Data: []byte("x")}
		if err := w.Send(t.Context(), gap); !asGap(err) {
			rt.Fatalf("a gap gave %v", err)
		}
		w.Close()
	}
	r, err := two.OpenReader(t.Context(), session.ReaderOptions{})
	if err != nil {
		rt.Fatal(err)
	}
	defer r.Close()
	var got bytes.Buffer
	for got.Len() < 8*sent {
		b := receive(t, r).Batch
		got.Write(b.Data)
		if err := r.Ack(b.Next); err != nil {
			rt.Fatal(err)
		}
	}
	var want bytes.Buffer
	for i := range sent {
		fmt.Fprintf(&want, "msg %04d", i)
	}
	if got.String() != want.String() {
		rt.Fatalf("got %q, want %q", got.String(), want.String())
	}
}

func asGap(err error) bool {
	_, ok := errors.AsType[*session.SequenceGapError](err)
	return ok
}

func TestOneWriterAtATime(t *testing.T) {
	one, _ := barePipe(t, newRegistry(t, nil), "mp")
	a, err := one.OpenWriter(session.WriterOptions{ID: "a", Epoch: 2})
	if err != nil {
		t.Fatal(err)
	}
	busy, ok := errors.AsType[*session.BusyError](second(one, session.WriterOptions{ID: "b"}))
	if !ok || busy.Client != "a" || !errors.Is(busy, session.ErrBusyWriter) {
		t.Errorf("a second writer: %v", busy)
	}
	if err := second(one, session.WriterOptions{ID: "a", Epoch: 1}); !errors.Is(err, session.ErrFenced) {
		t.Errorf("an older epoch: %v", err)
	}
	newer, err := one.OpenWriter(session.WriterOptions{ID: "a", Epoch: 2})
	if err != nil {
		t.Fatal(err)
	}
	<-a.Lost()
	if err := a.Send(t.Context(), session.Outgoing{Data: []byte("x")}); !errors.Is(err, session.ErrSuperseded) {
		t.Errorf("the older stream still writes: %v", err)
	}
	a.Close()
	if err := newer.Send(t.Context(), session.Outgoing{Data: []byte("x")}); err != nil {
		t.Errorf("closing the older stream took the newer one's right: %v", err)
	}
	newer.Close()
	if err := second(one, session.WriterOptions{}); err != nil {
		t.Errorf("after all have gone: %v", err)
	}
}

// second opens a writer, closes it again, and returns what was wrong.
func second(e *session.Endpoint, o session.WriterOptions) error {
	w, err := e.OpenWriter(o)
	if err == nil {
		w.Close()
	}
	return err
}

func TestUnfinishedMessageMustBeGoneOnWith(t *testing.T) {
	one, two := barePipe(t, newRegistry(t, nil), "mp")
	part := bytes.Repeat([]byte("p"), pipe.DefaultPart)
	w, err := one.OpenWriter(session.WriterOptions{ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	total := uint64(len(part) + 3)
	r, err := two.OpenReader(t.Context(), session.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := w.Send(t.Context(), session.Outgoing{Data: part, More: true, Total: total}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if w, err = one.OpenWriter(session.WriterOptions{ID: "b"}); err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	err = w.Send(t.Context(), session.Outgoing{Data: []byte("new")})
	if u, ok := errors.AsType[*pipe.UnfinishedError](err); !ok || u.Have != uint64(len(part)) || u.Total != total {
		t.Fatalf("a new message inside an unfinished one: %v", err)
	}
	// The first part again, then the rest.
	if err := w.Send(t.Context(), session.Outgoing{First: pipe.Position{Message: 1}, Data: part, More: true, Total: total}); err != nil {
		t.Fatal(err)
	}
	if err := w.Send(t.Context(), session.Outgoing{First: pipe.Position{Message: 1, Offset: uint64(len(part))}, Data: []byte("end"), Total: total}); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for more := true; more; {
		b := receive(t, r).Batch
		got, more = append(got, b.Data...), b.More
		if err := r.Ack(b.Next); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, append(part, "end"...)) {
		t.Errorf("got %d bytes", len(got))
	}
}

func TestPartWithoutANumberIsNoRepeat(t *testing.T) {
	one, _ := barePipe(t, newRegistry(t, nil), "line")
	w, err := one.OpenWriter(session.WriterOptions{ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	part := session.Outgoing{Data: []byte("part"), More: true}
	if err := w.Send(t.Context(), part); err != nil {
		t.Fatal(err)
	}
	if u, ok := errors.AsType[*pipe.UnfinishedError](w.Send(t.Context(), part)); !ok || u.Have != 4 {
		t.Error("the next message without a number was taken for a repeat of the unfinished one")
	}
	part.First.Offset = 4
	if err := w.Send(t.Context(), part); err != nil {
		t.Error(err)
	}
	if got, want := w.Expected(), (pipe.Position{Message: 1, Offset: 8}); got != want {
		t.Errorf("expected is %v, want %v", got, want)
	}
}

func TestRefusedMessageLeavesThoseBeforeItCommitted(t *testing.T) {
	one, two := barePipe(t, newRegistry(t, nil), "line")
	w, err := one.OpenWriter(session.WriterOptions{ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	b := session.Outgoing{Data: []byte("okno\nno"), Sizes: []uint32{2, 3, 2}}
	if err := w.Send(t.Context(), b); !errors.Is(err, pipe.ErrMessage) {
		t.Fatalf("a newline in a line: %v", err)
	}
	if got := w.Expected(); got != (pipe.Position{Message: 2}) || w.Delivered() != got {
		t.Errorf("expected %v, delivered %v, want 2", got, w.Delivered())
	}
	if got := receive(t, openReader(t, two, session.ReaderOptions{})).Batch; string(got.Data) != "ok" {
		t.Errorf("got %q", got.Data)
	}
	for name, b := range map[string]session.Outgoing{
		"sizes that do not add up":  {Data: []byte("abc"), Sizes: []uint32{1, 1}},
		"sizes that overflow":       {Data: []byte("abc"), Sizes: []uint32{1<<32 - 1, 4}},
		"parts among others":        {Data: []byte("ab"), Sizes: []uint32{1, 1}, More: true},
		"an offset before a second": {First: pipe.Position{Offset: 1}, Data: []byte("ab"), Sizes: []uint32{1, 1}},
	} {
		if err := w.Send(t.Context(), b); !errors.Is(err, session.ErrArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDeliveredCountsInTheSequenceOfEachWriter(t *testing.T) {
	for _, tc := range []struct {
		framing string
		next    uint64 // of a writer that sent two messages of three bytes
	}{{"mp", 3}, {"raw", 7}} {
		t.Run(tc.framing, func(t *testing.T) {
			one, _ := barePipe(t, newRegistry(t, nil), tc.framing)
			for _, id := range []string{"a", "b", ""} {
				w, err := one.OpenWriter(session.WriterOptions{ID: id})
				if err != nil {
					t.Fatal(err)
				}
				if got := w.Delivered(); got != (pipe.Position{Message: 1}) {
					t.Errorf("before the first: %v", got)
				}
				for range 2 {
					if err := w.Send(t.Context(), session.Outgoing{Data: []byte("abc")}); err != nil {
						t.Fatal(err)
					}
				}
				if got := w.Delivered(); got != (pipe.Position{Message: tc.next}) || w.Expected() != got {
					t.Errorf("delivered %v, expected %v, want %d", got, w.Expected(), tc.next)
				}
				w.Close()
			}
		})
	}
}

func TestWriterIsToldThatWhatItSentWasDiscarded(t *testing.T) {
	one, _ := barePipe(t, newRegistry(t, nil), "mp")
	w, err := one.OpenWriter(session.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Send(t.Context(), session.Outgoing{Data: make([]byte, 1<<20)}); err != nil || w.Err() != nil {
		t.Fatal(err, w.Err())
	}
	if err := one.Close(session.CloseOptions{SendOnly: true, Discard: true}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the loss", func() bool { return errors.Is(w.Err(), pipe.ErrClosed) })
}
