package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

type recvStream = grpc.BidiStreamingServer[pipedv1.RecvRequest, pipedv1.RecvResponse]

// Recv delivers messages as far as the client's credit reaches. Two goroutines
// serve a stream: this one sends, the other takes acknowledgements until the
// stream ends. Once the reader is closed it can acknowledge nothing any more.
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
	defer h.r.Cut()
	opened, err := h.opened()
	if err != nil {
		return statusError(err)
	}
	if err := stream.Send(&pipedv1.RecvResponse{Response: &pipedv1.RecvResponse_Opened{Opened: opened}}); err != nil {
		return err
	}
	h.closed = v.s.take("Recv", func() error { return h.takeAcks(stream) })
	err = h.deliver(stream)
	if err == nil || errors.Is(err, errDetached) || h.r.Err() != nil {
		h.r.Close()
	}
	return statusError(err)
}

// opened answers the opening. A consumer's lease may have been stolen by now.
func (h *recvHandler) opened() (*pipedv1.RecvOpened, error) {
	opened := &pipedv1.RecvOpened{Position: fromPosition(h.r.Position(), h.incarnation), Framing: h.framing}
	if h.observes {
		return opened, nil
	}
	token, lease := h.r.Lease()
	if lease == nil {
		return nil, h.r.Err()
	}
	opened.LeaseToken, opened.Lease = token[:], fromLease(lease)
	return opened, nil
}

// A recvHandler serves one Recv stream.
type recvHandler struct {
	r       *session.Reader
	framing string
	// incarnation is that of the pipe.
	incarnation uint64
	raw         bool
	lim         pipe.Limits
	every       time.Duration
	manual      bool // acknowledgements come from the client
	observes    bool
	until       *pipe.Position // stop there

	credit credit
	acks   chan struct{} // cap 1: credit came back
	closed <-chan error  // the client ended its requests (io.EOF) or broke the protocol
	buf    []byte
}

func (v *pipeService) openRecv(ctx context.Context, open *pipedv1.RecvOpen) (*recvHandler, error) {
	opts := session.ReaderOptions{ID: open.GetConsumerId(), Force: open.GetForce(), Sent: open.GetSent()}
	var err error
	if opts.Claim, err = toClaim(open); err != nil {
		return nil, err
	}
	opts.Life = open.GetLife()
	switch {
	case open.GetMode() == pipedv1.RecvMode_RECV_MODE_OBSERVE:
		if len(opts.Token) > 0 || opts.Steal || opts.Duration > 0 || opts.Life != "" {
			return nil, argument("lease_token, lease_duration, steal and life are for a consumer: an observer needs no lease")
		}
		opts.Observe = true
	case open.GetStopAtNow():
		return nil, argument("stop_at_now is for an observer: a consumer reads to the end, or ends its requests")
	case open.GetMode() != pipedv1.RecvMode_RECV_MODE_UNSPECIFIED && open.GetMode() != pipedv1.RecvMode_RECV_MODE_CONSUME:
		return nil, argument("mode %v", open.GetMode())
	}
	var ok bool
	if opts.Start, ok = starts[open.GetStart()]; !ok {
		return nil, argument("start %v", open.GetStart())
	}
	h := &recvHandler{manual: !opts.Observe && !open.GetAutoAck(), observes: opts.Observe, acks: make(chan struct{}, 1)}
	h.lim = pipe.Limits{Messages: batchMessages(open.GetMaxBatchMessages()), Bytes: int(open.GetMaxBatchBytes()),
		MaxMessage: open.GetMaxMessageSize(), KeepFraming: open.GetKeepFraming()}
	if h.every, err = v.s.heartbeat(open.GetHeartbeatInterval()); err != nil {
		return nil, err
	}
	e, err := v.endpoint(open.GetEndpoint())
	if err != nil {
		return nil, err
	}
	h.incarnation = e.Incarnation()
	if opts.Position, err = toPosition(open.GetPosition(), h.incarnation); err != nil {
		return nil, err
	}
	if h.r, err = e.OpenReader(ctx, opts); err != nil {
		return nil, err
	}
	h.framing = e.Framing(!opts.Sent).Name
	if open.GetStopAtNow() {
		now := h.r.Arrived()
		h.until = &now
	}
	h.raw = h.framing == "raw"
	h.credit.init(open, h.r.Position(), h.manual, h.raw, uint64(v.s.options().Sessions.LogSize)) //nolint:gosec // validated
	return h, nil
}

// maxBatchMessages bounds the messages of a batch: the sizes of very many empty
// ones would make a response larger than clients take.
const maxBatchMessages = 64 << 10

// batchMessages returns how many messages a batch has at most; 0 means 1.
func batchMessages(asked uint32) int { return int(min(max(asked, 1), maxBatchMessages)) }

var starts = map[pipedv1.RecvStart]session.ReaderStart{
	pipedv1.RecvStart_RECV_START_UNSPECIFIED: session.StartDefault,
	pipedv1.RecvStart_RECV_START_UNACKED:     session.StartUnacked,
	pipedv1.RecvStart_RECV_START_OLDEST:      session.StartOldest,
	pipedv1.RecvStart_RECV_START_NOW:         session.StartNow,
	pipedv1.RecvStart_RECV_START_POSITION:    session.StartPosition,
}

// takeAcks runs until the client ends its requests or the stream is over.
func (h *recvHandler) takeAcks(stream recvStream) error {
	for {
		req, err := stream.Recv()
		if err == nil {
			err = h.takeAck(req)
		}
		if err != nil {
			return err
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
	to, err := toPosition(ack.GetPosition(), h.incarnation)
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
		gone := h.r.Err() // an end that is closed releases everyone, also those without credit
		switch {
		case ended && (!h.manual || h.credit.settled() || gone != nil):
			return nil
		case gone != nil:
			return gone
		}
		select {
		case <-h.r.Changed():
		case <-h.acks:
		case <-h.r.Lost():
			return h.r.Err()
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
	if h.until != nil && !h.upToNow(&lim) {
		return false, true, nil
	}
	ev, err := h.r.Next(h.buf, lim)
	if err != nil || ev.None() {
		return false, h.until != nil, err // what was not whole then need not be waited for
	}
	resp := &pipedv1.RecvResponse{}
	switch {
	case ev.End != nil:
		resp.Response = &pipedv1.RecvResponse_End{End: fromEnd(ev.End, h.incarnation)}
	case ev.Gap != nil:
		resp.Response = &pipedv1.RecvResponse_Gap{Gap: fromGap(ev.Gap, h.incarnation)}
		h.credit.skipped(ev.Gap.To)
	default:
		h.buf = ev.Batch.Data[:0] // Send has copied it when it returns
		resp.Response = &pipedv1.RecvResponse_Batch{Batch: fromBatch(ev.Batch, h.incarnation)}
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

// upToNow narrows lim to what had arrived when the stream was opened; false when
// all of that was sent and the direction goes on.
func (h *recvHandler) upToNow(lim *pipe.Limits) bool {
	at := h.r.Position()
	if !at.Before(*h.until) {
		return h.r.AtEnd()
	}
	left := int(min(h.until.Message-at.Message, pipe.DefaultPart))
	if h.raw {
		lim.Bytes = min(lim.Bytes, left)
	} else {
		lim.Messages = min(lim.Messages, max(left, 1))
	}
	return true
}

// settle acknowledges what was just sent, where the client need not.
func (h *recvHandler) settle(b *pipe.Batch) error {
	h.credit.acked(b.Next)
	return h.r.AutoAck(b.Next)
}
