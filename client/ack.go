package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// Ack acknowledges everything below a position, usually a Message's After: the
// daemon may free it and will not send it again. It returns at once; that it was
// taken is certain only after Close. What was not received yet cannot be
// acknowledged. For an observer and with AutoAck it does nothing.
func (r *Reader) Ack(below Position) error {
	if !r.acking {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closing:
		return ErrClosed
	case below.Compare(r.at) > 0:
		return fmt.Errorf("%v is acknowledged, but only what is below %v was received: %w", below, r.at, ErrPositionOutOfRange)
	case below.Compare(r.ackTo) > 0:
		r.ackTo = below
		r.wakeAcks()
	}
	return nil
}

func (r *Reader) wakeAcks() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// acknowledge sends the newest acknowledgement, never more than one at a time,
// until the Reader closes or the stream ends. A stream takes only
// acknowledgements of what came on it, so those of an earlier stream may wait.
func (r *Reader) acknowledge(s *recvStream, ended <-chan struct{}) {
	for {
		r.mu.Lock()
		to := r.ackTo
		if r.came.Compare(to) < 0 {
			to = r.came
		}
		send, last := to.Compare(r.acked) > 0, r.closing && to == r.ackTo
		if send {
			r.acked = to
		}
		r.mu.Unlock()
		switch {
		case send:
			ack := &pipedv1.RecvAck{Position: to.proto()}
			if err := s.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Ack{Ack: ack}}); err != nil {
				return
			}
		case last:
			_ = s.CloseSend()
			return
		default:
			select {
			case <-r.wake:
			case <-ended:
				return
			}
		}
	}
}

// Close detaches from the endpoint, which stays open: it returns nil when the
// daemon has confirmed that it took the last acknowledgement. What was received
// and not acknowledged goes to the next consumer. When ctx ends first, the stream
// is cut, and the last acknowledgements may not have been taken. A repeated Close
// returns the same.
func (r *Reader) Close(ctx context.Context) error {
	r.mu.Lock()
	if !r.closing {
		r.closing = true
		close(r.detached)
		r.wakeAcks()
	}
	if r.giveUp != nil && r.settledLocked() {
		r.giveUp()
	}
	r.mu.Unlock()
	defer r.cancel()
	if !r.acking {
		// There is nothing to be confirmed.
		r.cancel()
	}
	stop := context.AfterFunc(ctx, r.cancel)
	defer stop()
	r.loops.Wait()
	switch {
	case !r.acking, errors.Is(r.final, io.EOF):
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	if err := fromRPC(r.final); !errors.Is(err, ErrDetached) {
		return err
	}
	return nil
}
