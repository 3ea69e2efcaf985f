package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

// pipeService is piped.v1.PipeService. Its streams are in files of their own;
// here are the unary calls and Close.
type pipeService struct {
	pipedv1.UnimplementedPipeServiceServer
	s *Server
}

func newPipeService(s *Server) *pipeService { return &pipeService{s: s} }

func (v *pipeService) endpoint(ref *pipedv1.EndpointRef) (*session.Endpoint, error) {
	if ref.GetSession() == "" {
		return nil, argument("an endpoint reference needs a session")
	}
	ses, err := v.s.reg.Get(ref.GetSession())
	if err != nil {
		return nil, err
	}
	return ses.EndpointIn(ref.GetPipe(), int(ref.GetEnd()), ref.GetIncarnation())
}

// sendable is endpoint for a sender: while the process that reads is being started
// again, only an incarnation that is named can be sent to.
func (v *pipeService) sendable(ref *pipedv1.EndpointRef) (*session.Endpoint, error) {
	e, err := v.endpoint(ref)
	if err == nil && ref.GetIncarnation() == 0 {
		err = e.AwaitsRestart()
	}
	return e, err
}

// heartbeat returns the longest silence that a client asked for.
func (s *Server) heartbeat(d *durationpb.Duration) (time.Duration, error) {
	const shortest = 100 * time.Millisecond
	every, err := toDuration("heartbeat interval", d, s.options().HeartbeatInterval)
	if err != nil {
		return 0, err
	}
	if every == 0 {
		return s.options().HeartbeatInterval, nil
	}
	return max(every, shortest), nil
}

func (v *pipeService) Poll(ctx context.Context, req *pipedv1.PollRequest) (*pipedv1.PollResponse, error) {
	if n := len(req.GetEndpoints()); n == 0 || n > v.s.options().MaxPollEndpoints {
		return nil, statusError(argument("%d endpoints: want 1 to %d", n, v.s.options().MaxPollEndpoints))
	}
	seen := make(map[*session.Endpoint]bool)
	var endpoints []*session.Endpoint
	for _, ref := range req.GetEndpoints() {
		e, err := v.endpoint(ref)
		if err != nil {
			return nil, statusError(err)
		}
		if seen[e] {
			return nil, statusError(argument("%s is asked for twice", e.Ref()))
		}
		seen[e] = true
		endpoints = append(endpoints, e)
	}
	wait, cancel := waitContext(ctx, req.Timeout)
	defer cancel()
	found, err := session.Poll(wait, endpoints)
	if err != nil {
		return nil, statusError(err)
	}
	if ctx.Err() != nil {
		return nil, statusError(ctx.Err())
	}
	resp := &pipedv1.PollResponse{}
	for i, r := range found {
		if r.Any() {
			resp.Ready = append(resp.Ready, &pipedv1.Readiness{Index: uint32(i), Message: r.Message, Data: r.Data, End: r.End})
		}
	}
	return resp, nil
}

func (v *pipeService) Write(ctx context.Context, req *pipedv1.WriteRequest) (*pipedv1.WriteResponse, error) {
	e, err := v.sendable(req.GetEndpoint())
	if err != nil {
		return nil, statusError(err)
	}
	b := session.Outgoing{First: pipe.Position{Message: req.GetSequence()}}
	for _, m := range req.GetMessages() {
		b.Data = append(b.Data, m...)
		b.Sizes = append(b.Sizes, uint32(len(m))) //nolint:gosec // at most a request
	}
	if part := v.s.options().partSize(); len(b.Data) > part {
		return nil, statusError(argument("%d bytes in one Write: at most %d; use Send for more", len(b.Data), part))
	}
	w, err := e.OpenWriter(session.WriterOptions{ID: req.GetWriterId(), Epoch: req.GetEpoch(),
		Claim: session.Claim{Token: req.GetLeaseToken(), Call: true}})
	if err != nil {
		return nil, statusError(err)
	}
	defer w.Close()
	if len(b.Sizes) > 0 {
		if err := w.Send(ctx, b); err != nil {
			return nil, sendError(err)
		}
	}
	return &pipedv1.WriteResponse{Expected: fromPosition(w.Expected(), e.Incarnation())}, nil
}

