package session

import (
	"context"
	"fmt"

	"github.com/piped-dev/piped/pipe"
)

// ReaderStart is where a reader starts.
type ReaderStart uint8

// The starts of a reader.
const (
	// StartDefault is StartUnacked for a consumer, StartOldest for an observer.
	StartDefault ReaderStart = iota
	// StartUnacked is the first message that no consumer has acknowledged.
	StartUnacked
	// StartOldest is the oldest message that is retained.
	StartOldest
	// StartNow is the next message that arrives.
	StartNow
	// StartPosition is ReaderOptions.Position.
	StartPosition
)

// ReaderOptions say who reads, what, and from where.
type ReaderOptions struct {
	// ID names a consumer: a newer stream with the same id takes over.
	ID string
	// Observe looks without consuming.
	Observe bool
	Start   ReaderStart
	// Position is where StartPosition starts. From a consumer it acknowledges
	// what is before it.
	Position pipe.Position
	// Force reads although a process holds a copy of the same end.
	Force bool
}

// A Reader reads an endpoint: the consumer, or an observer. Next belongs to one
// goroutine; Ack may be called by another. Close it.
type Reader struct {
	e          *Endpoint
	in         *pipe.Inbox
	cursor     *pipe.Cursor
	id, name   string
	observe    bool
	force      bool
	superseded chan struct{}
}

