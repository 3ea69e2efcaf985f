package pipe

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// A modelWay is what one direction of a pipe must do: a list of messages, a
// beginning of another, and what the reader has had of them.
type modelWay struct {
	from, to *Endpoint
	other    *modelWay // the way back
	framing  string
	limit    int

	accepted []string
	open     []byte // parts of an unfinished message
	total    int
	closed   bool // no more will be accepted
	partial  bool // the last message is an unfinished line
	gone     bool // the reading end was closed

	cursor *Cursor
	read   int // messages the cursor has had
	acked  int
	ended  bool
}

func (w *modelWay) frame(n int) int {
	if w.framing == "mp" {
		return n + 4
	}
	return n + 1
}

// unacked is how many bytes of the log are the reader's.
func (w *modelWay) unacked() int {
	n := 0
	for _, m := range w.accepted[w.acked:w.read] {
		n += w.frame(len(m))
	}
	return n
}

// A pipeModel runs a pipe beside its model.
type pipeModel struct {
	ways    [2]*modelWay
	poller  *Poller
	control *Control // nil when logs are in memory
}

func (m *pipeModel) way(t *rapid.T) *modelWay { return m.ways[rapid.IntRange(0, 1).Draw(t, "way")] }

func payload(t *rapid.T) []byte {
	size := rapid.OneOf(rapid.IntRange(0, 40), rapid.IntRange(4000, 4200), rapid.IntRange(0, 14_000)).Draw(t, "size")
	return bytes.Repeat([]byte{byte(rapid.IntRange('a', 'z').Draw(t, "byte"))}, size)
}

// accept says whether the model accepts what was sent with err as the answer.
func (w *modelWay) accept(t *rapid.T, err error) bool {
	switch {
	case errors.Is(err, ErrBrokenPipe) && w.gone, errors.Is(err, ErrClosed) && w.closed, errors.Is(err, ErrNoRoom):
		return false
	case err != nil || w.closed:
		t.Fatalf("sending: %v; closed %t, gone %t", err, w.closed, w.gone)
	}
	return true
}

func (m *pipeModel) Send(t *rapid.T) {
	w := m.way(t)
	data := payload(t)
	err := w.from.out.Append(Part{Data: data})
	var unfinished *UnfinishedError
	if errors.As(err, &unfinished) && len(w.open) > 0 && unfinished.Have == uint64(len(w.open)) {
		return
	}
	if w.accept(t, err) {
		w.accepted = append(w.accepted, string(data))
		_ = w.from.out.Push() // how it broke, the next one tells
	}
}

func (m *pipeModel) SendPart(t *rapid.T) {
	w := m.way(t)
	p := Part{Data: payload(t), Offset: uint64(len(w.open))}
	if len(w.open) == 0 {
		w.total = 14_000
	}
	p.Data = p.Data[:min(len(p.Data), w.total-len(w.open))]
	p.More = len(w.open)+len(p.Data) < w.total
	p.Total = uint64(w.total)
	if p.More && len(p.Data) == 0 {
		return
	}
	if !w.accept(t, w.from.out.Append(p)) {
		return
	}
	_ = w.from.out.Push() // as in Send
	w.open = append(w.open, p.Data...)
	if !p.More {
		w.accepted = append(w.accepted, string(w.open))
		w.open = nil
	}
}

func (m *pipeModel) Recv(t *rapid.T) {
	w := m.way(t)
	if w.gone {
		if _, err := w.cursor.Next(nil, Limits{}); !errors.Is(err, ErrClosed) {
			t.Fatalf("receiving: %v", err)
		}
		return
	}
	lim := Limits{Messages: rapid.IntRange(1, 4).Draw(t, "messages")}
	if w.read < len(w.accepted) {
		if w.unacked()+w.frame(len(w.accepted[w.read])) > w.limit {
			w.ack(t) // or the log stays full
		}
		w.batch(t, nextBatch(t, w.cursor, lim))
		return
	}
	if !w.closed || w.ended {
		if ev, err := w.cursor.Next(nil, lim); err != nil || !ev.None() {
			t.Fatalf("got %+v, %v; nothing was sent", ev, err)
		}
		return
	}
	w.end(t, lim)
}

// batch checks whole messages.
func (w *modelWay) batch(t *rapid.T, b *Batch) {
	if b.First != (Position{Message: uint64(w.read + 1)}) || b.More || b.Truncated {
		t.Fatalf("batch at %v (more %t, truncated %t, partial %t), want message %d", b.First, b.More, b.Truncated, b.Partial, w.read+1)
	}
	sizes := b.Sizes
	if len(sizes) == 0 {
		sizes = []uint32{uint32(len(b.Data))}
	}
	for _, size := range sizes {
		if w.read == len(w.accepted) || string(b.Data[:size]) != w.accepted[w.read] {
			t.Fatalf("message %d has %d bytes", w.read+1, size)
		}
		b.Data = b.Data[size:]
		w.read++
	}
	if b.Next != (Position{Message: uint64(w.read + 1)}) || len(b.Data) != 0 || b.Partial != (w.partial && w.read == len(w.accepted)) {
		t.Fatalf("next %v, partial %t, %d bytes are too many", b.Next, b.Partial, len(b.Data))
	}
}

