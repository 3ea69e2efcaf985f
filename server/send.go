package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

type sendStream = grpc.BidiStreamingServer[pipedv1.SendRequest, pipedv1.SendResponse]

// Send takes batches and acknowledges them. Two goroutines serve a stream: this
// one tells, the other takes; gRPC allows one of each. The other ends with the
// stream: it can commit nothing any more once the writer is closed.
func (v *pipeService) Send(stream sendStream) error {
	first, err := stream.Recv()
	if err != nil {
		return endOfRequests(err)
	}
	open := first.GetOpen()
	if open == nil {
		return statusError(fmt.Errorf("%w: the first request of Send must be open", errProtocol))
	}
	h, err := v.openSend(open)
	if err != nil {
		return statusError(err)
	}
	defer h.w.Cut()
	opened, err := h.opened()
	if err != nil {
		return statusError(err)
	}
	if err := stream.Send(&pipedv1.SendResponse{Response: &pipedv1.SendResponse_Opened{Opened: opened}}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	// What was committed, opened tells. What was delivered or read is told again:
	// the client may have been cut before it heard of it.
	acked := pipe.Position{Message: 1}
	if h.level == pipedv1.AckLevel_ACK_LEVEL_COMMITTED {
		acked = h.w.Expected()
	}
	h.taken = v.s.take("Send", func() error { return h.take(ctx, stream) })
	err = h.tell(ctx, stream, acked)
	if err == nil {
		h.w.Close()
	}
	return sendError(err)
}

// A sendHandler serves one Send stream.
type sendHandler struct {
	w *session.Writer
	// incarnation is that of the pipe.
	incarnation uint64
	level       pipedv1.AckLevel
	every       time.Duration
	part        int           // size of the parts of a large message
	committed   chan struct{} // cap 1: there is something new to acknowledge
	taken       <-chan error  // no more requests come; nil when the client has ended them
}

// opened answers the opening. The lease may have been stolen by now.
func (h *sendHandler) opened() (*pipedv1.SendOpened, error) {
	opened := &pipedv1.SendOpened{Expected: fromPosition(h.w.Expected(), h.incarnation), Framing: h.w.Framing().Name}
	if u := h.w.Unfinished(); u != nil {
		opened.Unfinished = &pipedv1.UnfinishedMessage{Have: u.Have, Total: u.Total}
	}
	token, lease := h.w.Lease()
	if lease == nil {
		return nil, h.w.Err()
	}
	opened.LeaseToken, opened.Lease = token[:], fromLease(lease)
	return opened, nil
}

func (v *pipeService) openSend(open *pipedv1.SendOpen) (*sendHandler, error) {
	h := &sendHandler{level: open.GetAckLevel(), part: v.s.options().partSize(), committed: make(chan struct{}, 1)}
	switch h.level {
	case pipedv1.AckLevel_ACK_LEVEL_UNSPECIFIED:
		h.level = pipedv1.AckLevel_ACK_LEVEL_COMMITTED
	case pipedv1.AckLevel_ACK_LEVEL_COMMITTED, pipedv1.AckLevel_ACK_LEVEL_DELIVERED, pipedv1.AckLevel_ACK_LEVEL_READ:
	default:
		return nil, fmt.Errorf("%w: acknowledgement level %v; there are COMMITTED, DELIVERED and READ", errUnsupported, h.level)
	}
	claim, err := toClaim(open)
	if err != nil {
		return nil, err
	}
	claim.Life = open.GetLife()
	if h.every, err = v.s.heartbeat(open.GetHeartbeatInterval()); err != nil {
		return nil, err
	}
	e, err := v.sendable(open.GetEndpoint())
	if err != nil {
		return nil, err
	}
	if h.level == pipedv1.AckLevel_ACK_LEVEL_READ && !e.TellsReading() {
		return nil, argument("acknowledgement level %v of %s: nobody can tell what was read from a terminal; want COMMITTED or DELIVERED", h.level, e.Ref())
	}
	h.incarnation = e.Incarnation()
	h.w, err = e.OpenWriter(session.WriterOptions{ID: open.GetWriterId(), Epoch: open.GetEpoch(), Claim: claim})
	return h, err
}

// take commits batches until the client has no more.
func (h *sendHandler) take(ctx context.Context, stream sendStream) error {
	var in sendBuffer
	for {
		err := stream.RecvMsg(&in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b := in.req.GetBatch()
		if b == nil {
			return fmt.Errorf("%w: after open every request of Send is a batch", errProtocol)
		}
		out, err := h.outgoing(b)
		if err != nil {
			return err
		}
		if err := h.w.Send(ctx, out); err != nil {
			return err
		}
		select {
		case h.committed <- struct{}{}:
		default:
		}
	}
}

func (h *sendHandler) outgoing(b *pipedv1.Batch) (session.Outgoing, error) {
	var out session.Outgoing
	first, err := toPosition(b.GetFirst(), h.incarnation)
	if err != nil {
		return out, err
	}
	n := len(b.GetData())
	switch {
	case n > h.part:
		return out, argument("a batch of %d bytes: at most %d", n, h.part)
	case b.GetMore() && n != h.part:
		return out, argument("a part of %d bytes: all parts but the last have %d", n, h.part)
	case b.GetPartial() || b.GetTruncated() || b.GetStray():
		return out, argument("partial, truncated and stray are said by the daemon only")
	case b.GetPrefixSize() != 0 || b.GetSuffixSize() != 0:
		return out, argument("prefix_size and suffix_size are said by the daemon only: send payloads")
	}
	return session.Outgoing{First: first, Data: b.GetData(), Sizes: b.GetSizes(), More: b.GetMore(), Total: b.GetTotalSize()}, nil
}

// tell acknowledges until everything that was taken is acknowledged and no more
// comes, with a heartbeat when there is nothing to tell. What was committed
// before a refusal is acknowledged before the refusal is told.
func (h *sendHandler) tell(ctx context.Context, stream sendStream, acked pipe.Position) error {
	changed, stop := h.w.Watch()
	defer stop()
	beat := time.NewTimer(h.every)
	defer beat.Stop()
	var samples sampler
	defer samples.stop()
	taken, done := h.taken, false
	var refused error
	for {
		failed := h.w.Err() // before the look, which is the last word then
		now, stuck := h.position()
		moved := acked.Before(now)
		if moved {
			acked = now
			beat.Reset(h.every)
			if err := stream.Send(&pipedv1.SendResponse{Response: &pipedv1.SendResponse_Ack{
				Ack: &pipedv1.SendAck{Position: fromPosition(now, h.incarnation), Level: h.level}}}); err != nil {
				return err
			}
		}
		if refused != nil || done && !acked.Before(h.w.Expected()) {
			return refused
		}
		if err := cmp.Or(failed, stuck); err != nil {
			return err
		}
		var sample <-chan time.Time
		if h.level == pipedv1.AckLevel_ACK_LEVEL_READ && acked.Before(h.w.Expected()) {
			sample = samples.next(moved)
		}
		select {
		case <-sample:
		case <-h.committed:
		case <-changed:
		case refused = <-taken:
			taken, done = nil, true
		case <-h.w.Lost():
			return h.w.Err()
		case <-beat.C:
			beat.Reset(h.every)
			if err := stream.Send(&pipedv1.SendResponse{Response: &pipedv1.SendResponse_Heartbeat{Heartbeat: &pipedv1.Heartbeat{}}}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// position is how far things got at the level that was asked for; the error says
// why they will get no further.
func (h *sendHandler) position() (pipe.Position, error) {
	switch h.level {
	case pipedv1.AckLevel_ACK_LEVEL_READ:
		return h.w.Read()
	case pipedv1.AckLevel_ACK_LEVEL_DELIVERED:
		return h.w.Delivered(), nil
	}
	return h.w.Expected(), nil
}

// sendError is statusError for what a message in Send can be: too long for its
// pipe is the sender's mistake.
func sendError(err error) error {
	if long, ok := errors.AsType[*pipe.TooLongError](err); ok {
		return reasonError(codes.InvalidArgument, "FRAME_OVER_LIMIT", err, map[string]string{
			"size": strconv.FormatUint(long.Size, 10), "limit": strconv.FormatUint(long.Max, 10)})
	}
	return statusError(err)
}

// endOfRequests is the error of a stream that was ended before it was opened.
func endOfRequests(err error) error {
	if errors.Is(err, io.EOF) {
		return statusError(fmt.Errorf("%w: the stream ended before it was opened", errProtocol))
	}
	return err
}
