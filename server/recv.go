package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

type recvStream = grpc.BidiStreamingServer[pipedv1.RecvRequest, pipedv1.RecvResponse]

// Recv delivers messages as far as the client's credit reaches. Two goroutines
// serve a stream: this one sends, the other takes acknowledgements; it ends
// with the stream, so the handler need not join it to be safe, but does when
// the client has ended its requests.
func (v *pipeService) Recv(stream recvStream) error {
	first, err := stream.Recv()
	if err != nil {
		return endOfRequests(err)
	}
	open := first.GetOpen()
	if open == nil {
		return statusError(fmt.Errorf("%w: the first request of Recv must be open", errProtocol))
	}
	h, err := v.openRecv(stream.Context(), open)
	if err != nil {
		return statusError(err)
	}
	defer h.r.Close()
	if err := stream.Send(&pipedv1.RecvResponse{Response: &pipedv1.RecvResponse_Opened{Opened: &pipedv1.RecvOpened{
		Position: fromPosition(h.r.Position()), Framing: h.framing}}}); err != nil {
		return err
	}
	go h.takeAcks(stream)
	return statusError(h.deliver(stream))
}

// A recvHandler serves one Recv stream.
type recvHandler struct {
	r       *session.Reader
	framing string
	lim     pipe.Limits
	every   time.Duration
	manual  bool           // acknowledgements come from the client
	until   *pipe.Position // stop there

	credit credit
	acks   chan struct{} // cap 1: credit came back
	closed chan error    // cap 1: the client ended its requests (io.EOF) or broke the protocol
	buf    []byte
}

func (v *pipeService) openRecv(ctx context.Context, open *pipedv1.RecvOpen) (*recvHandler, error) {
	opts := session.ReaderOptions{ID: open.GetConsumerId(), Force: open.GetForce()}
	switch {
	case len(open.GetLeaseToken()) > 0:
		return nil, argument("lease token: there are no leases yet, leave it empty")
	case open.GetMode() == pipedv1.RecvMode_RECV_MODE_OBSERVE:
		opts.Observe = true
	case open.GetMode() != pipedv1.RecvMode_RECV_MODE_UNSPECIFIED && open.GetMode() != pipedv1.RecvMode_RECV_MODE_CONSUME:
		return nil, argument("mode %v", open.GetMode())
	}
	var err error
	if opts.Position, err = toPosition(open.GetPosition()); err != nil {
		return nil, err
	}
	var ok bool
	if opts.Start, ok = starts[open.GetStart()]; !ok {
		return nil, argument("start %v", open.GetStart())
	}
	h := &recvHandler{manual: !opts.Observe && !open.GetAutoAck(), acks: make(chan struct{}, 1), closed: make(chan error, 1)}
	h.lim = pipe.Limits{Messages: max(int(open.GetMaxBatchMessages()), 1), Bytes: int(open.GetMaxBatchBytes()),
		MaxMessage: open.GetMaxMessageSize(), KeepFraming: open.GetKeepFraming()}
	if h.every, err = v.heartbeat(open.GetHeartbeatInterval()); err != nil {
		return nil, err
	}
	e, err := v.endpoint(open.GetEndpoint())
	if err != nil {
		return nil, err
	}
	if h.r, err = e.OpenReader(ctx, opts); err != nil {
		return nil, err
	}
	h.framing = e.Framing(true).Name
	if open.GetStopAtNow() {
		now := h.r.Arrived()
		h.until = &now
	}
	h.credit.init(open, h.r.Position(), h.manual, h.framing == "raw", uint64(v.s.opts.Sessions.LogSize)) //nolint:gosec // validated
	return h, nil
}

var starts = map[pipedv1.RecvStart]session.ReaderStart{
	pipedv1.RecvStart_RECV_START_UNSPECIFIED: session.StartDefault,
	pipedv1.RecvStart_RECV_START_UNACKED:     session.StartUnacked,
	pipedv1.RecvStart_RECV_START_OLDEST:      session.StartOldest,
	pipedv1.RecvStart_RECV_START_NOW:         session.StartNow,
	pipedv1.RecvStart_RECV_START_POSITION:    session.StartPosition,
}

// takeAcks runs until the client ends its requests or the stream is over.
func (h *recvHandler) takeAcks(stream recvStream) {
	for {
		req, err := stream.Recv()
		if err == nil {
			err = h.takeAck(req)
		}
		if err != nil {
			h.closed <- err
			return
		}
		select {
		case h.acks <- struct{}{}:
		default:
		}
	}
}

func (h *recvHandler) takeAck(req *pipedv1.RecvRequest) error {
	ack := req.GetAck()
	if ack == nil {
		return fmt.Errorf("%w: after open every request of Recv is an acknowledgement", errProtocol)
	}
	if !h.manual {
		return fmt.Errorf("%w: an observer and a stream with auto_ack have nothing to acknowledge", errProtocol)
	}
	to, err := toPosition(ack.GetPosition())
	if err != nil {
		return err
	}
	if !h.credit.sent(to) {
		return fmt.Errorf("%w: %v is acknowledged, but only what is below %v was sent", pipe.ErrPosition, to, h.credit.position())
	}
	if err := h.r.Ack(to); err != nil {
		return err
	}
	h.credit.acked(to)
	return nil
}