func (v *pipeService) Read(ctx context.Context, req *pipedv1.ReadRequest) (*pipedv1.ReadResponse, error) {
	lim, err := readLimits(req)
	if err != nil {
		return nil, statusError(err)
	}
	e, err := v.endpoint(req.GetEndpoint())
	if err != nil {
		return nil, statusError(err)
	}
	opts := session.ReaderOptions{Force: req.GetForce(), Claim: session.Claim{Token: req.GetLeaseToken(), Call: true}}
	if ack := req.GetAcknowledge(); ack != nil {
		opts.Start = session.StartPosition
		if opts.Position, err = toPosition(ack, e.Incarnation()); err != nil {
			return nil, statusError(err)
		}
	}
	r, err := e.OpenReader(ctx, opts)
	if err != nil {
		return nil, statusError(err)
	}
	defer r.Close()
	wait, cancel := waitContext(ctx, req.Timeout)
	defer cancel()
	resp, err := readOnce(wait, r, lim, e.Incarnation())
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, statusError(ctx.Err())
	case errors.Is(err, context.DeadlineExceeded):
		return &pipedv1.ReadResponse{Next: fromPosition(r.Position(), e.Incarnation()), Gap: resp.GetGap()}, nil
	case err != nil:
		return nil, statusError(err)
	}
	if req.GetAutoAck() {
		err = r.Ack(r.Position())
	}
	return resp, statusError(err)
}

func readLimits(req *pipedv1.ReadRequest) (pipe.Limits, error) {
	lim := pipe.Limits{Messages: batchMessages(req.GetMaxMessages()), Bytes: int(req.GetMaxBytes())}
	if req.MaxMessageSize != nil {
		if req.GetMaxMessageSize() < 0 {
			return lim, argument("largest message %d: want 0 or more", req.GetMaxMessageSize())
		}
		lim.MaxMessage = uint64(req.GetMaxMessageSize()) //nolint:gosec // not negative
		lim.Zero = lim.MaxMessage == 0
	}
	return lim, nil
}

// readOnce waits for the first batch; a gap before it is noted in the response.
func readOnce(ctx context.Context, r *session.Reader, lim pipe.Limits, incarnation uint64) (*pipedv1.ReadResponse, error) {
	resp := &pipedv1.ReadResponse{}
	for {
		ev, err := r.Next(nil, lim)
		switch {
		case err != nil:
			return resp, err
		case ev.End != nil:
			return resp, endError(ev.End, r.EndSeen())
		case ev.Batch != nil:
			resp.Batch, resp.Next = fromBatch(ev.Batch, incarnation), fromPosition(ev.Batch.Next, incarnation)
			return resp, nil
		case ev.Gap != nil:
			resp.Gap = fromGap(ev.Gap, incarnation)
			continue
		}
		// What the kernel has at this moment counts as being there, even when
		// the time to wait is over.
		done := ctx.Done()
		if r.Arriving() {
			done = nil
		}
		select {
		case <-r.Changed():
		case <-r.Lost():
			return resp, r.Err()
		case <-done:
			return resp, ctx.Err()
		}
	}
}

func (v *pipeService) Close(req *pipedv1.CloseRequest, stream grpc.ServerStreamingServer[pipedv1.CloseResponse]) error {
	e, err := v.endpoint(req.GetEndpoint())
	if err != nil {
		return statusError(err)
	}
	if err := e.Close(session.CloseOptions{SendOnly: req.GetSendOnly(), Discard: req.GetDiscard()}); err != nil {
		return statusError(err)
	}
	if !req.GetWait() && !req.GetWaitExit() {
		return nil
	}
	ctx := stream.Context()
	end, err := e.WaitClosed(ctx, req.GetSendOnly(), func(p session.Pending) error {
		return stream.Send(&pipedv1.CloseResponse{Response: &pipedv1.CloseResponse_Pending{
			Pending: &pipedv1.ClosePending{Messages: p.Messages, Bytes: p.Bytes}}})
	})
	if err != nil {
		return statusError(err)
	}
	if err := stream.Send(&pipedv1.CloseResponse{Response: &pipedv1.CloseResponse_Closed{Closed: &pipedv1.Closed{Sent: fromEnd(end, e.Incarnation())}}}); err != nil {
		return err
	}
	if !req.GetWaitExit() {
		return nil
	}
	return statusError(e.WaitExits(ctx, func(p session.ProcessInfo) error {
		return stream.Send(&pipedv1.CloseResponse{Response: &pipedv1.CloseResponse_Exit{Exit: fromProcess(p)}})
	}))
}
