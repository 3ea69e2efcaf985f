package system

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/keepertest"
	"github.com/piped-dev/piped/server"
	"github.com/piped-dev/piped/session"
)

// serveHere runs the daemon's own packages inside the test, so that goroutines
// can be counted.
func serveHere(t *testing.T) (conn *grpc.ClientConn, stop func()) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "piped-") //nolint:usetesting // the path of a socket has little room
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	opts := server.DefaultOptions()
	link := keepertest.Start(t)
	reg, _, err := session.New(opts.Sessions, link, &keeper.Estate{}, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- server.New(reg, opts, log).Serve(ctx, lis) }()
	if conn, err = connect("unix://" + path); err != nil {
		t.Fatal(err)
	}
	return conn, func() {
		cancel()
		for _, err := range []error{<-served, conn.Close(), os.RemoveAll(dir)} {
			if err != nil {
				t.Error(err)
			}
		}
	}
}

func TestSessionsThatAreRemovedInTheMiddleOfEverythingLeaveNoGoroutine(t *testing.T) {
	conn, stop := serveHere(t)
	warm := newPeer(t, conn)
	warm.remove(warm.create(&pipedv1.ProcessSpec{Args: []string{"/bin/true"}}))
	before := goleak.IgnoreCurrent()
	t.Run("sessions", func(t *testing.T) {
		p := newPeer(t, conn)
		for range 50 {
			name := p.create(sh("sleep 1000"), framed("pipe", "mp"))
			p.recv(&pipedv1.RecvOpen{Endpoint: at(name, "stdio", 1)})
			p.recv(&pipedv1.RecvOpen{Endpoint: at(name, "pipe", 1)})
			p.recv(&pipedv1.RecvOpen{Endpoint: at(name, "stderr", 1), Mode: pipedv1.RecvMode_RECV_MODE_OBSERVE})
			s := p.send(&pipedv1.SendOpen{Endpoint: at(name, "stdio", 1)})
			s.message(1, string(make([]byte, 200<<10))) // more than the kernel takes
			s.acked(position(2, 0))
			p.remove(name)
		}
	})
	goleak.VerifyNone(t, before)
	stop()
}
