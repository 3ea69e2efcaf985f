package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

const (
	// streamWindow is what one stream may have on its way, fixed: a window that
	// gRPC estimates by itself costs latency through its probes.
	streamWindow = 1 << 20
	// connWindow is the same for all streams of a connection together.
	connWindow = 4 << 20
	// maxResponseSize bounds one response; a part of a message is far smaller.
	maxResponseSize = 16 << 20
)

// What finds a connection that is only half open, or swallows everything, within
// 25 s. The daemon allows a ping each 10 s.
const (
	keepaliveTime    = 15 * time.Second
	keepaliveTimeout = 10 * time.Second
)

// dialPause is the first pause between two attempts to connect: a daemon that is
// started again is there soon.
const dialPause = 20 * time.Millisecond

// A daemon that is killed just after it took a connection ends it, as one does that
// refuses this user, but the next daemon is there soon: dialAttempts is how often Dial
// asks, refusedPause the time between.
const (
	dialAttempts = 3
	refusedPause = 100 * time.Millisecond
)

// A Client speaks to one daemon, over one connection or, where
// Limits.max_streams_per_connection makes more necessary, over several, which it
// opens and closes by itself. A connection that was lost is made again, and calls
// that may be repeated are, see RepeatFor: a daemon that is started again, because it
// was killed or for a new version, is a pause. It is safe for concurrent use.
type Client struct {
	pool      *pool
	repeatFor time.Duration
	sessions  pipedv1.SessionServiceClient
	pipes     pipedv1.PipeServiceClient
	server    pipedv1.ServerServiceClient

	mu sync.Mutex
	// limits are asked once; guarded by mu.
	limits *pipedv1.Limits
}

// Dial connects to the daemon at addr (unix:///PATH) and waits until it answers
// or ctx ends; the error is an *AddressError, or a *NoServerError that wraps
// ErrRefused where a daemon does not serve this user. Further options are RepeatFor
// and those of gRPC, which are applied last, to each connection. The caller closes
// the Client.
func Dial(ctx context.Context, addr string, opts ...grpc.DialOption) (*Client, error) {
	if _, err := SocketPath(addr); err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		c, err := dial(ctx, addr, opts)
		if !errors.Is(err, ErrRefused) || attempt == dialAttempts {
			return c, err
		}
		timer := time.NewTimer(refusedPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}

// dial is one attempt of Dial.
func dial(ctx context.Context, addr string, opts []grpc.DialOption) (*Client, error) {
	// What the dialer met is told instead of gRPC's own words about it.
	met := &meeting{}
	dialer := func(ctx context.Context, _ string) (net.Conn, error) { return met.dial(ctx, addr) }
	all := append([]grpc.DialOption{
		grpc.WithContextDialer(dialer),
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponseSize)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: dialPause, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxPause},
			MinConnectTimeout: keepaliveTimeout,
		}),
		// A call that failed may have happened: ask knows which may be repeated.
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
	}, opts...)
	conns, err := newPool(func() (*grpc.ClientConn, error) { return grpc.NewClient("passthrough:///piped", all...) })
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", addr, err)
	}
	if err := connect(ctx, conns.first()); err != nil {
		_ = conns.close()
		if ctx.Err() == nil {
			err = met.reason(err)
		}
		return nil, &NoServerError{Addresses: []string{addr}, Errs: []error{err}}
	}
	return &Client{
		pool:      conns,
		repeatFor: repeatFor(opts),
		sessions:  pipedv1.NewSessionServiceClient(conns),
		pipes:     pipedv1.NewPipeServiceClient(conns),
		server:    pipedv1.NewServerServiceClient(conns),
	}, nil
}

// lookAgain is after what time a connection that seems not to have begun is begun
// again: it may have come and gone between two looks, which leaves no trace.
const lookAgain = 100 * time.Millisecond

// A connector is the part of a *grpc.ClientConn that connect needs.
type connector interface {
	Connect()
	GetState() connectivity.State
	WaitForStateChange(ctx context.Context, from connectivity.State) bool
}

// connect waits for a connection, or for its failure.
func connect(ctx context.Context, conn connector) error {
	for tried := false; ; {
		state := conn.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.TransientFailure, connectivity.Shutdown:
			return ErrUnavailable
		case connectivity.Connecting:
			tried = true
		case connectivity.Idle:
			// It is idle again where it was cut before anything was said.
			if tried {
				return ErrUnavailable
			}
			conn.Connect()
		}
		look, cancel := context.WithTimeout(ctx, lookAgain)
		if conn.WaitForStateChange(look, state) && state == connectivity.Idle {
			tried = true
		}
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// Close ends the connections. Sessions stay; open Writers, Readers and Watchers
// of this Client fail.
func (c *Client) Close() error { return c.pool.close() }

// Info returns what the daemon says of itself.
func (c *Client) Info(ctx context.Context) (*pipedv1.GetServerInfoResponse, error) {
	info, err := look(ctx, c, c.server.GetServerInfo, &pipedv1.GetServerInfoRequest{})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limits = info.GetLimits()
	c.pool.setLimit(c.limits.GetMaxStreamsPerConnection())
	return info, nil
}

// Limits returns the daemon's limits, and asks for them the first time only.
func (c *Client) Limits(ctx context.Context) (*pipedv1.Limits, error) {
	c.mu.Lock()
	limits := c.limits
	c.mu.Unlock()
	if limits != nil {
		return limits, nil
	}
	info, err := c.Info(ctx)
	return info.GetLimits(), err
}
