package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

const (
	// defaultMaxMessage bounds what Next joins in memory.
	defaultMaxMessage = 64 << 20
	// stallAfter is how long Next waits for more of a message before it takes the
	// daemon to have no room for it.
	stallAfter = 100 * time.Millisecond
	// defaultBatchMessages is how many messages may come in one batch.
	defaultBatchMessages = 1024
)

// ReaderOptions say how a Reader reads. The zero value consumes: what is not
// acknowledged goes to the next consumer.
type ReaderOptions struct {
	// Observe looks without consuming: nothing is freed or delayed by it, and a
	// Reader that is too slow gets a *GapError.
	Observe bool
	// Sent makes an observer see what clients send into the endpoint, not what
	// comes out of it: those messages that are still retained, so a slow observer
	// gets a *GapError early. Only with Observe; a daemon that can do it names the
	// feature "observe/sent".
	Sent bool
	// ConsumerID names the consumer across streams, at most 128 bytes: a new
	// Reader with the same ID takes over from the older one, which ends with
	// ErrFenced; any other second consumer is refused with ErrBusyReader. Empty
	// means a generated one.
	ConsumerID string
	// Start is where to begin; unspecified means the first message that is not
	// acknowledged, and for an observer the oldest retained.
	Start pipedv1.RecvStart
	// Position is where to begin with RECV_START_POSITION. From a consumer it
	// acknowledges everything before it.
	Position Position
	// MaxUnackedMessages bounds the messages on their way without an
	// acknowledgement; in "raw" what comes in one run counts as one. 0 means no
	// bound but the bytes.
	MaxUnackedMessages uint64
	// MaxUnackedBytes is the same in payload bytes. 0 means the daemon's log
	// size.
	MaxUnackedBytes uint64
	// MaxMessageSize bounds what Next joins in memory, in bytes. A longer message
	// comes in several, each but the last with More. 0 means 64 MiB.
	MaxMessageSize int
	// RefuseLonger makes the daemon refuse a longer message, in bytes, with
	// ErrMessageTooLong and leave it where it is. 0 means no limit.
	RefuseLonger uint64
	// AutoAck acknowledges everything as the daemon sends it: what is on its way
	// when the stream is cut is lost, and Next says so with a *GapError.
	AutoAck bool
	// StopAtNow ends an observer's reading at what is retained now.
	StopAtNow bool
	// Force receives even though a process holds a copy of the same end and may
	// read the same bytes.
	Force bool
	// ReconnectFor is how long the Reader tries to come back after the connection
	// was lost. 0 means until its context ends, or Close's.
	ReconnectFor time.Duration
	// LeaseDuration is how long a consumer's right outlives a stream that was cut,
	// so that nobody else takes it before the Reader is back. 0 means what the
	// daemon gives by default (Limits.lease_duration); less than 0 means that it
	// does not.
	LeaseDuration time.Duration
	// LeaseToken proves a lease that the caller has: see Endpoint.AcquireLease.
	LeaseToken []byte
	// Steal takes the right to consume from whoever has it.
	Steal bool
}

// A Reader receives messages from an endpoint. When the connection is lost, it
// connects again and goes on exactly where it stood. Next and NextPart are for
// one goroutine at a time; Ack, End, Position and Close may be called meanwhile.
// Close it, or cancel the context it was made with.
type Reader struct {
	endpoint *Endpoint
	cancel   context.CancelFunc
	acking   bool
	raw      bool
	stopsNow bool
	maxJoin  int
	// ownsLease says that the lease is of no use to anybody else: nobody knows
	// the ID, and it was not acquired before.
	ownsLease bool

	// incoming is what arrived, each thing once, whatever streams it came on. It
	// is closed after the last; then final is the status of the last stream
	// (io.EOF means OK).
	incoming chan arrival
	final    error
	// wake tells the acknowledging loop that there is something to do.
	wake chan struct{}
	// detached is closed when Close begins.
	detached chan struct{}
	loops    sync.WaitGroup

	// batch and joined belong to the goroutine that calls Next.
	batch unpacked
	// joined is the beginning of a message whose parts Next is joining.
	joined *Message
	// unacked are the bytes of it that are not acknowledged, and room is how many
	// may be.
	unacked, room int
	// whole says that what comes next cannot be the rest of a message whose
	// beginning is missing.
	whole bool

	// mu guards everything below.
	mu sync.Mutex
	// at is the position up to which everything was returned.
	at Position
	// err is what Next returns from now on.
	err error
	end *pipedv1.End
	// ackTo is the acknowledgement to be sent, acked what was sent on the present
	// stream.
	ackTo, acked Position
	// began is where the present stream began: what is below is certainly
	// acknowledged. came is how far it has come.
	began, came Position
	closing     bool
	// giveUp ends the attempts to come back; nil while there is a stream.
	giveUp context.CancelFunc
	// lease is the right that the last stream held.
	lease *Lease
}

