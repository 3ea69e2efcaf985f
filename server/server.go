// Package server puts gRPC on top of sessions: it converts requests, decides
// who may connect, maps errors to status codes (all of them in one table), and
// ends in order.
//
// A [Server] serves any number of unix sockets. Whoever connects is asked for
// by SO_PEERCRED; only the user of the daemon and root are let in. Beside the
// three services of piped.v1 there are the standard health service, which
// knows "" and each of the three by name, and reflection.
//
// gRPC starts one goroutine per call. A handler of a stream starts another one,
// which takes requests: it ends with the stream, and Serve joins it. Handlers
// return when their context ends or when the registry closes.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

// Options are what a [Server] needs to know. Start from [DefaultOptions]: a
// zero is taken as it stands.
type Options struct {
	// Version and Addresses are what GetServerInfo answers.
	Version   string
	Addresses []string

	// Sessions is what the registry was made with; GetServerInfo tells it.
	Sessions session.Config

	// DurabilityReason says why Sessions.KernelLogs is what it is, and Checks what
	// was tried out for it; GetServerInfo tells both.
	DurabilityReason string
	Checks           []pipe.Check
	// Survival says, each time that it is asked, what outlives this process;
	// GetServerInfo tells it. Nil: nothing does.
	Survival func() Survival

	// MaxStreamsPerConnection bounds the streams of one connection.
	MaxStreamsPerConnection int
	// MaxPollEndpoints bounds the endpoints of one Poll.
	MaxPollEndpoints int
	// MaxPageSize bounds the entries of one page of a list.
	MaxPageSize int
	// HeartbeatInterval is the longest silence on a stream.
	HeartbeatInterval time.Duration
	// LeaveSessions leaves the sessions to the next daemon at shutdown, which then
	// cuts all streams off at once: their clients resume them there. The process has
	// to end after that.
	LeaveSessions bool
	// Crash lets a panic of a handler end the process, for a daemon that another
	// one follows: what the handler has left half done is found there, and not gone
	// on with. Without it the client gets INTERNAL, and the others go on.
	Crash bool
	// ShutdownGrace is how long sessions, and after them streams, may take to
	// end by themselves at shutdown.
	ShutdownGrace time.Duration
}

// DefaultOptions returns the limits of a daemon that was told nothing.
func DefaultOptions() Options {
	return Options{
		Sessions:                session.DefaultConfig(),
		MaxStreamsPerConnection: 1024,
		MaxPollEndpoints:        1024,
		MaxPageSize:             1000,
		HeartbeatInterval:       20 * time.Second,
		ShutdownGrace:           5 * time.Second,
	}
}

// partSize is the size of the parts of a large message, in bytes. A log should
// hold two.
func (o *Options) partSize() int { return int(min(pipe.DefaultPart, o.Sessions.LogSize/2)) }

// What no option changes.
const (
	// Fixed windows: grpc-go's own estimate costs a ping per burst, and a small
	// window costs throughput.
	streamWindow     = 128 << 10
	connectionWindow = 4 << 20
	// maxRequest holds one part of a message, or the arguments and environment
	// of a process. Decoding can take 40 times what is on the wire, so it is no
	// larger than it has to be.
	maxRequest    = 1 << 20
	maxHeaderList = 16 << 10
	// connectTimeout bounds how long a peer may be silent before HTTP/2 begins.
	connectTimeout = 10 * time.Second
)

// Server serves a registry of sessions. Make one with [New]; it serves once.
type Server struct {
	reg      *session.Registry
	opts     atomic.Pointer[Options]
	log      *slog.Logger
	grpc     *grpc.Server
	health   *health.Server
	conns    *connections
	draining chan struct{}  // closed when shutdown begins
	takers   sync.WaitGroup // those who take the requests of streams
}

// New makes a server for reg, which [Server.Serve] closes.
func New(reg *session.Registry, opts Options, log *slog.Logger) *Server {
	s := &Server{
		reg:      reg,
		log:      log,
		health:   health.NewServer(),
		conns:    newConnections(),
		draining: make(chan struct{}),
	}
	s.opts.Store(&opts)
	s.grpc = grpc.NewServer(s.grpcOptions()...)
	pipedv1.RegisterSessionServiceServer(s.grpc, newSessionService(s))
	pipedv1.RegisterPipeServiceServer(s.grpc, newPipeService(s))
	pipedv1.RegisterServerServiceServer(s.grpc, newInfoService(s))
	for name := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING)
	}
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	return s
}

func (s *Server) options() *Options { return s.opts.Load() }

