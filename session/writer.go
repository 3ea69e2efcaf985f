package session

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/piped-dev/piped/pipe"
)

// A writerRecord is what is remembered of a writer id.
type writerRecord struct {
	id    string
	epoch uint64
	next  uint64 // sequence number of the next message; in raw, of the next byte
}

// writerRecords remembers writers, least recent first. It is short enough to be
// searched.
type writerRecords []*writerRecord

// get returns the record of id, which is new if it is not remembered or empty.
func (r *writerRecords) get(id string) *writerRecord {
	if id == "" {
		return &writerRecord{next: 1}
	}
	rec := &writerRecord{id: id, next: 1}
	if i := slices.IndexFunc(*r, func(w *writerRecord) bool { return w.id == id }); i >= 0 {
		rec = (*r)[i]
		*r = slices.Delete(*r, i, i+1)
	} else if len(*r) >= maxWriters {
		*r = slices.Delete(*r, 0, 1)
	}
	*r = append(*r, rec)
	return rec
}

// A Writer has the right to send into an endpoint. Close it.
type Writer struct {
	e          *Endpoint
	out        *pipe.Outbox
	rec        *writerRecord
	name       string
	raw        bool
	shift      uint64 // direction number minus sequence number
	changed    <-chan struct{}
	stop       func()
	superseded chan struct{}
}

// WriterOptions say who writes.
type WriterOptions struct {
	// ID names the writer across its lives; empty: nothing is remembered.
	ID string
	// Epoch fences off lives of the same writer with a lower one.
	Epoch uint64
}

const maxClientID = 128

// OpenWriter makes the caller the writer of the end. Another writer is refused
// with ErrBusyWriter, unless it has the same id: then it is superseded.
func (e *Endpoint) OpenWriter(o WriterOptions) (*Writer, error) {
	if len(o.ID) > maxClientID {
		return nil, argument("writer id has %d bytes, at most %d are allowed", len(o.ID), maxClientID)
	}
	out, err := e.outbox()
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if w := e.writer; w != nil {
		if o.ID == "" || w.rec.id != o.ID {
			return nil, &BusyError{Err: ErrBusyWriter, Client: w.name}
		}
	}
	rec := e.records.get(o.ID)
	if o.Epoch < rec.epoch {
		return nil, fmt.Errorf("%w: epoch %d of writer %q, the newest is %d", ErrFenced, o.Epoch, o.ID, rec.epoch)
	}
	rec.epoch = o.Epoch
	if e.writer != nil {
		close(e.writer.superseded)
	}
	w := &Writer{e: e, out: out, rec: rec, name: o.ID, raw: e.Framing(false).Name == "raw", superseded: make(chan struct{})}
	if w.name == "" {
		w.name = randomName("writer")
	}
	w.shift = out.Info().Committed.Message - rec.next
	w.changed, w.stop = out.Watch()
	e.writer = w
	return w, nil
}

// Close gives the right back. The endpoint stays open.
func (w *Writer) Close() {
	w.stop()
	w.e.mu.Lock()
	defer w.e.mu.Unlock()
	if w.e.writer == w {
		w.e.writer = nil
	}
}

// Watch returns a channel that gets a value when Delivered may have moved or
// the direction has ended. The caller must call stop.
func (w *Writer) Watch() (changed <-chan struct{}, stop func()) { return w.out.Watch() }

// Framing returns the framing of what is written.
func (w *Writer) Framing() pipe.Framing { return w.e.Framing(false) }

// Superseded is closed when a newer stream of the same writer took over.
func (w *Writer) Superseded() <-chan struct{} { return w.superseded }

// Err returns why nothing can be sent any more, or why what was sent will never
// be delivered, or nil.
func (w *Writer) Err() error {
	end := w.out.End()
	switch {
	case end != nil && end.Cause == pipe.CauseBrokenPipe:
		return pipe.ErrBrokenPipe
	case end != nil && w.Delivered().Before(w.Expected()):
		return fmt.Errorf("%w: what %s still held was discarded", pipe.ErrClosed, w.e.Ref())
	}
	return w.e.usable()
}

// Expected returns where the writer's sequence goes on. The offset is not 0
// when there is an unfinished message.
func (w *Writer) Expected() pipe.Position {
	w.e.mu.Lock()
	defer w.e.mu.Unlock()
	return w.expectedLocked()
}

func (w *Writer) expectedLocked() pipe.Position {
	p := pipe.Position{Message: w.rec.next}
	if u := w.out.Unfinished(); u != nil {
		p.Offset = u.Have
	}
	return p
}

// Unfinished describes the message of which only parts were sent, or is nil.
func (w *Writer) Unfinished() *pipe.UnfinishedError { return w.out.Unfinished() }

// Delivered returns the position in the writer's sequence below which
// everything was handed over to the kernel.
func (w *Writer) Delivered() pipe.Position {
	p := w.out.Info().Delivered
	if p.Message <= w.shift {
		return pipe.Position{Message: 1}
	}
	p.Message -= w.shift
	return p
}