// NewReader opens a stream from the endpoint. There is one consumer at a time
// for an endpoint and any number of observers. ctx governs the Reader for its
// whole life, not only its opening.
func (e *Endpoint) NewReader(ctx context.Context, opts ReaderOptions) (*Reader, error) {
	limits, err := e.client.Limits(ctx)
	if err != nil {
		return nil, err
	}
	generated := opts.ConsumerID == ""
	if generated && !opts.Observe {
		opts.ConsumerID = rand.Text()
	}
	if opts.MaxMessageSize <= 0 {
		opts.MaxMessageSize = defaultMaxMessage
	}
	ctx, cancel := context.WithCancel(ctx)
	o := &recvOpener{
		endpoint: e, open: opts.request(e.ref, limits), fullBatch: limits.GetPartSize(),
		silence: longestSilence(limits), retry: retry{limit: opts.ReconnectFor}, acquired: len(opts.LeaseToken) > 0,
	}
	if !opts.Observe {
		o.open.Life = rand.Text()
	}
	s, err := o.first(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	start := positionOf(s.opened.GetPosition())
	r := &Reader{
		endpoint:  e,
		cancel:    cancel,
		acking:    !opts.Observe && !opts.AutoAck,
		raw:       s.opened.GetFraming() == rawFraming,
		stopsNow:  opts.StopAtNow,
		maxJoin:   opts.MaxMessageSize,
		room:      int(min(limits.GetLogSize(), cmp.Or(opts.MaxUnackedBytes, math.MaxInt)) / 2),
		whole:     opts.Start == pipedv1.RecvStart_RECV_START_POSITION,
		ownsLease: generated && len(opts.LeaseToken) == 0,
		incoming:  make(chan arrival),
		wake:      make(chan struct{}, 1),
		detached:  make(chan struct{}),
		at:        start,
		ackTo:     start,
		lease:     leaseOf(o.endpoint, s.opened.GetLease(), s.opened.GetLeaseToken()),
	}
	r.loops.Go(func() { r.run(ctx, o, s) })
	return r, nil
}

func (o *ReaderOptions) request(ref Ref, limits *pipedv1.Limits) *pipedv1.RecvOpen {
	open := &pipedv1.RecvOpen{
		Endpoint:           ref.proto(),
		Mode:               pipedv1.RecvMode_RECV_MODE_CONSUME,
		ConsumerId:         o.ConsumerID,
		Start:              o.Start,
		MaxUnackedMessages: o.MaxUnackedMessages,
		MaxUnackedBytes:    o.MaxUnackedBytes,
		MaxBatchMessages:   defaultBatchMessages,
		MaxMessageSize:     o.RefuseLonger,
		AutoAck:            o.AutoAck,
		StopAtNow:          o.StopAtNow,
		Force:              o.Force,
		LeaseToken:         o.LeaseToken,
		LeaseDuration:      leaseDuration(o.LeaseDuration, limits),
		Steal:              o.Steal,
		Sent:               o.Sent,
	}
	if o.Observe {
		open.Mode = pipedv1.RecvMode_RECV_MODE_OBSERVE
		open.LeaseDuration = nil
	}
	if o.Start == pipedv1.RecvStart_RECV_START_POSITION {
		open.Position = o.Position.proto()
	}
	if o.MaxUnackedMessages == 0 {
		open.MaxUnackedMessages = math.MaxInt64
	} else if o.MaxUnackedMessages < defaultBatchMessages {
		open.MaxBatchMessages = uint32(o.MaxUnackedMessages)
	}
	return open
}

// Ref returns the name of the endpoint.
func (r *Reader) Ref() Ref { return r.endpoint.ref }

// Incarnation returns the incarnation of the pipe that it reads, from 1; it stays
// with that one.
func (r *Reader) Incarnation() uint64 { return r.Position().Incarnation }

// Lease returns the right to consume as the last stream had it, which is also
// there while the Reader is coming back; nil for an observer.
func (r *Reader) Lease() *Lease {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lease
}

// Raw says whether the direction has no frames: each byte counts as a message.
func (r *Reader) Raw() bool { return r.raw }

// Buffered says whether Next returns a message without waiting for the daemon.
// It is for the goroutine that calls Next.
func (r *Reader) Buffered() bool { return !r.batch.empty() }

// Position returns the position up to which everything was returned.
func (r *Reader) Position() Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at
}

// End returns the last word about the direction once Next has returned io.EOF
// or an *IncompleteError; nil before, and after StopAtNow came first.
func (r *Reader) End() *pipedv1.End {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.end
}

