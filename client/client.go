package client

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/grpc"
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

// A Client is a connection to one daemon. It is safe for concurrent use. It
// carries as many open Writers and Readers at a time as
// Limits.max_streams_per_connection says; for more, dial once more.
type Client struct {
	conn     *grpc.ClientConn
	sessions pipedv1.SessionServiceClient
	pipes    pipedv1.PipeServiceClient
	server   pipedv1.ServerServiceClient

	mu sync.Mutex
	// limits are asked once; guarded by mu.
	limits *pipedv1.Limits
}

// Dial connects to the daemon at addr (unix:///PATH) and waits until it answers
// or ctx ends; the error is an *AddressError, or a *NoServerError that wraps
// ErrRefused where a daemon does not serve this user. Further gRPC options are
// applied last. The caller closes the Client.
func Dial(ctx context.Context, addr string, opts ...grpc.DialOption) (*Client, error) {
	if _, err := SocketPath(addr); err != nil {
		return nil, err
	}
	// What the dialer met is told instead of gRPC's own words about it.
	var mu sync.Mutex
	var dialed bool
	var dialErr error
	dialer := func(ctx context.Context, _ string) (net.Conn, error) {
		conn, err := dialSocket(ctx, addr)
		mu.Lock()
		defer mu.Unlock()
		dialed, dialErr = true, err
		return conn, err
	}
	all := append([]grpc.DialOption{
		grpc.WithContextDialer(dialer),
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponseSize)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: 20 * time.Second}),
		// A call that failed may have happened: only the caller knows whether to
		// repeat it.
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
	}, opts...)
	conn, err := grpc.NewClient("passthrough:///piped", all...)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", addr, err)
	}
	if err := connect(ctx, conn); err != nil {
		_ = conn.Close()
		mu.Lock()
		defer mu.Unlock()
		switch {
		case ctx.Err() != nil:
		case dialErr != nil:
			err = dialErr
		case dialed:
			err = ErrRefused
		}
		return nil, &NoServerError{Addresses: []string{addr}, Errs: []error{err}}
	}
	return &Client{
		conn:     conn,
		sessions: pipedv1.NewSessionServiceClient(conn),
		pipes:    pipedv1.NewPipeServiceClient(conn),
		server:   pipedv1.NewServerServiceClient(conn),
	}, nil
}

// connect waits for the first connection, or for its failure.
func connect(ctx context.Context, conn *grpc.ClientConn) error {
	conn.Connect()
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.TransientFailure, connectivity.Shutdown:
			return ErrUnavailable
		}
		if !conn.WaitForStateChange(ctx, state) {
			return ctx.Err()
		}
	}
}

// Close ends the connection. Sessions stay; open Writers and Readers of this
// Client fail.
func (c *Client) Close() error { return c.conn.Close() }

// Info returns what the daemon says of itself.
func (c *Client) Info(ctx context.Context) (*pipedv1.GetServerInfoResponse, error) {
	info, err := c.server.GetServerInfo(ctx, &pipedv1.GetServerInfoRequest{})
	if err != nil {
		return nil, fromRPC(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limits = info.GetLimits()
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
	if err != nil {
		return nil, err
	}
	return info.GetLimits(), nil
}
