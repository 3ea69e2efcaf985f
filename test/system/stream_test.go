package system

import (
	"context"
	"errors"
	"io"
	"testing"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// drain takes from a stream until its end.
func drain[T any](recv func() (T, error)) ([]T, error) {
	var all []T
	for {
		m, err := recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, m)
	}
}

// position makes a position.
func position(message, offset uint64) *pipedv1.Position {
	return &pipedv1.Position{Message: message, Offset: offset}
}

func before(a, b *pipedv1.Position) bool {
	if a.GetMessage() != b.GetMessage() {
		return a.GetMessage() < b.GetMessage()
	}
	return a.GetOffset() < b.GetOffset()
}

// A sender is an open Send stream.
type sender struct {
	t      *testing.T
	stream pipedv1.PipeService_SendClient
	opened *pipedv1.SendOpened
	cancel context.CancelFunc
}

// send opens a Send stream that has to open.
func (p *peer) send(open *pipedv1.SendOpen) *sender {
	p.t.Helper()
	s, err := p.trySend(open)
	if err != nil {
		p.t.Fatalf("open Send: %v", err)
	}
	return s
}

func (p *peer) trySend(open *pipedv1.SendOpen) (*sender, error) {
	ctx, cancel := context.WithCancel(p.ctx())
	p.t.Cleanup(cancel)
	stream, err := p.pipes.Send(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&pipedv1.SendRequest{Request: &pipedv1.SendRequest_Open{Open: open}}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	resp, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	return &sender{p.t, stream, resp.GetOpened(), cancel}, nil
}

// batch sends one batch; a stream that has ended shows that in the next
// acknowledgement.
func (s *sender) batch(b *pipedv1.Batch) {
	s.t.Helper()
	if err := s.stream.Send(&pipedv1.SendRequest{Request: &pipedv1.SendRequest_Batch{Batch: b}}); err != nil && !errors.Is(err, io.EOF) {
		s.t.Fatalf("send: %v", err)
	}
}

// message sends one whole message at its place in the sequence.
func (s *sender) message(number uint64, data string) {
	s.t.Helper()
	s.batch(&pipedv1.Batch{First: position(number, 0), Data: []byte(data)})
}

// acked waits until everything below a position is acknowledged.
func (s *sender) acked(to *pipedv1.Position) {
	s.t.Helper()
	for {
		resp, err := s.stream.Recv()
		if err != nil {
			s.t.Fatalf("waiting for the acknowledgement of %v: %v", to, err)
		}
		if ack := resp.GetAck(); ack != nil && !before(ack.GetPosition(), to) {
			return
		}
	}
}

// end ends the requests and returns how the stream ends.
func (s *sender) end() error {
	s.t.Helper()
	if err := s.stream.CloseSend(); err != nil {
		s.t.Fatal(err)
	}
	return s.failure()
}

// failure waits for the end of the stream and returns its error, nil for OK.
func (s *sender) failure() error {
	_, err := drain(s.stream.Recv)
	return err
}

// A receiver is an open Recv stream.
type receiver struct {
	t      *testing.T
	stream pipedv1.PipeService_RecvClient
	opened *pipedv1.RecvOpened
	cancel context.CancelFunc
}

// recv opens a Recv stream that has to open.
func (p *peer) recv(open *pipedv1.RecvOpen) *receiver {
	p.t.Helper()
	r, err := p.tryRecv(open)
	if err != nil {
		p.t.Fatalf("open Recv: %v", err)
	}
	return r
}

func (p *peer) tryRecv(open *pipedv1.RecvOpen) (*receiver, error) {
	ctx, cancel := context.WithCancel(p.ctx())
	p.t.Cleanup(cancel)
	stream, err := p.pipes.Recv(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Open{Open: open}}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	resp, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	return &receiver{p.t, stream, resp.GetOpened(), cancel}, nil
}

// next returns the next response that is not a heartbeat.
func (r *receiver) next() *pipedv1.RecvResponse {
	r.t.Helper()
	for {
		resp, err := r.stream.Recv()
		if err != nil {
			r.t.Fatalf("recv: %v", err)
		}
		if resp.GetHeartbeat() == nil {
			return resp
		}
	}
}

// batch returns the next response, which must be a batch.
func (r *receiver) batch() *pipedv1.Batch {
	r.t.Helper()
	resp := r.next()
	if resp.GetBatch() == nil {
		r.t.Fatalf("got %v, want a batch", resp)
	}
	return resp.GetBatch()
}

// ended returns the next response, which must be the end.
func (r *receiver) ended() *pipedv1.End {
	r.t.Helper()
	resp := r.next()
	if resp.GetEnd() == nil {
		r.t.Fatalf("got %.200q, want the end", resp.String())
	}
	return resp.GetEnd()
}

// ack acknowledges everything below a message number.
func (r *receiver) ack(message, offset uint64) {
	r.t.Helper()
	ack := &pipedv1.RecvAck{Position: position(message, offset)}
	if err := r.stream.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Ack{Ack: ack}}); err != nil && !errors.Is(err, io.EOF) {
		r.t.Fatalf("ack: %v", err)
	}
}

// failure waits for the end of the stream and returns its error, nil for OK.
func (r *receiver) failure() error {
	_, err := drain(r.stream.Recv)
	return err
}

// detach ends the requests and waits until the daemon has confirmed.
func (r *receiver) detach() {
	r.t.Helper()
	if err := r.stream.CloseSend(); err != nil {
		r.t.Fatal(err)
	}
	wantReason(r.t, "detaching", r.failure(), "DETACHED")
}

// everything receives to the end with automatic acknowledgement: the messages,
// joined where they came in parts, and the end.
func (p *peer) everything(ref *pipedv1.EndpointRef) ([]string, *pipedv1.End) {
	p.t.Helper()
	r := p.recv(&pipedv1.RecvOpen{Endpoint: ref, AutoAck: true})
	var all []string
	joined := ""
	for {
		resp := r.next()
		if end := resp.GetEnd(); end != nil {
			if err := r.failure(); err != nil {
				p.t.Errorf("after the end: %v", err)
			}
			if joined != "" { // the end came when its last part had been told to have more behind it
				all = append(all, joined)
			}
			return all, end
		}
		if resp.GetBatch() == nil {
			p.t.Fatalf("got %v, want a batch or the end", resp)
		}
		joined += string(resp.GetBatch().GetData())
		if !resp.GetBatch().GetMore() {
			all, joined = append(all, joined), ""
		}
	}
}
