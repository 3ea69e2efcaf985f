package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/keepertest"
	"github.com/piped-dev/piped/session"
)

// running is a server under test.
type running struct {
	server *Server
	path   string
	stop   context.CancelFunc
	done   chan error // the result of Serve
}

// serveOptions serves with opts at a socket of its own until stop is called or
// the test ends.
func serveOptions(t *testing.T, opts Options) *running {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	link := keepertest.Start(t)
	reg, _, err := session.New(opts.Sessions, link, &keeper.Estate{}, log)
	if err != nil {
		t.Fatal(err)
	}
	lis, path := listenUnix(t)
	r := &running{server: New(reg, opts, log), path: path, done: make(chan error, 1)}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.done <- r.server.Serve(ctx, lis)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return r
}

// connect makes a client of the server.
func (r *running) connect(t *testing.T, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))
	conn, err := grpc.NewClient("unix://"+r.path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// wantEnd waits for Serve to return nil.
func (r *running) wantEnd(t *testing.T, within time.Duration) {
	t.Helper()
	select {
	case err := <-r.done:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(within):
		t.Fatalf("Serve has not ended within %v", within)
	}
}

func TestServerInfoTellsLimitsAndAddresses(t *testing.T) {
	opts := DefaultOptions()
	opts.Version = "v1.2.3"
	opts.Addresses = []string{"unix:///a", "unix:///b"}
	opts.MaxPollEndpoints = 77
	opts.Sessions.LogSize = 1 << 20
	opts.Sessions.KernelLogs = false
	before := time.Now().Add(-time.Second)
	conn := serveOptions(t, opts).connect(t)
	got, err := pipedv1.NewServerServiceClient(conn).GetServerInfo(t.Context(), &pipedv1.GetServerInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if start := got.GetStartTime().AsTime(); start.Before(before) || start.After(time.Now()) {
		t.Errorf("start time %v", start)
	}
	if got.GetLimits().GetMaxSessions() == 0 {
		t.Error("there is room for no session")
	}
	got.StartTime, got.Limits.MaxSessions = nil, 0
	want := &pipedv1.GetServerInfoResponse{
		Version: "v1.2.3",
		Features: []string{"ack/committed", "ack/delivered", "ack/read", "leases", "life", "observe/sent",
			"process/after-exit", "process/attributes", "process/merged", "process/restart", "process/stop", "process/terminal", "session/lease", "session/resources", "stop", "watch", "framing/line", "framing/mp", "framing/raw"},
		Limits: &pipedv1.Limits{
			PartSize: 256 << 10, MaxMessageSize: 1 << 30, LogSize: 1 << 20, TailSize: 64 << 10,
			MaxStreamsPerConnection: 1024, MaxPollEndpoints: 77, HeartbeatInterval: durationpb.New(20 * time.Second),
			EndedRetention: durationpb.New(time.Hour), EndedMax: 1000, MaxPageSize: 1000,
			LeaseDuration: durationpb.New(30 * time.Second), MaxLeaseDuration: durationpb.New(time.Hour), EventsRetained: 1024,
			StopCloseGrace: durationpb.New(2 * time.Second), StopGrace: durationpb.New(5 * time.Second), MaxStopGrace: durationpb.New(24 * time.Hour),
			IncarnationsKept: 3,
		},
		Durability: pipedv1.Durability_DURABILITY_MEMORY,
		Pid:        int32(os.Getpid()),
		Addresses:  []string{"unix:///a", "unix:///b"},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHealthKnowsEachService(t *testing.T) {
	conn := serveOptions(t, DefaultOptions()).connect(t)
	for _, name := range []string{"", "piped.v1.SessionService", "piped.v1.PipeService", "piped.v1.ServerService"} {
		resp, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: name})
		if err != nil || resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", name, resp.GetStatus(), err)
		}
	}
}

func TestReflectionListsTheServices(t *testing.T) {
	conn := serveOptions(t, DefaultOptions()).connect(t)
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}
	if err := errors.Join(stream.Send(ask), stream.CloseSend()); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range resp.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	for _, want := range []string{"piped.v1.SessionService", "piped.v1.PipeService", "piped.v1.ServerService", "grpc.health.v1.Health",
		"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing in %q", want, names)
		}
	}
}