// OpenReader makes the caller an observer or the consumer of the end. Another
// consumer is refused with ErrBusyReader, unless it has the same id: then it is
// superseded. The context bounds opening only.
func (e *Endpoint) OpenReader(ctx context.Context, o ReaderOptions) (*Reader, error) {
	if len(o.ID) > maxClientID {
		return nil, argument("consumer id has %d bytes, at most %d are allowed", len(o.ID), maxClientID)
	}
	in, err := e.inbox()
	if err != nil {
		return nil, err
	}
	r := &Reader{e: e, in: in, id: o.ID, name: o.ID, observe: o.Observe, force: o.Force, superseded: make(chan struct{})}
	if o.Observe {
		r.cursor = in.Observer()
	} else {
		if !o.Force {
			if err := e.refuseShared(ctx); err != nil {
				return nil, err
			}
		}
		if err := r.take(); err != nil {
			return nil, err
		}
	}
	if err := r.seek(o); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// take makes r the consumer of its endpoint.
func (r *Reader) take() error {
	e := r.e
	e.mu.Lock()
	defer e.mu.Unlock()
	if old := e.reader; old != nil {
		if r.id == "" || old.id != r.id {
			return &BusyError{Err: ErrBusyReader, Client: old.name}
		}
	}
	if e.bequest != "" && !r.force {
		return &BusyError{Err: ErrBusyReader, Client: fmt.Sprintf("process %s, which gets a copy of %s,", e.bequest, e.Ref())}
	}
	if old := e.reader; old != nil {
		close(old.superseded)
		old.cursor.Rest()
	}
	if r.name == "" {
		r.name = randomName("reader")
	}
	r.cursor = r.in.Consumer()
	e.reader = r
	return nil
}

func (r *Reader) seek(o ReaderOptions) error {
	start := o.Start
	if start == StartPosition && o.Position.Message == 0 {
		return argument("a start at a position needs its message number, from 1")
	}
	if !r.observe {
		switch start {
		case StartDefault, StartUnacked:
			return nil
		case StartPosition:
			if o.Position.Before(r.cursor.Position()) {
				return argument("position %v is acknowledged already, %v is the first that is not; observe to see it again",
					o.Position, r.cursor.Position())
			}
			if err := r.Ack(o.Position); err != nil {
				return err
			}
			return r.cursor.Seek(o.Position)
		case StartOldest, StartNow:
			return argument("a consumer starts at what is not acknowledged, or at a position")
		}
	}
	switch start {
	case StartUnacked:
		return r.cursor.Seek(r.in.Acked())
	case StartNow:
		r.cursor.SeekEnd()
	case StartPosition:
		return r.cursor.Seek(o.Position)
	case StartDefault, StartOldest:
	}
	return nil
}

// Close gives the right back. What is not acknowledged goes to the next
// consumer.
func (r *Reader) Close() {
	if r.cursor != nil {
		r.cursor.Close()
	}
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	if r.e.reader == r {
		r.e.reader = nil
	}
}

// Next returns what is next, without waiting; see [pipe.Cursor.Next]. It
// returns ErrSuperseded when a newer stream took over.
func (r *Reader) Next(buf []byte, lim pipe.Limits) (pipe.Event, error) {
	select {
	case <-r.superseded:
		return pipe.Event{}, ErrSuperseded
	default:
		return r.cursor.Next(buf, lim)
	}
}

// Rest stops waiting for a message: nothing more is read from a shared end
// until the next call of Next.
func (r *Reader) Rest() { r.cursor.Rest() }

// Arriving reports whether a message may be just coming in, so that waiting for
// Changed is certain to end.
func (r *Reader) Arriving() bool { return r.in.Arriving() }

// Changed has a value when Next may find more.
func (r *Reader) Changed() <-chan struct{} { return r.cursor.Changed() }

// Superseded is closed when a newer stream of the same consumer took over.
func (r *Reader) Superseded() <-chan struct{} { return r.superseded }

// Position returns where the reader stands.
func (r *Reader) Position() pipe.Position { return r.cursor.Position() }

// Ack frees everything below to. It returns ErrPosition for what has not
// arrived, ErrSuperseded when a newer stream took over or r was closed, and an
// error from an observer.
func (r *Reader) Ack(to pipe.Position) error {
	if r.observe {
		return argument("an observer has nothing to acknowledge")
	}
	// Under the lock, so that a reader that lost its right cannot take away what
	// the next one has begun to read.
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	if r.e.reader != r {
		return ErrSuperseded
	}
	return r.in.Ack(to)
}

// AutoAck is Ack for a reader whose client does not acknowledge; from an
// observer it does nothing.
func (r *Reader) AutoAck(to pipe.Position) error {
	if r.observe {
		return nil
	}
	return r.Ack(to)
}

// Arrived returns the position of the next message to arrive.
func (r *Reader) Arrived() pipe.Position { return r.in.Arrived() }

// AtEnd reports whether nothing but the end is left to be read.
func (r *Reader) AtEnd() bool {
	end := r.in.End()
	return end != nil && !r.Position().Before(end.Position)
}

// Err returns why nothing can be received any more, other than the end of the
// direction, or nil.
func (r *Reader) Err() error { return r.e.usable() }

// EndSeen reports whether this is the first unary call that meets the end.
func (r *Reader) EndSeen() (first bool) { return r.in.EndRead() }

// Poll says which endpoints are ready to be received from, in their order,
// without consuming anything. It waits for the first; the end of the context is
// not an error and leaves an empty result.
func Poll(ctx context.Context, endpoints []*Endpoint) ([]pipe.Readiness, error) {
	inboxes := make([]*pipe.Inbox, len(endpoints))
	for i, e := range endpoints {
		in, err := e.inbox()
		if err != nil {
			return nil, err
		}
		inboxes[i] = in
	}
	if ready, found, err := look(inboxes); found || err != nil || ctx.Err() != nil {
		return ready, err
	}
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	woken := make(chan struct{}, len(inboxes))
	for _, in := range inboxes {
		go func() {
			// The error, a closed end or the end of the wait, shows in the next look.
			_, _ = in.WaitReady(wait)
			woken <- struct{}{}
		}()
	}
	<-woken
	cancel()
	for range len(inboxes) - 1 {
		<-woken
	}
	ready, _, err := look(inboxes)
	return ready, err
}

func look(inboxes []*pipe.Inbox) (ready []pipe.Readiness, found bool, err error) {
	ready = make([]pipe.Readiness, len(inboxes))
	for i, in := range inboxes {
		if ready[i], err = in.Ready(); err != nil {
			return nil, false, err
		}
		found = found || ready[i].Any()
	}
	return ready, found, nil
}
