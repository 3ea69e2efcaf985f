package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

const (
	// defaultMaxMessage bounds what Next joins in memory.
	defaultMaxMessage = 64 << 20
	// defaultBatchMessages is how many messages may come in one batch.
	defaultBatchMessages = 1024
)

// ReaderOptions say how a Reader reads. The zero value consumes: what is not
// acknowledged goes to the next consumer.
type ReaderOptions struct {
	// Observe looks without consuming: nothing is freed or delayed by it, and a
	// Reader that is too slow gets a *GapError.
	Observe bool
	// ConsumerID names the consumer across streams, at most 128 bytes: a new
	// Reader with the same ID takes over from the older one. Without it a second
	// consumer is refused with ErrBusyReader.
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
	// when the stream is cut is lost.
	AutoAck bool
	// StopAtNow ends an observer's reading at what is retained now.
	StopAtNow bool
	// Force receives even though a process holds a copy of the same end and may
	// read the same bytes.
	Force bool
}

// A Reader receives messages from an endpoint over one stream. Next and NextPart
// are for one goroutine at a time; Ack, End, Position and Close may be called
// meanwhile. Close it, or cancel the context it was made with.
type Reader struct {
	stream   pipedv1.PipeService_RecvClient
	cancel   context.CancelFunc
	acking   bool
	raw      bool
	stopsNow bool
	maxJoin  int

	// incoming are the responses, closed after the last; then final is the
	// status of the stream (io.EOF means OK).
	incoming chan *pipedv1.RecvResponse
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

	// mu guards everything below.
	mu sync.Mutex
	// at is the position up to which everything was received.
	at Position
	// cut says that the last message was marked partial or truncated.
	cut bool
	// err is what Next returns from now on.
	err error
	end *pipedv1.End
	// ackTo is the acknowledgement to be sent, acked what was sent.
	ackTo, acked Position
	closing      bool
}

// NewReader opens a stream from the endpoint. There is one consumer at a time
// for an endpoint and any number of observers. ctx governs the Reader for its
// whole life, not only its opening.
func (e *Endpoint) NewReader(ctx context.Context, opts ReaderOptions) (*Reader, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, opened, err := e.openRecv(ctx, opts.request(e.ref))
	if err != nil {
		cancel()
		return nil, fromRPC(err)
	}
	if opts.MaxMessageSize <= 0 {
		opts.MaxMessageSize = defaultMaxMessage
	}
	start := positionOf(opened.GetPosition())
	r := &Reader{
		stream:   stream,
		cancel:   cancel,
		acking:   !opts.Observe && !opts.AutoAck,
		raw:      opened.GetFraming() == rawFraming,
		stopsNow: opts.StopAtNow,
		maxJoin:  opts.MaxMessageSize,
		incoming: make(chan *pipedv1.RecvResponse),
		wake:     make(chan struct{}, 1),
		detached: make(chan struct{}),
		at:       start,
		ackTo:    start,
		acked:    start,
	}
	r.loops.Go(r.receive)
	r.loops.Go(r.acknowledge)
	return r, nil
}

