package client

import (
	"context"
	"errors"
	"io"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// rawFraming is the framing in which every byte is a message.
const rawFraming = "raw"

// An Endpoint is one end of a pipe, as this client sees it: a name, nothing is
// open. It is safe for concurrent use, needs no closing of its own, and Close
// closes the daemon's end.
type Endpoint struct {
	client *Client
	ref    Ref
}

// Endpoint returns the endpoint that ref names. Whether it exists is found out
// by its first use.
func (c *Client) Endpoint(ref Ref) *Endpoint { return &Endpoint{client: c, ref: ref} }

// in returns the endpoint in an incarnation of its pipe.
func (e *Endpoint) in(incarnation uint64) *Endpoint {
	ref := e.ref
	ref.Incarnation = incarnation
	return &Endpoint{client: e.client, ref: ref}
}

// Ref returns the name of the endpoint.
func (e *Endpoint) Ref() Ref { return e.ref }

// Send sends one message and returns when the daemon has it. When ctx ends before,
// or the connection is lost, it is not known whether the message was taken; use a
// Writer, which repeats messages safely.
func (e *Endpoint) Send(ctx context.Context, msg []byte) error {
	limits, err := e.client.Limits(ctx)
	if err != nil {
		return err
	}
	if uint64(len(msg)) <= limits.GetPartSize() {
		req := &pipedv1.WriteRequest{Endpoint: e.ref.proto(), Messages: [][]byte{msg}}
		_, err := ask(ctx, e.client, &asking{once: true}, e.client.pipes.Write, req)
		return err
	}
	w, err := e.NewWriter(ctx, WriterOptions{})
	if err != nil {
		return err
	}
	return errors.Join(w.Send(ctx, msg), w.Close(ctx))
}

// Poll says whether something can be received; see Client.Poll. Without
// anything after the timeout it returns nil.
func (e *Endpoint) Poll(ctx context.Context, timeout time.Duration) (*pipedv1.Readiness, error) {
	ready, err := e.client.Poll(ctx, []Ref{e.ref}, timeout)
	if err != nil || len(ready) == 0 {
		return nil, err
	}
	return ready[0], nil
}

// Poll waits until at least one of the endpoints can be received from or has
// ended, or for the timeout, and returns all that are ready, in the order of
// refs. It consumes nothing. A timeout of 0 looks once.
func (c *Client) Poll(ctx context.Context, refs []Ref, timeout time.Duration) ([]*pipedv1.Readiness, error) {
	req := &pipedv1.PollRequest{}
	for _, ref := range refs {
		req.Endpoints = append(req.Endpoints, ref.proto())
	}
	resp, err := ask(ctx, c, untilTimeout(timeout, &req.Timeout), c.pipes.Poll, req)
	return resp.GetReady(), err
}

// CloseOptions say how an endpoint is closed. The zero value closes it in the
// background, after what was accepted has been handed over.
type CloseOptions struct {
	// SendOnly closes the sending direction alone (half-close).
	SendOnly bool
	// Discard drops what was accepted and not yet handed over.
	Discard bool
	// Wait returns only when everything is handed over and the end is closed.
	Wait bool
	// WaitExit waits after that for the processes that hold the other end.
	WaitExit bool
	// Progress, if set, is called with what is still to be handed over.
	Progress func(*pipedv1.ClosePending)
}

// CloseResult is what a Close that waited has to say.
type CloseResult struct {
	// Sent is the last word about what was sent; nil if Close did not wait or
	// the endpoint cannot send.
	Sent *pipedv1.End
	// Exits are the processes that ended, with CloseOptions.WaitExit.
	Exits []*pipedv1.Process
}

// Close closes the daemon's copy of the endpoint. It may be repeated, releases
// everyone who waits on the endpoint, and signals no process. When ctx ends
// first, the closing goes on by itself.
func (e *Endpoint) Close(ctx context.Context, opts CloseOptions) (*CloseResult, error) {
	attempts := retry{limit: e.client.repeatFor}
	for {
		began := time.Now()
		result, err := e.close(ctx, &opts)
		if err == nil || ctx.Err() != nil {
			return result, fromRPC(err)
		}
		if time.Since(began) > maxPause {
			attempts.reached(began)
		}
		if err := e.client.comeBack(ctx, &attempts, err); err != nil {
			return nil, err
		}
	}
}

func (e *Endpoint) close(ctx context.Context, opts *CloseOptions) (*CloseResult, error) {
	// The stream is always read to its end, so that nothing is left open.
	stream, err := e.client.pipes.Close(ctx, &pipedv1.CloseRequest{
		Endpoint: e.ref.proto(), SendOnly: opts.SendOnly, Discard: opts.Discard, Wait: opts.Wait, WaitExit: opts.WaitExit,
	})
	if err != nil {
		return nil, err
	}
	result := &CloseResult{}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return result, nil
		}
		if err != nil {
			return nil, err
		}
		switch {
		case resp.GetPending() != nil && opts.Progress != nil:
			opts.Progress(resp.GetPending())
		case resp.GetClosed() != nil:
			result.Sent = resp.GetClosed().GetSent()
		case resp.GetExit() != nil:
			result.Exits = append(result.Exits, resp.GetExit())
		}
	}
}

// CloseSend closes the sending direction alone: the other side sees end of file
// after what was sent, and what it sends can still be received.
func (e *Endpoint) CloseSend(ctx context.Context) error {
	_, err := e.Close(ctx, CloseOptions{SendOnly: true})
	return err
}
