package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// WriterOptions say how a Writer writes. The zero value is good.
type WriterOptions struct {
	// ID names the writer across streams, at most 128 bytes: a new Writer with
	// the same ID goes on where the older one stopped, see Writer.Next, and the
	// older one ends with ErrFenced. Empty means a generated one.
	ID string
	// Epoch of the writer: the daemon refuses, with ErrFenced, one that is lower
	// than the highest it has seen for this ID.
	Epoch uint64
	// Level is how far a message must have got to count as acknowledged, for
	// Flush and Close. Unspecified means committed.
	Level pipedv1.AckLevel
	// MaxUnacked bounds what is kept because it is not acknowledged, in bytes;
	// Send waits while it is reached. 0 means 4 MiB.
	MaxUnacked int
	// ReconnectFor is how long the Writer tries to come back after the connection
	// was lost. 0 means until its context ends, or Close's.
	ReconnectFor time.Duration
	// LeaseDuration is how long the right to write outlives a stream that was
	// cut, so that nobody else takes it before the Writer is back. 0 means what
	// the daemon gives by default (Limits.lease_duration); less than 0 means that
	// it does not.
	LeaseDuration time.Duration
	// LeaseToken proves a lease that the caller has: see Endpoint.AcquireLease.
	LeaseToken []byte
	// Steal takes the right to write from whoever has it.
	Steal bool
}

// A Writer sends messages into an endpoint. When the connection is lost, it
// connects again and goes on exactly where the daemon says that it stands:
// nothing is lost, doubled or reordered. Messages of concurrent Sends are never
// mixed; what gathers while the stream is busy goes out together. Its methods are
// safe for concurrent use. Close it, or cancel the context it was made with:
// either releases everyone.
type Writer struct {
	endpoint *Endpoint
	cancel   context.CancelFunc
	id       string
	raw      bool
	partSize int
	level    pipedv1.AckLevel
	room     int
	// ownsLease says that the lease is of no use to anybody else: nobody knows
	// the ID, and it was not acquired before.
	ownsLease bool

	// wake tells the flusher that there is something for it to do.
	wake chan struct{}
	// done is closed when the last stream has ended and err is final.
	done chan struct{}
	// loops joins the goroutine that runs the streams.
	loops sync.WaitGroup

	// mu guards everything below.
	mu sync.Mutex
	// pending is what the flusher sends next.
	pending gathered
	// window is what has to be sent again after a cut.
	window window
	// next is where the next byte goes in the writer's sequence.
	next Position
	// acked is the position below which all is acknowledged at the level that is
	// wanted, committed that below which the daemon has everything.
	acked, committed Position
	// unfinished is set while only a part of a message has been sent.
	unfinished *pipedv1.UnfinishedMessage
	// inParts is set while one call sends a message in parts.
	inParts bool
	// closing stops new messages.
	closing bool
	// giveUp ends the attempts to come back; nil while there is a stream.
	giveUp context.CancelFunc
	// err is why the last stream ended.
	err error
	// lease is the right that the last stream held.
	lease *Lease
	// changed is closed when any of the above changes; nil while nobody waits.
	changed chan struct{}
}

