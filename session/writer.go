package session

import (
	"context"
	"errors"
	"fmt"

	"github.com/piped-dev/piped/pipe"
)

// A Writer has the right to send into an endpoint. Close it.
type Writer struct {
	e       *Endpoint
	out     *pipe.Outbox
	rec     *writerRecord
	raw     bool
	shift   uint64 // direction number minus sequence number
	changed <-chan struct{}
	stop    func()
	tenure  *tenure
}

// WriterOptions say who writes.
type WriterOptions struct {
	// ID names the writer across its lives; empty: nothing is remembered.
	ID string
	// Epoch fences off lives of the same writer with a lower one.
	Epoch uint64
	// Claim is for the lease.
	Claim
}

const maxClientID = 128

// OpenWriter makes the caller the writer of the end. Another writer is named by
// a *BusyError, unless it has the same id: then it is superseded. A token whose
// lease has ended, and an older epoch, is refused with a *FencedError.
func (e *Endpoint) OpenWriter(o WriterOptions) (*Writer, error) {
	if len(o.ID) > maxClientID {
		return nil, argument("writer id has %d bytes, at most %d are allowed", len(o.ID), maxClientID)
	}
	if err := o.check(e.session.reg.config().MaxLeaseDuration); err != nil {
		return nil, err
	}
	out, err := e.outbox()
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.leaseLocked(RoleWriter)
	if err := l.admit(o.ID, &o.Claim); err != nil {
		return nil, err
	}
	rec := e.records.get(o.ID)
	if o.Epoch < rec.epoch {
		return nil, &FencedError{By: o.ID, Epoch: rec.epoch}
	}
	rec.epoch = o.Epoch
	e.remember(rec)
	if err := e.sendAs(rec, out); err != nil {
		return nil, err
	}
	w := &Writer{e: e, out: out, rec: rec, raw: e.Framing(false).Name == "raw"}
	w.tenure = l.begin(o.ID, &o.Claim, nil)
	w.shift = out.Info().Accepted.Message - rec.next
	w.changed, w.stop = out.Watch()
	return w, nil
}

// Close ends the stream because its client has ended it: it gives the lease
// back, unless that was acquired before. The endpoint stays open.
func (w *Writer) Close() { w.leave(true) }

// Cut ends the stream because it was cut: the lease waits for the writer to come
// back, as long as was asked for, unless nothing can be sent any more. After Close it
// does nothing.
func (w *Writer) Cut() { w.leave(w.out.End() != nil) }

func (w *Writer) leave(cleanly bool) {
	w.stop()
	w.e.mu.Lock()
	defer w.e.mu.Unlock()
	w.tenure.lease.leave(w.tenure, cleanly)
}

// Lease returns the lease that the stream holds, and what proves it; nil when it
// was lost.
func (w *Writer) Lease() (Token, *Lease) { return w.e.leaseOf(w.tenure) }

// Watch returns a channel that gets a value when Delivered may have moved or
// the direction has ended. The caller must call stop.
func (w *Writer) Watch() (changed <-chan struct{}, stop func()) { return w.out.Watch() }

// Framing returns the framing of what is written.
func (w *Writer) Framing() pipe.Framing { return w.e.Framing(false) }

// Lost is closed when the stream has lost the lease; Err says why.
func (w *Writer) Lost() <-chan struct{} { return w.tenure.lost }

// Err returns why nothing can be sent any more, or why what was sent will never
// be delivered, or nil. A lease that was lost is ErrSuperseded, by a newer stream
// of the same writer, or a *FencedError.
func (w *Writer) Err() error {
	if err := w.tenure.check(); err != nil {
		return err
	}
	end := w.out.End()
	switch {
	case end != nil && end.Cause == pipe.CauseBrokenPipe:
		return w.broken(pipe.ErrBrokenPipe)
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
	return w.inSequence(w.out.Info().Delivered)
}

// inSequence turns a position of the direction into one of the writer's
// sequence.
func (w *Writer) inSequence(p pipe.Position) pipe.Position {
	if p.Message <= w.shift {
		return pipe.Position{Message: 1}
	}
	p.Message -= w.shift
	return p
}

// Read is the same for what the other end has read, as the kernel says when it is
// asked: it tells nobody when that changes. The error says why it will go no
// further: ErrBrokenPipe when nobody is left to read, ErrClosed when it cannot be
// known any more.
func (w *Writer) Read() (pipe.Position, error) {
	gone := w.out.Gone()
	var closed bool
	select {
	case <-w.out.Flushed():
		closed = true
	default:
	}
	sent := w.out.Info().Committed
	at := w.out.Read()
	if all, _ := w.e.ep.AllRead(); all {
		at = sent // also where the descriptor is closed by now
	}
	switch {
	case !at.Before(sent):
		return w.inSequence(at), nil
	case gone:
		return w.inSequence(at), pipe.ErrBrokenPipe
	case closed:
		return w.inSequence(at), fmt.Errorf("%w: nobody can know any more what is read of %s", pipe.ErrClosed, w.e.Ref())
	}
	return w.inSequence(at), nil
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
func (w *Writer) Send(ctx context.Context, b Outgoing) error { return w.broken(w.send(ctx, b)) }

// broken returns err, or that the end is closed where nobody reads the other one
// because the session is being deleted, which kills who did before it closes its own.
func (w *Writer) broken(err error) error {
	if errors.Is(err, pipe.ErrBrokenPipe) && w.e.session.openable() != nil {
		return fmt.Errorf("%w for sending: the session of %s was deleted", pipe.ErrClosed, w.e.Ref())
	}
	if errors.Is(err, pipe.ErrBrokenPipe) || errors.Is(err, pipe.ErrClosed) {
		return w.e.followed(err)
	}
	return err
}

func (w *Writer) send(ctx context.Context, b Outgoing) error {
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
		case <-w.tenure.lost:
			return w.tenure.why
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tryAppend commits one part if this is still the writer and there is room.
func (w *Writer) tryAppend(part pipe.Part) error {
	w.e.mu.Lock()
	defer w.e.mu.Unlock()
	if !w.tenure.held() {
		return w.tenure.reason()
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
	w.e.remember(w.rec)
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
