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
	<-a.Superseded()
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
