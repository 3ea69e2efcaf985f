package session

import (
	"context"

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
	// Observe looks without consuming; with Sent at what clients send into the end
	// instead of at what comes out of it.
	Observe, Sent bool
	Start         ReaderStart
	// Position is where StartPosition starts. From a consumer it acknowledges
	// what is before it.
	Position pipe.Position
	// Force reads although a process holds a copy of the same end.
	Force bool
	// Claim is for the consumer's lease; an observer needs none.
	Claim
}

// A Reader reads an endpoint: the consumer, or an observer. Next belongs to one
// goroutine; Ack may be called by another. Close it.
type Reader struct {
	e      *Endpoint
	from   direction
	in     *pipe.Inbox // nil for what is sent
	cursor *pipe.Cursor
	tenure *tenure // nil for an observer
}

// A direction is what a Reader needs of an inbox or an outbox.
type direction interface {
	Observer() *pipe.Cursor
	Arrived() pipe.Position
	End() *pipe.End
}

// OpenReader makes the caller an observer or the consumer of the end. Another
// consumer is named by a *BusyError, unless it has the same id: then it is
// superseded. A token whose lease has ended is refused with a *FencedError. The
// context bounds opening only.
func (e *Endpoint) OpenReader(ctx context.Context, o ReaderOptions) (*Reader, error) {
	if len(o.ID) > maxClientID {
		return nil, argument("consumer id has %d bytes, at most %d are allowed", len(o.ID), maxClientID)
	}
	if err := o.check(e.session.reg.config().MaxLeaseDuration); err != nil {
		return nil, err
	}
	if o.Sent && !o.Observe {
		return nil, argument("what is sent into an end can be observed, not consumed")
	}
	r, err := e.newReader(o.Sent)
	if err == nil {
		err = o.checkStart()
	}
	if err != nil {
		return nil, err
	}
	if o.Observe {
		r.cursor = r.from.Observer()
	} else {
		if !o.Force {
			if err := e.refuseShared(ctx); err != nil {
				return nil, err
			}
		}
		if err := r.take(&o); err != nil {
			return nil, err
		}
	}
	if err := r.seek(o); err != nil {
		// What it had not, it gives back; what waited for it waits on.
		r.leave(r.tenure != nil && r.tenure.took)
		return nil, err
	}
	return r, nil
}

func (e *Endpoint) newReader(sent bool) (*Reader, error) {
	if sent {
		out, err := e.outbox()
		return &Reader{e: e, from: out}, err
	}
	in, err := e.inbox()
	return &Reader{e: e, from: in, in: in}, err
}

// take makes r the consumer of its endpoint.
func (r *Reader) take(o *ReaderOptions) error {
	e := r.e
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.leaseLocked(RoleConsumer)
	if err := l.admit(o.ID, &o.Claim); err != nil {
		return err
	}
	if !o.Force {
		if err := e.refuseBequestLocked(); err != nil {
			return err
		}
	}
	if err := r.checkPosition(o); err != nil {
		return err
	}
	r.tenure = l.begin(o.ID, &o.Claim, func() { r.cursor.Rest() })
	l.force = o.Force
	r.cursor = r.in.Consumer()
	return nil
}

// checkStart refuses a start that makes no sense, before anybody loses a lease to
// it.
func (o *ReaderOptions) checkStart() error {
	switch {
	case o.Start == StartPosition && o.Position.Message == 0:
		return argument("a start at a position needs its message number, from 1")
	case !o.Observe && (o.Start == StartOldest || o.Start == StartNow):
		return argument("a consumer starts at what is not acknowledged, or at a position")
	case o.Sent && o.Start == StartUnacked:
		return argument("what is sent into an end is not acknowledged: start at the oldest, at now, or at a position")
	}
	return nil
}

// checkPosition refuses a consumer's position to which it could not move, before
// anybody loses the lease to it. The endpoint's mutex is held, so that nothing is
// acknowledged meanwhile.
func (r *Reader) checkPosition(o *ReaderOptions) error {
	if o.Start != StartPosition {
		return nil
	}
	acked := r.in.Acked()
	if o.Position.Before(acked) {
		if r.in.Info().Drops != (pipe.Drops{}) {
			return nil // it may be where a gap begins, as the cursor knows
		}
		return acknowledged(o.Position, acked)
	}
	probe := r.in.Observer()
	defer probe.Close()
	return probe.Seek(o.Position)
}

