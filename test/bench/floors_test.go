package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/piped-dev/piped/test/daemon"
)

// The test binary is the other side too: with this variable set it plays a role
// instead of running tests.
const (
	roleVariable   = "PIPED_BENCH_ROLE"
	roleSocketEcho = "socket-echo"
	roleGRPCEcho   = "grpc-echo"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case roleSocketEcho:
		socketEcho()
	case roleGRPCEcho:
		serveGRPCEcho(os.Args[1])
	default:
		daemon.Main(m)
	}
}

func self(tb testing.TB) string {
	tb.Helper()
	path, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// socketEcho returns every byte that comes in on descriptor 3.
func socketEcho() {
	buf := make([]byte, 64<<10)
	for {
		n, err := syscall.Read(3, buf)
		if err != nil || n == 0 {
			return
		}
		for out := buf[:n]; len(out) > 0; {
			n, err := syscall.Write(3, out)
			if err != nil {
				return
			}
			out = out[n:]
		}
	}
}

// start runs the test binary in a role until the end of the test.
func start(tb testing.TB, role string, fd *os.File, args ...string) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), self(tb), args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	if fd != nil {
		cmd.ExtraFiles = []*os.File{fd}
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed, so never nil
	})
}

// socketpairEcho is the floor of the kernel: one write, one read.
func socketpairEcho(tb testing.TB) echo {
	tb.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	far := os.NewFile(uintptr(pair[1]), "far")
	defer func() { _ = far.Close() }()
	near := os.NewFile(uintptr(pair[0]), "near")
	defer func() { _ = near.Close() }()
	conn, err := net.FileConn(near)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	start(tb, roleSocketEcho, far)
	back := make([]byte, messageSize)
	return func(msg []byte) error {
		if _, err := conn.Write(msg); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, back)
		return err
	}
}

const echoMethod = "/bench.Echo/Echo"

var echoService = grpc.ServiceDesc{
	ServiceName: "bench.Echo",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{StreamName: "Echo", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, stream grpc.ServerStream) error {
			for {
				var m wrapperspb.BytesValue
				if err := stream.RecvMsg(&m); err != nil {
					return err
				}
				if err := stream.SendMsg(&m); err != nil {
					return err
				}
			}
		}}},
}

// windows are the same as the daemon's and the client's.
const (
	streamWindow     = 1 << 20
	connectionWindow = 4 << 20
)

func serveGRPCEcho(socket string) {
	lis, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s := grpc.NewServer(grpc.StaticStreamWindowSize(streamWindow), grpc.StaticConnWindowSize(connectionWindow))
	s.RegisterService(&echoService, nil)
	_ = s.Serve(lis) // until it is killed
}

// grpcEcho is the floor of gRPC: one bidirectional stream to another process.
func grpcEcho(tb testing.TB) echo {
	tb.Helper()
	socket := filepath.Join(tb.TempDir(), "s")
	start(tb, roleGRPCEcho, nil, socket)
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(streamWindow), grpc.WithStaticConnWindowSize(connectionWindow),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithCancel(tb.Context())
	tb.Cleanup(cancel)
	stream, err := conn.NewStream(ctx, &echoService.Streams[0], echoMethod, grpc.WaitForReady(true))
	if err != nil {
		tb.Fatal(err)
	}
	return func(msg []byte) error {
		if err := stream.SendMsg(wrapperspb.Bytes(msg)); err != nil {
			return err
		}
		var back wrapperspb.BytesValue
		return stream.RecvMsg(&back)
	}
}
