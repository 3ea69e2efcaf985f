package exact

import (
	"context"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A peer is a connection with the generated clients on it, for what must be seen
// as it is on the wire.
type peer struct {
	sessions pipedv1.SessionServiceClient
	pipes    pipedv1.PipeServiceClient
}

// dial makes one more connection; the end of the row closes it.
func (r *row) dial(addr string) peer {
	r.t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.atEnd(func() {
		if err := conn.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return peer{pipedv1.NewSessionServiceClient(conn), pipedv1.NewPipeServiceClient(conn)}
}

// reasonOf returns the reason of an error of the daemon and its facts, or the
// code of one that gRPC made.
func reasonOf(err error) (string, map[string]string) {
	if err == nil {
		return "OK", nil
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason(), info.GetMetadata()
		}
	}
	return status.Code(err).String(), nil
}

// A sending is an open Send stream.
type sending struct {
	stream pipedv1.PipeService_SendClient
	opened *pipedv1.SendOpened
	cut    context.CancelFunc
}

// send opens a Send stream.
func (p peer) send(ctx context.Context, open *pipedv1.SendOpen) (*sending, error) {
	ctx, cut := context.WithCancel(ctx)
	stream, err := p.pipes.Send(ctx)
	if err == nil {
		// An error here is EOF; Recv says what it was.
		_ = stream.Send(&pipedv1.SendRequest{Request: &pipedv1.SendRequest_Open{Open: open}})
		var resp *pipedv1.SendResponse
		if resp, err = stream.Recv(); err == nil {
			return &sending{stream, resp.GetOpened(), cut}, nil
		}
	}
	cut()
	return nil, err
}

// message sends one message under a number; what is wrong with the stream,
// acked tells.
func (s *sending) message(number uint64, msg []byte) {
	_ = s.stream.Send(&pipedv1.SendRequest{Request: &pipedv1.SendRequest_Batch{Batch: &pipedv1.Batch{
		First: &pipedv1.Position{Message: number}, Data: msg}}})
}

// acked waits until everything below a number is acknowledged, and returns how
// far that is in any case.
func (s *sending) acked(below uint64) (uint64, error) {
	var at uint64
	for at < below {
		resp, err := s.stream.Recv()
		if err != nil {
			return at, err
		}
		if ack := resp.GetAck(); ack != nil {
			at = ack.GetPosition().GetMessage()
		}
	}
	return at, nil
}