// NewWriter opens a stream into the endpoint. There is one writer at a time for
// an endpoint; a second with another ID is refused with ErrBusyWriter. ctx
// governs the Writer for its whole life, not only its opening.
func (e *Endpoint) NewWriter(ctx context.Context, opts WriterOptions) (*Writer, error) {
	limits, err := e.client.Limits(ctx)
	if err != nil {
		return nil, err
	}
	generated := opts.ID == ""
	if generated {
		opts.ID = rand.Text()
	}
	if opts.Level == pipedv1.AckLevel_ACK_LEVEL_UNSPECIFIED {
		opts.Level = pipedv1.AckLevel_ACK_LEVEL_COMMITTED
	}
	if opts.MaxUnacked <= 0 {
		opts.MaxUnacked = defaultUnacked
	}
	ctx, cancel := context.WithCancel(ctx)
	o := &sendOpener{
		endpoint: e, open: opts.request(e.ref, limits),
		silence: longestSilence(limits), retry: retry{limit: opts.ReconnectFor}, acquired: len(opts.LeaseToken) > 0,
	}
	o.open.Life = rand.Text()
	s, err := o.first(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	expected := positionOf(s.opened.GetExpected())
	w := &Writer{
		endpoint:   e,
		cancel:     cancel,
		id:         opts.ID,
		raw:        s.opened.GetFraming() == rawFraming,
		partSize:   int(limits.GetPartSize()),
		level:      opts.Level,
		room:       opts.MaxUnacked,
		ownsLease:  generated && len(opts.LeaseToken) == 0,
		wake:       make(chan struct{}, 1),
		done:       make(chan struct{}),
		window:     window{to: expected},
		next:       expected,
		acked:      expected,
		committed:  expected,
		unfinished: s.opened.GetUnfinished(),
		lease:      leaseOf(o.endpoint, s.opened.GetLease(), s.opened.GetLeaseToken()),
	}
	w.loops.Go(func() { w.run(ctx, o, s) })
	return w, nil
}

func (o *WriterOptions) request(ref Ref, limits *pipedv1.Limits) *pipedv1.SendOpen {
	return &pipedv1.SendOpen{
		Endpoint: ref.proto(), WriterId: o.ID, Epoch: o.Epoch, AckLevel: o.Level,
		LeaseToken: o.LeaseToken, LeaseDuration: leaseDuration(o.LeaseDuration, limits), Steal: o.Steal,
	}
}

// ID returns the writer's ID, given or generated.
func (w *Writer) ID() string { return w.id }

// Raw says whether what is sent has no frames: each byte counts as a message.
func (w *Writer) Raw() bool { return w.raw }

// Next returns where the writer's sequence goes on: the number of the next
// message, and an offset in it when it is unfinished. The first message of a new
// ID is 1.
func (w *Writer) Next() Position {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next
}

// Incarnation returns the incarnation of the pipe that it writes into, from 1; it
// stays with that one.
func (w *Writer) Incarnation() uint64 { return w.Next().Incarnation }

// Lease returns the right to write as the last stream had it, which is also
// there while the Writer is coming back.
func (w *Writer) Lease() *Lease {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lease
}

// Ref returns the name of the endpoint.
func (w *Writer) Ref() Ref { return w.endpoint.ref }

// Unfinished returns what is known of a message of which only parts were sent,
// by this writer or an earlier one, or nil. Until Continue has sent the rest,
// other messages are refused with ErrUnfinishedMessage.
func (w *Writer) Unfinished() *pipedv1.UnfinishedMessage {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.unfinished
}

// Send takes a copy of one message, which may be empty, and returns as soon as
// it is in line; it waits while the line is full. Flush or Close tell when the
// daemon has it. A message above the daemon's part size goes in parts. In the
// framing "raw" it is just bytes. Errors that end the Writer come out here or at
// the next call.
func (w *Writer) Send(ctx context.Context, msg []byte) error {
	if w.raw {
		return w.sendBytes(ctx, msg)
	}
	if len(msg) > w.partSize {
		return w.sendParts(ctx, newParts(msg, w.partSize))
	}
	if err := w.lockWhen(ctx, func() bool {
		return !w.inParts && w.pending.fits(len(msg), w.partSize) && w.roomLocked(len(msg))
	}); err != nil {
		return err
	}
	defer w.mu.Unlock()
	if err := w.finishedLocked(); err != nil {
		return err
	}
	w.appendLocked(msg)
	return nil
}

// sendBytes sends bytes that have no frames.
func (w *Writer) sendBytes(ctx context.Context, data []byte) error {
	for len(data) > 0 {
		chunk := data[:min(len(data), w.partSize)]
		if err := w.lockWhen(ctx, func() bool {
			return w.pending.fits(len(chunk), w.partSize) && w.roomLocked(len(chunk))
		}); err != nil {
			return err
		}
		w.appendLocked(chunk)
		w.mu.Unlock()
		data = data[len(chunk):]
	}
	return nil
}

// finishedLocked refuses a new message after a part of another.
func (w *Writer) finishedLocked() error {
	if w.unfinished == nil {
		return nil
	}
	return fmt.Errorf("message %v must be continued first: %w", w.next, ErrUnfinishedMessage)
}

// appendLocked adds a whole message, or bytes in raw, to what goes out next.
func (w *Writer) appendLocked(msg []byte) {
	if w.pending.empty() {
		w.pending.first = w.next
		w.wakeFlusher()
	}
	w.pending.data = append(w.pending.data, msg...)
	w.pending.sizes = append(w.pending.sizes, uint32(len(msg)))
	w.next = w.next.after(len(msg), w.raw, false)
	w.pending.end = w.next
}

// roomLocked says whether n bytes more may wait for their acknowledgement. One
// message always may.
func (w *Writer) roomLocked(n int) bool {
	cost := w.window.cost + w.pending.cost()
	return cost == 0 || cost+n+messageCost <= w.room
}

func (w *Writer) wakeFlusher() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// changedLocked releases everyone in lockWhen to look again.
func (w *Writer) changedLocked() {
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// usableLocked returns why the Writer takes nothing more, or nil.
func (w *Writer) usableLocked() error {
	if w.err == nil && w.closing {
		return ErrClosed
	}
	return w.err
}

// lockWhen waits until ready, which is called with mu held, says so, and then
// returns with mu held. With an error mu is not held.
func (w *Writer) lockWhen(ctx context.Context, ready func() bool) error {
	return w.lockAfter(ctx, func() (bool, error) {
		if err := w.usableLocked(); err != nil {
			return false, err
		}
		return ready(), nil
	})
}

// lockAfter waits until look, which is called with mu held, says that the wait is
// over, and then returns with mu held, or with the error of look or ctx and mu
// not held.
func (w *Writer) lockAfter(ctx context.Context, look func() (bool, error)) error {
	w.mu.Lock()
	for {
		over, err := look()
		if err != nil {
			w.mu.Unlock()
			return err
		}
		if over {
			return nil
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		w.mu.Lock()
	}
}

// Flush waits until everything sent before it is acknowledged. Once it is, Flush
// returns nil, whatever has become of the Writer or the endpoint since.
func (w *Writer) Flush(ctx context.Context) error {
	target := w.Next()
	if err := w.lockAfter(ctx, func() (bool, error) {
		if w.acked.Compare(target) >= 0 {
			return true, nil
		}
		return false, w.usableLocked()
	}); err != nil {
		return err
	}
	w.mu.Unlock()
	return nil
}

// Close sends what is in line, waits until all of it is acknowledged, and ends
// the stream. The endpoint stays open: Endpoint.CloseSend ends the direction.
// When everything is acknowledged, it returns nil even if the other side was gone
// afterwards; only ErrFenced and ErrSuperseded are returned in any case, because
// somebody else writes now. When ctx ends first, the stream is cut, and what was
// not acknowledged may or may not have arrived. A repeated Close returns the same.
func (w *Writer) Close(ctx context.Context) error {
	w.mu.Lock()
	w.closing = true
	if w.giveUp != nil && w.acked.Compare(w.next) >= 0 {
		w.giveUp()
	}
	w.changedLocked()
	w.wakeFlusher()
	w.mu.Unlock()
	var cut error
	select {
	case <-w.done:
	case <-ctx.Done():
		cut = ctx.Err()
	}
	w.cancel()
	w.loops.Wait()
	if cut != nil {
		return cut
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := errors.Is(w.err, ErrFenced) || errors.Is(w.err, ErrSuperseded)
	if errors.Is(w.err, ErrClosed) || w.acked.Compare(w.next) >= 0 && !taken {
		return nil
	}
	return w.err
}
