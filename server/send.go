package server

import (
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
// one takes, the other tells; gRPC allows one of each.
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
	defer h.w.Close()
	opened := &pipedv1.SendOpened{Expected: fromPosition(h.w.Expected())}
	if u := h.w.Unfinished(); u != nil {
		opened.Unfinished = &pipedv1.UnfinishedMessage{Have: u.Have, Total: u.Total}
	}
	if err := stream.Send(&pipedv1.SendResponse{Response: &pipedv1.SendResponse_Opened{Opened: opened}}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	told := make(chan error, 1)
	go func() {
		err := h.tell(ctx, stream)
		// A client that does not take acknowledgements must not go on sending.
		cancel(err)
		told <- err
	}()
	err = h.take(ctx, stream)
	close(h.taken)
	if err != nil {
		cancel(err)
	}
	return statusError(errors.Join(err, <-told))
}

// A sendHandler serves one Send stream.
type sendHandler struct {
	w         *session.Writer
	level     pipedv1.AckLevel
	every     time.Duration
	committed chan struct{} // cap 1: there is something new to acknowledge
	taken     chan struct{} // closed when no more requests come
}

func (v *pipeService) openSend(open *pipedv1.SendOpen) (*sendHandler, error) {
	if len(open.GetLeaseToken()) > 0 {
		return nil, argument("lease token: there are no leases yet, leave it empty")
	}
	h := &sendHandler{level: open.GetAckLevel(), committed: make(chan struct{}, 1), taken: make(chan struct{})}
	switch h.level {
	case pipedv1.AckLevel_ACK_LEVEL_UNSPECIFIED:
		h.level = pipedv1.AckLevel_ACK_LEVEL_COMMITTED
	case pipedv1.AckLevel_ACK_LEVEL_COMMITTED, pipedv1.AckLevel_ACK_LEVEL_DELIVERED:
	default:
		return nil, fmt.Errorf("%w: acknowledgement level %v; there are COMMITTED and DELIVERED", errUnsupported, h.level)
	}
	var err error
	if h.every, err = v.heartbeat(open.GetHeartbeatInterval()); err != nil {
		return nil, err
	}
	e, err := v.endpoint(open.GetEndpoint())
	if err != nil {
		return nil, err
	}
	h.w, err = e.OpenWriter(session.WriterOptions{ID: open.GetWriterId(), Epoch: open.GetEpoch()})
	return h, err
}

// take commits batches until the client has no more.
func (h *sendHandler) take(ctx context.Context, stream sendStream) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b := req.GetBatch()
		if b == nil {
			return fmt.Errorf("%w: after open every request of Send is a batch", errProtocol)
		}
		out, err := outgoing(b)
		if err != nil {
			return err
		}
		if err := h.w.Send(ctx, out); err != nil {
			if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
				return cause
			}
			return sendError(err)
		}
		select {
		case h.committed <- struct{}{}:
		default:
		}
	}
}

func outgoing(b *pipedv1.Batch) (session.Outgoing, error) {
	var out session.Outgoing
	first, err := toPosition(b.GetFirst())
	if err != nil {
		return out, err
	}
	n := len(b.GetData())
	switch {
	case n > pipe.DefaultPart:
		return out, argument("a batch of %d bytes: at most %d", n, pipe.DefaultPart)
	case b.GetMore() && n != pipe.DefaultPart:
		return out, argument("a part of %d bytes: all parts but the last have %d", n, pipe.DefaultPart)
	case b.GetPartial() || b.GetTruncated() || b.GetStray():
		return out, argument("partial, truncated and stray are said by the daemon only")
	case b.GetPrefixSize() != 0 || b.GetSuffixSize() != 0:
		return out, argument("prefix_size and suffix_size are said by the daemon only: send payloads")
	}
	return session.Outgoing{First: first, Data: b.GetData(), Sizes: b.GetSizes(), More: b.GetMore(), Total: b.GetTotalSize()}, nil
}

// tell acknowledges until everything that was taken is acknowledged and no more
// comes, with a heartbeat when there is nothing to tell.
func (h *sendHandler) tell(ctx context.Context, stream sendStream) error {
	beat := time.NewTimer(h.every)
	defer beat.Stop()
	acked := h.position()
	taken := h.taken
	for {
		done := taken == nil
		if now := h.position(); acked.Before(now) {
			acked = now
			beat.Reset(h.every)
			if err := stream.Send(&pipedv1.SendResponse{Response: &pipedv1.SendResponse_Ack{
				Ack: &pipedv1.SendAck{Position: fromPosition(now), Level: h.level}}}); err != nil {
				return err
			}
		}
		if done && !h.waiting(acked) {
			return nil
		}
		select {
		case <-h.committed:
		case <-h.w.Changed():
			if err := h.w.Err(); err != nil {
				return err
			}
		case <-taken:
			taken = nil
		case <-h.w.Superseded():
			return session.ErrSuperseded
		case <-beat.C:
			beat.Reset(h.every)
			if err := stream.Send(&pipedv1.SendResponse{Response: &pipedv1.SendResponse_Heartbeat{Heartbeat: &pipedv1.Heartbeat{}}}); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (h *sendHandler) position() pipe.Position {
	if h.level == pipedv1.AckLevel_ACK_LEVEL_DELIVERED {
		return h.w.Delivered()
	}
	return h.w.Expected()
}

// waiting reports whether something is taken and not acknowledged.
func (h *sendHandler) waiting(acked pipe.Position) bool { return acked.Before(h.w.Expected()) }

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
