package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// WriterOptions say how a Writer writes. The zero value is good.
type WriterOptions struct {
	// ID names the writer across streams, at most 128 bytes: a new Writer with
	// the same ID goes on where the older one stopped, see Writer.Next. Empty
	// means a generated one.
	ID string
	// Epoch of the writer: the daemon refuses, with ErrFenced, one that is lower
	// than the highest it has seen for this ID.
	Epoch uint64
	// Level is how far a message must have got to count as acknowledged, for
	// Flush and Close. Unspecified means committed.
	Level pipedv1.AckLevel
}

// A Writer sends messages into an endpoint over one stream. Messages of
// concurrent Sends are never mixed; what gathers while the stream is busy goes
// out together. Its methods are safe for concurrent use. Close it, or cancel the
// context it was made with: either releases everyone.
type Writer struct {
	stream   pipedv1.PipeService_SendClient
	cancel   context.CancelFunc
	id       string
	raw      bool
	partSize int
	level    pipedv1.AckLevel

	// wake tells the flusher that there is something for it to do.
	wake chan struct{}
	// done is closed when the stream has ended and err is final.
	done chan struct{}
	// loops joins the flusher and the reader of acknowledgements.
	loops sync.WaitGroup

	// mu guards everything below.
	mu sync.Mutex
	// pending is what the flusher sends next.
	pending gathered
	// next is where the next byte goes in the writer's sequence.
	next Position
	// acked is the position below which all is acknowledged.
	acked Position
	// unfinished is set while only a part of a message has been sent.
	unfinished *pipedv1.UnfinishedMessage
	// inParts is set while one call sends a message in parts.
	inParts bool
	// closing stops new messages.
	closing bool
	// err is why the stream ended.
	err error
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
	if opts.ID == "" {
		opts.ID = rand.Text()
	}
	if opts.Level == pipedv1.AckLevel_ACK_LEVEL_UNSPECIFIED {
		opts.Level = pipedv1.AckLevel_ACK_LEVEL_COMMITTED
	}
	ctx, cancel := context.WithCancel(ctx)
	stream, opened, err := e.openSend(ctx, opts)
	if err != nil {
		cancel()
		return nil, fromRPC(err)
	}
	w := &Writer{
		stream:     stream,
		cancel:     cancel,
		id:         opts.ID,
		raw:        opened.GetFraming() == rawFraming,
		partSize:   int(limits.GetPartSize()),
		level:      opts.Level,
		wake:       make(chan struct{}, 1),
		done:       make(chan struct{}),
		next:       positionOf(opened.GetExpected()),
		acked:      positionOf(opened.GetExpected()),
		unfinished: opened.GetUnfinished(),
	}
	w.loops.Go(w.flush)
	w.loops.Go(w.acknowledge)
	return w, nil
}

func (e *Endpoint) openSend(ctx context.Context, opts WriterOptions) (pipedv1.PipeService_SendClient, *pipedv1.SendOpened, error) {
	stream, err := e.client.pipes.Send(ctx)
	if err != nil {
		return nil, nil, err
	}
	// An error of Send here is EOF; Recv then says what happened.
	if err := stream.Send(&pipedv1.SendRequest{Request: &pipedv1.SendRequest_Open{Open: &pipedv1.SendOpen{
		Endpoint: e.ref.proto(), WriterId: opts.ID, Epoch: opts.Epoch, AckLevel: opts.Level,
	}}}); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	resp, err := stream.Recv()
	if err != nil {
		return nil, nil, err
	}
	if resp.GetOpened() == nil {
		return nil, nil, fmt.Errorf("the daemon answered %T instead of opening the stream", resp.GetResponse())
	}
	return stream, resp.GetOpened(), nil
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
// framing "raw" it is just bytes. Errors of the stream come out here or at the
// next call.
func (w *Writer) Send(ctx context.Context, msg []byte) error {
	if w.raw {
		return w.sendBytes(ctx, msg)
	}
	if len(msg) > w.partSize {
		return w.sendParts(ctx, newParts(msg, w.partSize))
	}
	if err := w.lockWhen(ctx, func() bool { return !w.inParts && w.pending.fits(len(msg), w.partSize) }); err != nil {
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
		if err := w.lockWhen(ctx, func() bool { return w.pending.fits(len(chunk), w.partSize) }); err != nil {
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

// lockWhen waits until ready, which is called with mu held, says so, and then
// returns with mu held. With an error mu is not held.
func (w *Writer) lockWhen(ctx context.Context, ready func() bool) error {
	w.mu.Lock()
	for {
		switch {
		case w.err != nil:
			defer w.mu.Unlock()
			return w.err
		case w.closing:
			w.mu.Unlock()
			return ErrClosed
		case ready():
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

// Flush waits until everything sent before it is acknowledged.
func (w *Writer) Flush(ctx context.Context) error {
	target := w.Next()
	if err := w.lockWhen(ctx, func() bool { return w.acked.Compare(target) >= 0 }); err != nil {
		return err
	}
	w.mu.Unlock()
	return nil
}

// Close sends what is in line, waits until all of it is acknowledged, and ends
// the stream. The endpoint stays open: Endpoint.CloseSend ends the direction.
// When ctx ends first, the stream is cut, and what was not acknowledged may or
// may not have arrived. A repeated Close returns the same.
func (w *Writer) Close(ctx context.Context) error {
	w.mu.Lock()
	w.closing = true
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
	if errors.Is(w.err, ErrClosed) {
		return nil
	}
	return w.err
}

// flush sends what has gathered until the Writer closes or the stream ends.
func (w *Writer) flush() {
	var sending gathered
	for {
		w.mu.Lock()
		sending, w.pending = w.pending, sending.reset()
		idle, closing, failed := sending.empty(), w.closing, w.err != nil
		w.changedLocked()
		w.mu.Unlock()
		switch {
		case failed:
			return
		case !idle:
			// Why sending stopped, the reader of acknowledgements learns.
			if err := w.stream.Send(sending.request(w.raw)); err != nil {
				return
			}
		case closing:
			_ = w.stream.CloseSend()
			return
		default:
			<-w.wake
		}
	}
}

// acknowledge takes acknowledgements until the stream ends.
func (w *Writer) acknowledge() {
	for {
		resp, err := w.stream.Recv()
		if err != nil {
			w.end(err)
			return
		}
		if ack := resp.GetAck(); ack != nil && ack.GetLevel() >= w.level {
			w.mu.Lock()
			if at := positionOf(ack.GetPosition()); at.Compare(w.acked) > 0 {
				w.acked = at
				w.changedLocked()
			}
			w.mu.Unlock()
		}
	}
}

// end records why the stream ended and releases everyone.
func (w *Writer) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !errors.Is(err, io.EOF):
		w.err = fromRPC(err)
	case w.acked.Compare(w.next) < 0:
		w.err = &IncompleteError{Have: w.acked, Want: w.next}
	default:
		w.err = ErrClosed
	}
	w.changedLocked()
	w.wakeFlusher()
	close(w.done)
}