func acknowledged(at, acked pipe.Position) error {
	return argument("position %v is acknowledged already, %v is the first that is not; observe to see it again", at, acked)
}

// seek moves to the start, which was checked.
func (r *Reader) seek(o ReaderOptions) error {
	if r.tenure != nil {
		if o.Start != StartPosition {
			return nil
		}
		if at := r.cursor.Position(); o.Position.Before(at) {
			return acknowledged(o.Position, at)
		}
		if err := r.Ack(o.Position); err != nil {
			return err
		}
		return r.cursor.Seek(o.Position)
	}
	switch o.Start {
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

// Close ends the stream because its client has ended it, or because of the end of
// the direction: it gives the lease back, unless that was acquired before. What
// is not acknowledged goes to the next consumer.
func (r *Reader) Close() { r.leave(true) }

// Cut ends the stream because it was cut: the lease waits for the consumer to
// come back, as long as was asked for. After Close it does nothing.
func (r *Reader) Cut() { r.leave(false) }

func (r *Reader) leave(cleanly bool) {
	r.cursor.Close()
	if r.tenure == nil {
		return
	}
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	r.tenure.lease.leave(r.tenure, cleanly)
}

// Lease returns the lease that the stream holds, and what proves it; nil for an
// observer, and when it was lost.
func (r *Reader) Lease() (Token, *Lease) {
	if r.tenure == nil {
		return Token{}, nil
	}
	return r.e.leaseOf(r.tenure)
}

// Next returns what is next, without waiting; see [pipe.Cursor.Next]. It returns
// what Err does when the lease was lost.
func (r *Reader) Next(buf []byte, lim pipe.Limits) (pipe.Event, error) {
	if r.tenure != nil {
		if err := r.tenure.check(); err != nil {
			return pipe.Event{}, err
		}
	}
	return r.cursor.Next(buf, lim)
}

// Rest stops waiting for a message: nothing more is read from a shared end
// until the next call of Next.
func (r *Reader) Rest() { r.cursor.Rest() }

// Arriving reports whether a message may be just coming in, so that waiting for
// Changed is certain to end.
func (r *Reader) Arriving() bool { return r.in != nil && r.in.Arriving() }

// Changed has a value when Next may find more.
func (r *Reader) Changed() <-chan struct{} { return r.cursor.Changed() }

// Lost is closed when the stream has lost the lease; Err says why. An observer's
// is nil.
func (r *Reader) Lost() <-chan struct{} {
	if r.tenure == nil {
		return nil
	}
	return r.tenure.lost
}

// Position returns where the reader stands.
func (r *Reader) Position() pipe.Position { return r.cursor.Position() }

// Ack frees everything below to. It returns ErrPosition for what has not
// arrived, what Err does when the lease was lost (ErrSuperseded after Close), and
// an error from an observer.
func (r *Reader) Ack(to pipe.Position) error {
	if r.tenure == nil {
		return argument("an observer has nothing to acknowledge")
	}
	// Under the lock, so that a reader that lost its right cannot take away what
	// the next one has begun to read.
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	if !r.tenure.held() {
		return r.tenure.reason()
	}
	return r.in.Ack(to)
}

// AutoAck is Ack for a reader whose client does not acknowledge; from an
// observer it does nothing.
func (r *Reader) AutoAck(to pipe.Position) error {
	if r.tenure == nil {
		return nil
	}
	return r.Ack(to)
}

// Arrived returns the position of the next message to arrive.
func (r *Reader) Arrived() pipe.Position { return r.from.Arrived() }

// AtEnd reports whether nothing but the end is left to be read.
func (r *Reader) AtEnd() bool {
	end := r.from.End()
	return end != nil && !r.Position().Before(end.Position)
}

// Err returns why nothing can be received any more, other than the end of the
// direction, or nil. A lease that was lost is ErrSuperseded, by a newer stream of
// the same consumer, or a *FencedError.
func (r *Reader) Err() error {
	if r.tenure != nil {
		if err := r.tenure.check(); err != nil {
			return err
		}
	}
	return r.e.usable()
}

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