// Next returns the next message. Parts of a large one are joined, up to
// ReaderOptions.MaxMessageSize. The daemon need not have room for all of a message,
// so what was joined is acknowledged once it is more than half of its log, or when
// nothing more comes. When ctx ends in between, a further Next goes on; when the
// consumer ends in between, the next one gets a *GapError for what was
// acknowledged before it gets the rest.
//
// After the last message comes io.EOF, for ever; when something is missing it is
// an *IncompleteError instead. A *GapError says what was skipped, and Next goes
// on behind it.
func (r *Reader) Next(ctx context.Context) (Message, error) {
	for {
		if err := r.fill(ctx); err != nil {
			return Message{}, err
		}
		if gap := r.torn(); gap != nil {
			return Message{}, gap
		}
		part := r.unpack()
		if r.joined == nil {
			if !part.More || r.raw {
				return part, nil
			}
			part.Data = append(make([]byte, 0, min(part.TotalSize, uint64(r.maxJoin), 2*uint64(len(part.Data)))), part.Data...)
			r.joined, r.unacked = &part, len(part.Data)
		} else {
			r.joined.join(part)
			r.unacked += len(part.Data)
		}
		if whole := r.joined; !whole.More || len(whole.Data) >= r.maxJoin {
			r.joined = nil
			return *whole, nil
		}
		if r.unacked > r.room {
			if err := r.ackJoined(); err != nil {
				return Message{}, err
			}
		}
	}
}

// fill waits until there is a message or part in r.batch. Where Next is joining and
// nothing comes, the log of this pipe may be smaller than the usual one, or full of
// what the caller has not acknowledged: then the daemon is given room.
func (r *Reader) fill(ctx context.Context) error {
	if r.joined == nil || r.unacked == 0 || !r.acking || !r.batch.empty() {
		return r.arrive(ctx)
	}
	soon, cancel := context.WithTimeout(ctx, stallAfter)
	err := r.arrive(soon)
	stalled := soon.Err() != nil && r.failed() == nil
	cancel()
	if err == nil || ctx.Err() != nil || !stalled || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	r.room = min(r.room, r.unacked/2)
	if err := r.ackJoined(); err != nil {
		return err
	}
	return r.arrive(ctx)
}

// ackJoined acknowledges what was joined so far.
func (r *Reader) ackJoined() error {
	r.unacked = 0
	return r.Ack(r.joined.After)
}

// torn returns, once, what is missing where the first that came is the rest of a
// message: another consumer has acknowledged the beginning.
func (r *Reader) torn() *GapError {
	at := r.batch.at
	if r.whole || at.Offset == 0 {
		r.whole = true
		return nil
	}
	r.whole = true
	return &GapError{From: Position{Incarnation: at.Incarnation, Message: at.Message}, To: at}
}

// join adds the next part.
func (m *Message) join(part Message) {
	m.Data = append(m.Data, part.Data...)
	m.After, m.More = part.After, part.More
	m.Partial, m.Truncated, m.Stray = part.Partial, part.Truncated, part.Stray
	if !m.More && !m.Truncated && m.Position.Offset == 0 {
		m.TotalSize = uint64(len(m.Data))
	}
}

// NextPart returns the next message, or the next part of a large one, as it
// comes; otherwise it is as Next, but without a *GapError where the Reader begins
// inside a message.
func (r *Reader) NextPart(ctx context.Context) (Message, error) {
	if begun := r.joined; begun != nil {
		r.joined = nil
		return *begun, nil
	}
	if err := r.arrive(ctx); err != nil {
		return Message{}, err
	}
	r.whole = true
	return r.unpack(), nil
}

// arrive waits until there is a message or part in r.batch.
func (r *Reader) arrive(ctx context.Context) error {
	for r.batch.empty() {
		if err := r.failed(); err != nil {
			return err
		}
		select {
		case next, ok := <-r.incoming:
			if !ok {
				return r.fail(r.ended())
			}
			if err := r.take(next); err != nil {
				return err
			}
		case <-r.detached:
			return ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// unpack takes the next message or part from r.batch.
func (r *Reader) unpack() Message {
	m := r.batch.next()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = m.After
	return m
}

func (r *Reader) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// fail makes err the answer of every Next from now on.
func (r *Reader) fail(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	return r.err
}

// ended is what the end of the stream means when no End came before.
func (r *Reader) ended() error {
	r.mu.Lock()
	closing := r.closing
	r.mu.Unlock()
	switch {
	case closing:
		return ErrClosed
	case !errors.Is(r.final, io.EOF):
		return fromRPC(r.final)
	case r.stopsNow:
		return io.EOF
	default:
		return fmt.Errorf("the stream from the daemon ended without the last word: %w", io.ErrUnexpectedEOF)
	}
}

// take looks at one arrival; messages are in r.batch afterwards.
func (r *Reader) take(next arrival) error {
	switch {
	case next.gap != nil:
		r.whole = true
		r.mu.Lock()
		r.at = next.gap.To
		r.mu.Unlock()
		return next.gap
	case next.end != nil:
		return r.fail(r.finish(next.end))
	case next.batch.at.Compare(r.Position()) != 0:
		return r.fail(&IncompleteError{Have: r.Position(), Want: next.batch.at})
	}
	r.batch = next.batch
	return nil
}

// finish compares the last word with what was received.
func (r *Reader) finish(end *pipedv1.End) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end = end
	if err := r.completeLocked(end); err != nil {
		return err
	}
	return io.EOF
}

// completeLocked returns an error unless everything up to the end was returned.
func (r *Reader) completeLocked(end *pipedv1.End) error {
	if want := positionOf(end.GetPosition()); r.at.Compare(want) != 0 {
		return &IncompleteError{Have: r.at, Want: want}
	}
	return nil
}