// deliver sends what there is, as far as the credit reaches, until the end.
func (h *recvHandler) deliver(stream recvStream) error {
	beat := time.NewTimer(h.every)
	defer beat.Stop()
	closed := h.closed
	ended := false
	for {
		if !ended {
			sent, end, err := h.step(stream)
			if err != nil {
				return err
			}
			ended = end
			if sent {
				beat.Reset(h.every)
				continue
			}
		}
		if ended && (!h.manual || h.credit.settled()) {
			return nil
		}
		select {
		case <-h.r.Changed():
		case <-h.acks:
		case <-h.r.Superseded():
			return session.ErrSuperseded
		case err := <-closed:
			switch {
			case !errors.Is(err, io.EOF):
				return err
			case h.manual && ended && h.credit.settled():
				return nil
			case h.manual:
				return errDetached
			}
			closed = nil // nothing is expected of the client any more
		case <-beat.C:
			beat.Reset(h.every)
			if err := stream.Send(&pipedv1.RecvResponse{Response: &pipedv1.RecvResponse_Heartbeat{Heartbeat: &pipedv1.Heartbeat{}}}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// step sends one batch, gap or end, if there is one and credit for it.
func (h *recvHandler) step(stream recvStream) (sent, ended bool, err error) {
	lim, ok := h.credit.limits(h.lim)
	if !ok {
		return false, false, nil
	}
	if h.until != nil && !h.r.Position().Before(*h.until) {
		return false, true, nil
	}
	ev, err := h.r.Next(h.buf, lim)
	if err != nil || ev.None() {
		return false, false, err
	}
	resp := &pipedv1.RecvResponse{}
	switch {
	case ev.End != nil:
		resp.Response = &pipedv1.RecvResponse_End{End: fromEnd(ev.End)}
	case ev.Gap != nil:
		resp.Response = &pipedv1.RecvResponse_Gap{Gap: fromGap(ev.Gap)}
		h.credit.skipped(ev.Gap.To)
	default:
		h.buf = ev.Batch.Data[:0] // Send has copied it when it returns
		resp.Response = &pipedv1.RecvResponse_Batch{Batch: fromBatch(ev.Batch)}
		h.credit.gave(ev.Batch)
	}
	if err := stream.Send(resp); err != nil {
		return false, false, err
	}
	if ev.Batch != nil && !h.manual {
		err = h.settle(ev.Batch)
	}
	return true, ev.End != nil, err
}

// settle acknowledges what was just sent, where the client need not.
func (h *recvHandler) settle(b *pipe.Batch) error {
	h.credit.acked(b.Next)
	if err := h.r.AutoAck(b.Next); err != nil {
		return err
	}
	return nil
}

// A credit is what may be on its way unacknowledged. Bytes are counted by
// batch: a batch is freed as a whole, once all of it is acknowledged.
type credit struct {
	mu       sync.Mutex
	messages uint64 // 0: no limit
	bytes    uint64
	raw      bool // count batches, every byte being a message
	at       pipe.Position
	flying   []flight
	inFlight uint64 // bytes
}

type flight struct {
	next     pipe.Position
	messages uint64
	bytes    uint64
}

func (c *credit) init(open *pipedv1.RecvOpen, at pipe.Position, manual, raw bool, logSize uint64) {
	c.at = at
	c.messages, c.bytes, c.raw = open.GetMaxUnackedMessages(), open.GetMaxUnackedBytes(), raw
	if c.messages == 0 && manual {
		c.messages = 1
	}
	if c.bytes == 0 {
		c.bytes = logSize
	}
}

// limits narrows lim to the credit that is left; false when there is none.
func (c *credit) limits(lim pipe.Limits) (pipe.Limits, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inFlight >= c.bytes {
		return lim, false
	}
	left := c.bytes - c.inFlight
	if lim.Bytes == 0 || uint64(lim.Bytes) > left { //nolint:gosec // not negative
		lim.Bytes = int(min(left, pipe.DefaultPart))
	}
	if c.messages == 0 {
		return lim, true
	}
	var flying uint64
	for i := range c.flying {
		flying += c.flying[i].messages
	}
	if flying >= c.messages {
		return lim, false
	}
	if left := c.messages - flying; uint64(lim.Messages) > left { //nolint:gosec // not negative
		lim.Messages = int(left) //nolint:gosec // less than an int
	}
	return lim, true
}

func (c *credit) gave(b *pipe.Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := flight{next: b.Next, messages: max(uint64(len(b.Sizes)), 1), bytes: uint64(len(b.Data))}
	c.at = b.Next
	c.flying = append(c.flying, f)
	c.inFlight += f.bytes
}

func (c *credit) skipped(to pipe.Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = to
}

func (c *credit) acked(to pipe.Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.flying) > 0 {
		f := &c.flying[0]
		if to.Before(f.next) {
			// Messages of a batch come back one by one.
			if !c.raw && f.messages > 1 {
				f.messages = min(f.messages, f.next.Message-to.Message)
			}
			return
		}
		c.inFlight -= f.bytes
		c.flying = c.flying[1:]
	}
}

// sent reports whether everything below to was sent.
func (c *credit) sent(to pipe.Position) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.at.Before(to)
}

func (c *credit) position() pipe.Position {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// settled reports whether everything that was sent is acknowledged.
func (c *credit) settled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.flying) == 0
}