// Configure changes the limits of polls and pages, heartbeats, and the grace of
// the shutdown, for what begins from now on, and what GetServerInfo tells of the
// sessions' limits. The rest of opts is not looked at.
func (s *Server) Configure(opts Options) {
	o := *s.options()
	kernelLogs := o.Sessions.KernelLogs
	o.Sessions = opts.Sessions
	o.Sessions.KernelLogs = kernelLogs
	o.MaxPollEndpoints, o.MaxPageSize = opts.MaxPollEndpoints, opts.MaxPageSize
	o.HeartbeatInterval, o.ShutdownGrace = opts.HeartbeatInterval, opts.ShutdownGrace
	s.opts.Store(&o)
}

//nolint:gosec // the limits are small and not negative
func (s *Server) grpcOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(&peerCredentials{uid: uint32(os.Geteuid()), log: s.log}),
		grpc.MaxConcurrentStreams(uint32(s.options().MaxStreamsPerConnection)),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connectionWindow),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxHeaderListSize(maxHeaderList),
		grpc.ConnectionTimeout(connectTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
	}
}

// Connections returns how many connections are open now, and how many were
// accepted since the start. It may be called at any time.
func (s *Server) Connections() (open int, accepted uint64) { return s.conns.count() }

// Serve serves listeners, which it closes, until ctx is done or one of them
// fails. Then it shuts down: health says NOT_SERVING, the registry closes,
// which ends every session and with it its streams, and gRPC stops, by force
// after the grace; see [Options].LeaveSessions for another way. Serve returns when all of that is done. The end of ctx is
// no error; the failure of a listener is.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	var wg sync.WaitGroup
	failed := make(chan error, len(listeners))
	for _, lis := range listeners {
		wg.Go(func() {
			if err := s.grpc.Serve(trackedListener{lis, s.conns}); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				failed <- err
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
		s.log.Info("shutdown", "reason", context.Cause(ctx))
	case err = <-failed:
		s.log.Info("shutdown", "reason", "a listener failed")
	}
	err = errors.Join(err, s.shutdown(context.WithoutCancel(ctx)))
	wg.Wait()
	return err
}

func (s *Server) shutdown(ctx context.Context) error {
	s.health.Shutdown()
	close(s.draining)
	if s.options().LeaveSessions {
		s.grpc.Stop()
		s.takers.Wait()
		return s.reg.Leave()
	}
	ctx, cancel := context.WithTimeout(ctx, s.options().ShutdownGrace)
	defer cancel()
	err := s.reg.Close(ctx)

	timer := time.NewTimer(s.options().ShutdownGrace)
	defer timer.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	graceful := make(chan struct{})
	wg.Go(func() {
		defer close(graceful)
		s.grpc.GracefulStop()
	})
	select {
	case <-graceful:
	case <-timer.C:
		open, _ := s.conns.count()
		s.log.Warn("streams cut off", "connections", open, "grace", s.options().ShutdownGrace)
		s.conns.closeAll()
		s.grpc.Stop()
	}
	<-graceful
	s.takers.Wait()
	return err
}

// take runs what takes the requests of a stream, beside its handler. The handler
// cannot join it, because only the end of the handler ends the stream.
func (s *Server) take(method string, f func() error) <-chan error {
	taken := make(chan error, 1)
	s.takers.Go(func() {
		defer func() {
			if cause := recover(); cause != nil {
				taken <- s.panicked(method, cause)
			}
		}()
		taken <- f()
	})
	return taken
}

// unary answers a panic of a handler with INTERNAL; the others go on.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = s.panicked(info.FullMethod, cause)
		}
	}()
	return handler(ctx, req)
}

// stream is what unary is, for streams. The streams of foreign services, such
// as a watch on health, know nothing of the registry: shutdown ends their
// context.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = s.panicked(info.FullMethod, cause)
		}
	}()
	if strings.HasPrefix(info.FullMethod, "/piped.") {
		return handler(srv, ss)
	}
	ctx, cancel := context.WithCancel(ss.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		defer cancel()
		select {
		case <-s.draining:
		case <-ctx.Done():
		}
	})
	return handler(srv, &drainedStream{ss, func() context.Context { return ctx }})
}

// drainedStream is a stream with a context of its own.
type drainedStream struct {
	grpc.ServerStream
	context func() context.Context
}

func (d *drainedStream) Context() context.Context { return d.context() }

// errInternal is all that a client is told of a panic.
var errInternal = errors.New("internal error: the log of the daemon says more")

// panicked logs a panic and returns what the client gets, see [Options].Crash.
func (s *Server) panicked(method string, cause any) error {
	s.log.Error("panic in a handler", "method", method, "panic", cause, "stack", string(debug.Stack()))
	if o := s.options(); o != nil && o.Crash {
		panic(cause)
	}
	return reasonError(codes.Internal, "INTERNAL", errInternal, nil)
}