// end checks what comes after the last message.
func (w *modelWay) end(t *rapid.T, lim Limits) {
	if len(w.open) > 0 {
		if w.unacked()+w.frame(len(w.open)) > w.limit {
			w.ack(t)
		}
		b := nextBatch(t, w.cursor, lim)
		if !bytes.Equal(b.Data, w.open) || !b.Truncated || b.Partial {
			t.Fatalf("of an unfinished message %d bytes, truncated %t, partial %t", len(b.Data), b.Truncated, b.Partial)
		}
	}
	end := nextEnd(t, w.cursor)
	reset := w.other.gone && end.Cause == CauseReset
	if !reset && (end.Cause == CauseTruncated) != (len(w.open) > 0) || end.Position != w.cursor.Position() {
		t.Fatalf("end %+v at %v", end, w.cursor.Position())
	}
	w.ended = true
}

func (w *modelWay) ack(t *rapid.T) {
	if err := w.to.in.Ack(Position{Message: uint64(w.read + 1)}); err != nil {
		t.Fatal(err)
	}
	w.acked = w.read
}

func (m *pipeModel) Ack(t *rapid.T) {
	w := m.way(t)
	if w.gone || w.ended {
		return
	}
	w.ack(t)
}

func (m *pipeModel) Cancel(t *rapid.T) {
	w := m.way(t)
	w.cursor.Close()
	w.cursor = w.to.in.Consumer()
	if !w.gone {
		w.read, w.ended = w.acked, false
	}
}

func (m *pipeModel) Observe(t *rapid.T) {
	w := m.way(t)
	if w.gone {
		return
	}
	c := w.to.in.Observer()
	defer c.Close()
	for {
		ev, err := c.Next(nil, Limits{})
		if err != nil || ev.Gap != nil {
			t.Fatalf("observing: gap %v, %v", ev.Gap, err)
		}
		if ev.Batch == nil {
			return
		}
		want := string(w.open)
		if n := int(ev.Batch.First.Message); n <= len(w.accepted) {
			want = w.accepted[n-1]
		}
		if off := ev.Batch.First.Offset; want[off:] != string(ev.Batch.Data) {
			t.Fatalf("an observer sees %d bytes at %v", len(ev.Batch.Data), ev.Batch.First)
		}
	}
}

// close: what is there of a line becomes a message.
func (w *modelWay) close() {
	w.closed = true
	if w.framing == "line" && len(w.open) > 0 {
		w.accepted, w.open, w.partial = append(w.accepted, string(w.open)), nil, true
	}
}

func (m *pipeModel) CloseSend(t *rapid.T) {
	w := m.way(t)
	if err := w.from.CloseSend(false); err != nil {
		t.Fatal(err)
	}
	w.close()
}

func (m *pipeModel) Close(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "really") > 0 {
		return // or most runs are short
	}
	w := m.way(t)
	w.from.Close(false)
	w.close()
	w.other.gone = true
}

// Kill lets the process go that has both ends, and another one recover them.
func (m *pipeModel) Kill(t *rapid.T) {
	if m.control == nil || rapid.IntRange(0, 2).Draw(t, "really") > 0 {
		return
	}
	kept := Kept{Control: m.control}
	for i, w := range m.ways {
		w.cursor.Close()
		kept.Ends[i] = w.from.kill()
	}
	one, two, err := Recover(m.poller, kept, func(int, bool) {})
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range m.ways {
		w.from, w.to = one, two
		if i == 1 {
			w.from, w.to = two, one
		}
	}
	for _, w := range m.ways {
		w.cursor = w.to.in.Consumer()
		if !w.gone {
			w.read, w.ended = w.acked, false
		}
	}
}

// Check is called after every step.
func (m *pipeModel) Check(t *rapid.T) {
	for _, w := range m.ways {
		out, in := w.from.out.Info(), w.to.in.Info()
		n := uint64(len(w.accepted))
		if w.partial {
			n--
		}
		if !w.gone && out.Messages != n {
			t.Fatalf("the outbox has accepted %d messages, not %d", out.Messages, n)
		}
		if out.QueuedBytes > uint64(w.limit) || in.QueuedBytes > uint64(w.limit) {
			t.Fatalf("%d bytes are queued in the outbox, %d in the inbox", out.QueuedBytes, in.QueuedBytes)
		}
	}
}

func TestPipeBehavesAsItsModel(t *testing.T) {
	for _, framing := range []string{"mp", "line"} {
		for _, sealed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/sealed %t", framing, sealed), func(t *testing.T) {
				poller := newTestPoller(t)
				rapid.Check(t, func(t *rapid.T) { checkModel(t, poller, framing, sealed) })
			})
		}
	}
}

func checkModel(t *rapid.T, poller *Poller, framing string, sealed bool) {
	spec := testSpec(Duplex, framing, sealed)
	spec.LogSize, spec.TailSize = 32<<10, 10_000
	spec = exactly(t, spec)
	one, two, err := Open(poller, spec)
	if err != nil {
		t.Fatal(err)
	}
	m := &pipeModel{poller: poller, control: spec.Control, ways: [2]*modelWay{
		{from: one, to: two, framing: framing, limit: int(spec.LogSize), cursor: two.in.Consumer()},
		{from: two, to: one, framing: framing, limit: int(spec.LogSize), cursor: one.in.Consumer()},
	}}
	m.ways[0].other, m.ways[1].other = m.ways[1], m.ways[0]
	defer func() {
		for _, w := range m.ways {
			w.cursor.Close()
			w.from.Close(true)
		}
		for _, w := range m.ways {
			await(t, "the ends to be closed", w.from.Closed())
		}
	}()
	t.Repeat(rapid.StateMachineActions(m))
}