// An Outgoing is a batch to send: whole messages one after another, or one part
// of a message.
type Outgoing struct {
	// First is in the writer's sequence; message 0 is the next one.
	First pipe.Position
	Data  []byte
	// Sizes of the messages in Data; empty: it is one.
	Sizes []uint32
	// More and Total: see [pipe.Part].
	More  bool
	Total uint64
}

// Send commits a batch, in order. What the writer has sent before is skipped; a
// message that is missing before it gives a *SequenceGapError. Send waits for
// room until ctx ends; what was committed by then stays committed, as Expected
// tells, and a message is committed as a whole or not at all. On ErrBrokenPipe
// nobody reads the other end any more.
func (w *Writer) Send(ctx context.Context, b Outgoing) error {
	b, err := w.unsent(b)
	if err != nil {
		return err
	}
	for off, i := 0, 0; i < len(b.Sizes); i++ {
		size := int(b.Sizes[i])
		part := pipe.Part{Data: b.Data[off : off+size], Offset: b.First.Offset, More: b.More, Total: b.Total}
		if err := w.append(ctx, part); err != nil {
			_ = w.out.Push() // err says more
			return err
		}
		off += size
		b.First.Offset = 0
	}
	if len(b.Sizes) == 0 {
		return nil
	}
	return w.out.Push()
}

// append commits one part, waiting for room.
func (w *Writer) append(ctx context.Context, part pipe.Part) error {
	for {
		err := w.tryAppend(part)
		if !errors.Is(err, pipe.ErrNoRoom) {
			return err
		}
		if err := w.out.Push(); err != nil {
			return err
		}
		if err = w.tryAppend(part); !errors.Is(err, pipe.ErrNoRoom) {
			return err
		}
		select {
		case <-w.changed:
		case <-w.superseded:
			return ErrSuperseded
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tryAppend commits one part if this is still the writer and there is room.
func (w *Writer) tryAppend(part pipe.Part) error {
	w.e.mu.Lock()
	defer w.e.mu.Unlock()
	if w.e.writer != w {
		return ErrSuperseded
	}
	if err := w.out.Append(part); err != nil {
		if errors.Is(err, pipe.ErrClosed) {
			err = fmt.Errorf("%w for sending: %s", err, w.e.Ref())
		}
		return err
	}
	switch {
	case w.raw:
		w.rec.next += uint64(len(part.Data))
	case !part.More:
		w.rec.next++
	}
	return nil
}

// unsent cuts off what the writer has sent before, and gives b its sizes.
func (w *Writer) unsent(b Outgoing) (Outgoing, error) {
	if err := checkOutgoing(&b); err != nil {
		return b, err
	}
	want := w.Expected()
	if b.First.Message == 0 {
		b.First.Message = want.Message
		// Without a number it cannot be told from a repeat, so it is none.
		if u := w.out.Unfinished(); u != nil && b.First.Offset < want.Offset {
			return b, u
		}
	}
	if w.raw {
		return b.unsentBytes(want)
	}
	for len(b.Sizes) > 0 && b.First.Message < want.Message {
		b.First = pipe.Position{Message: b.First.Message + 1}
		b.Data, b.Sizes = b.Data[b.Sizes[0]:], b.Sizes[1:]
	}
	if len(b.Sizes) == 0 {
		return b, nil
	}
	if b.First.Message > want.Message || b.First.Offset > want.Offset {
		return b, &SequenceGapError{Got: b.First, Expected: want}
	}
	if b.First.Offset > 0 || b.More {
		return b.unsentPart(want)
	}
	return b, nil
}

// unsentPart cuts off what was sent before of the part in b.
func (b Outgoing) unsentPart(want pipe.Position) (Outgoing, error) {
	sent := want.Offset - b.First.Offset
	switch n := uint64(len(b.Data)); {
	case b.More && sent >= n:
		b.Sizes = nil
		return b, nil
	case sent > n:
		return b, argument("message %d ends at %d, but %d bytes of it were sent before", want.Message, b.First.Offset+n, want.Offset)
	}
	b.First.Offset, b.Data = want.Offset, b.Data[sent:]
	b.Sizes = []uint32{uint32(len(b.Data))} //nolint:gosec // a part
	return b, nil
}

// unsentBytes does the same in raw, where every byte is a message.
func (b Outgoing) unsentBytes(want pipe.Position) (Outgoing, error) {
	if b.First.Message > want.Message {
		return b, &SequenceGapError{Got: b.First, Expected: want}
	}
	sent := min(want.Message-b.First.Message, uint64(len(b.Data)))
	b.Data, b.Sizes = b.Data[sent:], nil
	if len(b.Data) > 0 {
		b.Sizes = []uint32{uint32(len(b.Data))} //nolint:gosec // a request
	}
	return b, nil
}

func checkOutgoing(b *Outgoing) error {
	if len(b.Sizes) == 0 {
		b.Sizes = []uint32{uint32(len(b.Data))} //nolint:gosec // at most a request
	}
	var total uint64
	for _, s := range b.Sizes {
		total += uint64(s)
	}
	if total != uint64(len(b.Data)) {
		return argument("sizes add up to %d, data has %d bytes", total, len(b.Data))
	}
	if len(b.Sizes) > 1 && (b.More || b.First.Offset != 0) {
		return argument("a part of a message must be a batch of its own")
	}
	return nil
}