func (o *ReaderOptions) request(ref Ref) *pipedv1.RecvOpen {
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
	}
	if o.Observe {
		open.Mode = pipedv1.RecvMode_RECV_MODE_OBSERVE
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

func (e *Endpoint) openRecv(ctx context.Context, open *pipedv1.RecvOpen) (pipedv1.PipeService_RecvClient, *pipedv1.RecvOpened, error) {
	stream, err := e.client.pipes.Recv(ctx)
	if err != nil {
		return nil, nil, err
	}
	// An error of Send here is EOF; Recv then says what happened.
	err = stream.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Open{Open: open}})
	if err != nil && !errors.Is(err, io.EOF) {
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
// ReaderOptions.MaxMessageSize, and each part is acknowledged as the next one is
// asked for, because the daemon need not have room for all of them. When ctx
// ends in between, a further Next goes on.
//
// After the last message comes io.EOF, for ever; when something is missing it is
// an *IncompleteError instead. A *GapError says what was skipped, and Next goes
// on behind it.
func (r *Reader) Next(ctx context.Context) (Message, error) {
	for {
		part, err := r.part(ctx)
		if err != nil {
			return Message{}, err
		}
		if r.joined == nil {
			if !part.More || r.raw {
				return part, nil
			}
			part.Data = append(make([]byte, 0, min(part.TotalSize, uint64(r.maxJoin), 2*uint64(len(part.Data)))), part.Data...)
			r.joined = &part
		} else {
			r.joined.join(part)
		}
		if whole := r.joined; !whole.More || len(whole.Data) >= r.maxJoin {
			r.joined = nil
			return *whole, nil
		}
		if err := r.Ack(r.joined.After); err != nil {
			return Message{}, err
		}
	}
}

// join adds the next part.
func (m *Message) join(part Message) {
	m.Data = append(m.Data, part.Data...)
	m.After, m.More = part.After, part.More
	m.Partial, m.Truncated, m.Stray = part.Partial, part.Truncated, part.Stray
	if !m.More && m.Position.Offset == 0 {
		m.TotalSize = uint64(len(m.Data))
	}
}

// NextPart returns the next message, or the next part of a large one, as it
// comes; otherwise it is as Next.
func (r *Reader) NextPart(ctx context.Context) (Message, error) {
	if begun := r.joined; begun != nil {
		r.joined = nil
		return *begun, nil
	}
	return r.part(ctx)
}

func (r *Reader) part(ctx context.Context) (Message, error) {
	for r.batch.empty() {
		if err := r.failed(); err != nil {
			return Message{}, err
		}
		select {
		case resp, ok := <-r.incoming:
			if !ok {
				return Message{}, r.fail(r.ended())
			}
			if err := r.take(resp); err != nil {
				return Message{}, err
			}
		case <-r.detached:
			return Message{}, ErrClosed
		case <-ctx.Done():
			return Message{}, ctx.Err()
		}
	}
	m := r.batch.next()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at, r.cut = m.After, m.Partial || m.Truncated
	return m, nil
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

// take looks at one response; messages are in r.batch afterwards.
func (r *Reader) take(resp *pipedv1.RecvResponse) error {
	switch {
	case resp.GetBatch() != nil:
		first := positionOf(resp.GetBatch().GetFirst())
		if first.Compare(r.Position()) != 0 {
			return r.fail(&IncompleteError{Have: r.Position(), Want: first})
		}
		r.batch = unpacked{batch: resp.GetBatch(), raw: r.raw, at: first}
	case resp.GetGap() != nil:
		gap := &GapError{From: positionOf(resp.GetGap().GetFrom()), To: positionOf(resp.GetGap().GetTo())}
		r.mu.Lock()
		r.at = gap.To
		r.mu.Unlock()
		return gap
	case resp.GetEnd() != nil:
		return r.fail(r.finish(resp.GetEnd()))
	}
	return nil
}

// finish compares the last word with what was received.
func (r *Reader) finish(end *pipedv1.End) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end = end
	want := positionOf(end.GetPosition())
	if r.at.Compare(want) == 0 {
		return io.EOF
	}
	// A message that was cut ends inside itself, whatever its number says.
	if r.cut && want.Message+1 == r.at.Message && r.at.Offset == 0 {
		return io.EOF
	}
	return &IncompleteError{Have: r.at, Want: want}
}

// receive hands responses on until the stream ends; after Close it drops them.
func (r *Reader) receive() {
	defer close(r.incoming)
	for {
		resp, err := r.stream.Recv()
		if err != nil {
			r.final = err
			return
		}
		if resp.GetHeartbeat() != nil {
			continue
		}
		select {
		case r.incoming <- resp:
		case <-r.detached:
		case <-r.stream.Context().Done():
			// Nothing may follow what is dropped here.
			r.final = r.stream.Context().Err()
			return
		}
	}
}