func TestAnotherUserIsRefusedBeforeAnyCall(t *testing.T) {
	r := serveOptions(t, DefaultOptions())
	if err := errors.Join(os.Chmod(filepath.Dir(r.path), 0o755), os.Chmod(r.path, 0o666)); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		return // only root can become somebody else; the credentials have a test for every user
	}
	dial := grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dialAs(ctx, stranger, r.path) })
	_, err := healthpb.NewHealthClient(r.connect(t, dial)).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("another user gets %v, want UNAVAILABLE", err)
	}
	if _, err := healthpb.NewHealthClient(r.connect(t)).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("the own user gets %v", err)
	}
}

func TestWatchOnHealthDoesNotHoldUpTheEnd(t *testing.T) {
	opts := DefaultOptions()
	opts.ShutdownGrace = time.Hour
	r := serveOptions(t, opts)
	watch, err := healthpb.NewHealthClient(r.connect(t)).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := watch.Recv(); err != nil || resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("before: %v, %v", resp.GetStatus(), err)
	}
	r.stop()
	r.wantEnd(t, 20*time.Second)
}

func TestSilentConnectionHoldsUpTheEndOnlyForTheGrace(t *testing.T) {
	opts := DefaultOptions()
	opts.ShutdownGrace = 50 * time.Millisecond
	r := serveOptions(t, opts)
	silent, err := dialAsMyself(r.path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := silent.Close(); err != nil {
			t.Error(err)
		}
	}()
	// Answered, so the one before it was accepted too.
	if _, err := healthpb.NewHealthClient(r.connect(t)).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if open, accepted := r.server.Connections(); open != 2 || accepted != 2 {
		t.Errorf("%d connections of %d, want 2 of 2", open, accepted)
	}
	r.stop()
	r.wantEnd(t, connectTimeout/2)
	if open, _ := r.server.Connections(); open != 0 {
		t.Errorf("%d connections are left", open)
	}
}

func TestFailedListenerEndsServe(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	link := keepertest.Start(t)
	opts := DefaultOptions()
	reg, _, err := session.New(opts.Sessions, link, &keeper.Estate{}, log)
	if err != nil {
		t.Fatal(err)
	}
	s := New(reg, opts, log)
	good, path := listenUnix(t)
	bad, _ := listenUnix(t)
	if err := bad.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), good, bad); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v, want that the listener is closed", err)
	}
	if conn, err := dialAsMyself(path); err == nil {
		t.Error("the other listener still takes connections", conn.Close())
	}
}

func TestRequestThatIsTooLargeIsRefused(t *testing.T) {
	conn := serveOptions(t, DefaultOptions()).connect(t)
	large := &healthpb.HealthCheckRequest{Service: strings.Repeat("x", maxRequest+1)}
	_, err := healthpb.NewHealthClient(conn).Check(t.Context(), large)
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%d bytes: %v, want RESOURCE_EXHAUSTED", maxRequest+1, status.Code(err))
	}
	_, err = healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: strings.Repeat("x", maxRequest-16)})
	if status.Code(err) != codes.NotFound {
		t.Errorf("%d bytes: %v, want NOT_FOUND", maxRequest-16, status.Code(err))
	}
}

func TestPanicOfAHandlerIsInternalAndLogged(t *testing.T) {
	var logged strings.Builder
	s := &Server{log: slog.New(slog.NewTextHandler(&logged, nil)), draining: make(chan struct{})}
	_, unaryErr := s.unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/piped.v1.X/Unary"},
		func(context.Context, any) (any, error) { panic("secret one") })
	streamErr := s.stream(nil, nil, &grpc.StreamServerInfo{FullMethod: "/piped.v1.X/Stream"},
		func(any, grpc.ServerStream) error { panic("secret two") })
	for _, err := range []error{unaryErr, streamErr} {
		st := status.Convert(err)
		if st.Code() != codes.Internal || strings.Contains(st.Message(), "secret") {
			t.Errorf("the client gets %v", err)
		}
		if info, ok := st.Details()[0].(*errdetails.ErrorInfo); !ok || info.GetReason() != "INTERNAL" || info.GetDomain() != "piped" {
			t.Errorf("details %v", st.Details())
		}
	}
	for _, want := range []string{"/piped.v1.X/Unary", "secret one", "/piped.v1.X/Stream", "secret two", "server_test.go"} {
		if !strings.Contains(logged.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
}
