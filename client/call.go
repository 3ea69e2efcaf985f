package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// defaultRepeatFor is how long calls are repeated when nobody says otherwise.
const defaultRepeatFor = 30 * time.Second

// RepeatFor says how long a call tries to get through when the connection is lost,
// or refused, after Dial has succeeded: a daemon that is started again goes on with
// its sessions, and so do calls. By default it is 30 s; 0 means that the first
// failure is told. The context of the call ends it in any case.
//
// Only calls that may happen twice are repeated: those that look (Get, List, Wait,
// Poll, Info, Limits, Verify), Create, CreatePipe and Start, which get a request_id
// if they have none, Stop, Delete by uid, Endpoint.Close, and those about leases.
// Signal, Endpoint.Send and Delete by name are made again only while it is certain
// that the daemon has not seen them. For Writers and Readers it bounds the opening;
// after that their own ReconnectFor counts.
func RepeatFor(d time.Duration) grpc.DialOption { return repeatOption{duration: d} }

// A repeatOption is an option of Dial that gRPC does not know.
type repeatOption struct {
	grpc.EmptyDialOption
	duration time.Duration
}

// repeatFor finds how long calls are repeated among options.
func repeatFor(opts []grpc.DialOption) time.Duration {
	d := defaultRepeatFor
	for _, opt := range opts {
		if r, ok := opt.(repeatOption); ok {
			d = max(r.duration, time.Nanosecond) // 0 would be for ever
		}
	}
	return d
}

// An asking is one unary call, with its repetitions.
type asking struct {
	// once: it may not happen twice, and so is repeated only when it certainly did
	// not happen.
	once bool
	// waits: it lasts until something happens, over any number of daemons.
	waits bool
	// again, if set, is called before each repetition.
	again func()
	// cut says afterwards that an earlier attempt may have been carried out.
	cut bool
}

// ask makes a unary call, also over a restart of the daemon.
func ask[Q, A any](ctx context.Context, c *Client, how *asking, call func(context.Context, *Q, ...grpc.CallOption) (*A, error), req *Q) (*A, error) {
	attempts := retry{limit: c.repeatFor}
	var loss error // why it is asked again
	for {
		// It stays empty unless the call was given to a connection.
		var to peer.Peer
		began := time.Now()
		answer, err := call(ctx, req, grpc.Peer(&to))
		if err == nil {
			return answer, nil
		}
		if sent := to.Addr != nil; sent && !untouched(err) {
			if how.once {
				return nil, fromRPC(err)
			}
			how.cut = true
			if how.waits || time.Since(began) > maxPause {
				attempts.reached(began)
			}
		}
		if ctx.Err() != nil && loss == nil {
			return nil, fromRPC(err)
		}
		if ctx.Err() == nil {
			loss = fromRPC(err)
		}
		if back := c.comeBack(ctx, &attempts, err); back != nil {
			if ctx.Err() != nil {
				back = &Error{Code: status.FromContextError(ctx.Err()).Code(), Message: fmt.Sprintf("%v: %v", ctx.Err(), loss)}
			}
			return nil, back
		}
		if how.again != nil {
			how.again()
		}
	}
}

// look makes a call that may be repeated.
func look[Q, A any](ctx context.Context, c *Client, call func(context.Context, *Q, ...grpc.CallOption) (*A, error), req *Q) (*A, error) {
	return ask(ctx, c, &asking{}, call, req)
}

// comeBack waits before the next attempt after err, and until there is a connection
// again. It returns an error, err or that of ctx, when there is to be no further
// attempt.
func (c *Client) comeBack(ctx context.Context, r *retry, err error) error {
	if err := r.again(ctx, err); err != nil {
		return err
	}
	wait := ctx
	if r.limit > 0 {
		var cancel context.CancelFunc
		wait, cancel = context.WithDeadline(ctx, r.since.Add(r.limit))
		defer cancel()
	}
	switch back := c.await(wait); {
	case back == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(back, errClientClosed):
		return back
	default:
		return fromRPC(err)
	}
}

// await waits for a connection until ctx ends. Unlike Dial it waits for a daemon
// that is not there.
func (c *Client) await(ctx context.Context) error {
	for {
		conn, err := c.pool.current()
		if err != nil {
			return err
		}
		state := conn.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Idle:
			conn.Connect()
		}
		// Not for longer: a state may come and go between two looks, and the pool may
		// have made another connection.
		look, cancel := context.WithTimeout(ctx, lookAgain)
		conn.WaitForStateChange(look, state)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// openFor bounds the attempts of a stream that is opened for the first time and may
// come back for so long later; 0 is for ever.
func (c *Client) openFor(later time.Duration) time.Duration {
	if later <= 0 {
		return c.repeatFor
	}
	return min(later, c.repeatFor)
}
