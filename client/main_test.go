//go:build linux

package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"go.uber.org/goleak"
)

// daemonProgram is the daemon, built once with its keeper beside it; daemonAddr is where one of it listens
// for all tests and examples.
var daemonProgram, daemonAddr string

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("/tmp", "pc")
	if err != nil {
		return failed(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	daemonProgram, daemonAddr = filepath.Join(dir, "piped"), "unix://"+dir+"/s"
	out, err := exec.Command("go", "build", "-o", dir+"/", "github.com/piped-dev/piped/cmd/piped", "github.com/piped-dev/piped/cmd/piped-keeper").CombinedOutput()
	if err != nil {
		return failed(fmt.Errorf("build: %w: %s", err, out))
	}
	stop, err := startDaemon(daemonAddr)
	if err != nil {
		return failed(err)
	}
	code := m.Run()
	if err := stop(os.Interrupt); err != nil && code == 0 {
		return failed(err)
	}
	if err := goleak.Find(); err != nil && code == 0 {
		return failed(err)
	}
	return code
}

func failed(err error) int {
	_, _ = fmt.Fprintln(os.Stderr, err)
	return 1
}

// startDaemon starts a daemon and waits until it answers. stop ends it with a
// signal and waits for its exit; one that was killed is not the one that serves now.
func startDaemon(addr string, args ...string) (stop func(os.Signal) error, err error) {
	cmd := exec.Command(daemonProgram, append([]string{"--listen", addr}, args...)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func(sig os.Signal) error { return errors.Join(cmd.Process.Signal(sig), cmd.Wait()) }
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := until(ctx, func() bool {
		_, err := client.FindAddress(ctx, addr)
		return err == nil
	}); err != nil {
		return nil, errors.Join(err, stop(os.Kill))
	}
	return stop, nil
}

// kill kills the daemon alone with SIGKILL, and waits until the next one, which the
// keeper starts, has answered. It returns how it is.
func kill(ctx context.Context, c *client.Client) (*pipedv1.GetServerInfoResponse, error) {
	before, err := c.Info(ctx)
	if err != nil {
		return nil, err
	}
	if err := syscall.Kill(int(before.GetPid()), syscall.SIGKILL); err != nil {
		return nil, err
	}
	for {
		after, err := c.Info(ctx)
		if err != nil || after.GetPid() != before.GetPid() {
			return after, err
		}
	}
}

// killBoth kills the daemon and its keeper at the same time, so that nobody is left.
func killBoth(ctx context.Context, c *client.Client) error {
	info, err := c.Info(ctx)
	if err != nil {
		return err
	}
	front, keeper := int(info.GetPid()), int(info.GetKeeper().GetPid())
	// Stopped, it cannot look for another keeper.
	return errors.Join(syscall.Kill(front, syscall.SIGSTOP), syscall.Kill(keeper, syscall.SIGKILL), syscall.Kill(front, syscall.SIGKILL))
}

// until waits for a condition, or for ctx.
func until(ctx context.Context, condition func() bool) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// dial returns a client of the daemon of all tests.
func dial(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), daemonAddr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// newPipe returns both ends of a bare pipe in a session of its own.
func newPipe(t testing.TB, c *client.Client, framing string) (one, two *client.Endpoint) {
	t.Helper()
	f := &pipedv1.Framing{Name: framing}
	session := create(t, c, &pipedv1.CreateSessionRequest{Pipes: []*pipedv1.PipeSpec{{FramingIn: f, FramingOut: f}}})
	return c.Endpoint(client.Ref{Session: session, End: 1}), c.Endpoint(client.Ref{Session: session, End: 2})
}

// create creates a session that is deleted after the test.
func create(t testing.TB, c *client.Client, req *pipedv1.CreateSessionRequest) string {
	t.Helper()
	session, err := c.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := c.Delete(context.WithoutCancel(t.Context()), session.GetUid(), true)
		if err != nil && !errors.Is(err, client.ErrSessionNotFound) && !errors.Is(err, client.ErrUnavailable) {
			t.Error(err)
		}
	})
	return session.GetName()
}

func newWriter(t testing.TB, e *client.Endpoint, opts client.WriterOptions) *client.Writer {
	t.Helper()
	w, err := e.NewWriter(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func newReader(t testing.TB, e *client.Endpoint, opts client.ReaderOptions) *client.Reader {
	t.Helper()
	r, err := e.NewReader(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func closeAll(t testing.TB, closers ...interface{ Close(context.Context) error }) {
	t.Helper()
	for _, c := range closers {
		if err := c.Close(t.Context()); err != nil {
			t.Errorf("close %T: %v", c, err)
		}
	}
}
