package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// asDaemon makes the test binary be piped.
const asDaemon = "RUN_AS_PIPED"

// patience is how long a test waits for what has to come.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) != "" {
		os.Exit(int(run(os.Args[1:], os.Stdout, os.Stderr)))
	}
	if signal.Ignored(syscall.SIGINT) {
		// The daemons of the tests would inherit that, and ignore it as well.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGINT)
	}
	dir, err := buildKeeper()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// keeperBuilt is the keeper that the daemons of the tests start.
var keeperBuilt string

// buildKeeper builds it, in a directory that the caller removes.
func buildKeeper() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "piped-keeper-"); err != nil {
		return "", err
	}
	keeperBuilt = filepath.Join(dir, keeperName)
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", keeperBuilt, "github.com/piped-dev/piped/cmd/piped-keeper")
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("building the keeper: %w\n%s", err, out)
	}
	return dir, nil
}

// daemon is a piped of its own process.
type daemon struct {
	t      *testing.T
	cmd    *exec.Cmd
	exited chan struct{} // closed when err and log are final
	err    error
	log    logFile
}

// logFile is a log that daemons and keepers write which outlive each other.
type logFile struct{ *os.File }

func (f logFile) String() string {
	text, err := os.ReadFile(f.Name())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// syncBuffer is a buffer that may be read while it is written.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// startDaemon starts piped with args; the end of the test ends it, and its keeper
// with it.
func startDaemon(t *testing.T, args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, cmd: exec.Command(os.Args[0], args...), exited: make(chan struct{})}
	d.cmd.Env = append(os.Environ(), asDaemon+"=1", "PIPED_KEEPER_PROGRAM="+keeperBuilt)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	d.log, d.cmd.Stderr = logFile{log}, log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.exited)
		d.err = d.cmd.Wait()
	}()
	t.Cleanup(func() {
		if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		_ = d.wait()
	})
	return d
}

func (d *daemon) signal(sig syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		d.t.Fatal(err)
	}
}

// wait returns how the daemon ended.
func (d *daemon) wait() error {
	d.t.Helper()
	select {
	case <-d.exited:
		return d.err
	case <-time.After(patience):
		d.t.Fatalf("still running; its log:\n%s", d.log.String())
		return nil
	}
}

// wantExit checks the exit status.
func (d *daemon) wantExit(code int) {
	d.t.Helper()
	err := d.wait()
	if got := d.cmd.ProcessState.ExitCode(); got != code {
		d.t.Errorf("exit status %d (%v), want %d; its log:\n%s", got, err, code, d.log.String())
	}
}

// dial connects to path and waits until health there says SERVING.
func (d *daemon) dial(path string) *grpc.ClientConn {
	d.t.Helper()
	conn, err := grpc.NewClient("unix://"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond}, MinConnectTimeout: patience}))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		if err := conn.Close(); err != nil && status.Code(err) != codes.Canceled {
			d.t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil || resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		d.t.Fatalf("health of the daemon: %v, %v; its log:\n%s", resp, err, d.log.String())
	}
	return conn
}

func TestDaemonServesAndEndsInOrderOnASignal(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			dir := socketDirectory(t)
			first, second := dir+"/a.sock", dir+"/b.sock"
			d := startDaemon(t, "--listen", "unix://"+first, "--listen", "unix://"+second, "--log-size", "6MiB")
			d.dial(second)
			conn := d.dial(first)
			info, err := pipedv1.NewServerServiceClient(conn).GetServerInfo(t.Context(), &pipedv1.GetServerInfoRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if got, want := int(info.GetPid()), d.cmd.Process.Pid; got != want {
				t.Errorf("pid %d, want %d", got, want)
			}
			if got := info.GetLimits().GetLogSize(); got != 6<<20 {
				t.Errorf("log size %d, want 6 MiB", got)
			}
			if got := strings.Join(info.GetAddresses(), " "); got != "unix://"+first+" unix://"+second {
				t.Errorf("addresses %q", got)
			}
			d.signal(sig)
			d.wantExit(0)
			for _, path := range []string{first, second} {
				if _, err := os.Lstat(path); !os.IsNotExist(err) {
					t.Errorf("socket %s is still there: %v", path, err)
				}
			}
			for _, want := range []string{"piped started", "shutdown", "piped ended", sig.String()} {
				if !strings.Contains(d.log.String(), want) {
					t.Errorf("the log does not say %q:\n%s", want, d.log.String())
				}
			}
		})
	}
}

func TestSecondDaemonIsRefusedAndTheFirstGoesOn(t *testing.T) {
	path := socketDirectory(t) + "/s.sock"
	first := startDaemon(t, "--listen", "unix://"+path)
	conn := first.dial(path)
	second := startDaemon(t, "--listen", "unix://"+path)
	second.wantExit(1)
	if want := fmt.Sprintf("pid %d", first.cmd.Process.Pid); !strings.Contains(second.log.String(), want) {
		t.Errorf("the second does not say %q:\n%s", want, second.log.String())
	}
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("the first does not answer any more: %v", err)
	}
}

func TestKilledDaemonIsStartedAgainAndKeepsItsSessions(t *testing.T) {
	path := socketDirectory(t) + "/s.sock"
	d := startDaemon(t, "--listen", "unix://"+path)
	child := createSession(t, d.dial(path), "sleep", "1000")
	d.signal(syscall.SIGKILL)
	if err := d.wait(); err == nil {
		t.Fatal("killed, and exit status 0")
	}
	conn := d.dial(path) // of the next one
	pid := lockHolder(t, path)
	defer func() {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		awaitGone(t, pid)
	}()
	if pid == d.cmd.Process.Pid {
		t.Errorf("the lock names %d, which is dead", pid)
	}
	s, err := pipedv1.NewSessionServiceClient(conn).GetSession(t.Context(), &pipedv1.GetSessionRequest{Session: "s"})
	if err != nil || int(s.GetSession().GetProcesses()[0].GetPid()) != child {
		t.Errorf("the session is now %v, %v; want the child %d; the log:\n%s", s, err, child, d.log.String())
	}
}

func TestSessionsThatAreLeftGoOnInTheNextDaemon(t *testing.T) {
	path := socketDirectory(t) + "/s.sock"
	args := []string{"--listen", "unix://" + path, "--sessions-at-exit", "leave"}
	first := startDaemon(t, args...)
	child := createSession(t, first.dial(path), "sleep", "1000")
	first.signal(syscall.SIGTERM)
	first.wantExit(0)
	if err := syscall.Kill(child, 0); err != nil {
		t.Fatalf("the child is gone: %v", err)
	}
	second := startDaemon(t, "--listen", "unix://"+path)
	s, err := pipedv1.NewSessionServiceClient(second.dial(path)).GetSession(t.Context(), &pipedv1.GetSessionRequest{Session: "s"})
	if err != nil || int(s.GetSession().GetProcesses()[0].GetPid()) != child {
		t.Errorf("the session is now %v, %v; want the child %d; the log:\n%s", s, err, child, second.log.String())
	}
}

// lockHolder returns the process id in the lock of a socket.
func lockHolder(t *testing.T, path string) (pid int) {
	t.Helper()
	text, err := os.ReadFile(path + ".lock")
	if err == nil {
		_, err = fmt.Sscan(string(text), &pid)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// awaitGone waits for the end of a process that is not a child.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); syscall.Kill(pid, 0) == nil; {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("process %d is still there", pid)
		}
	}
}

func TestDaemonListensAtTheAddressOfItsUser(t *testing.T) {
	dir := socketDirectory(t)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	d := startDaemon(t)
	d.dial(dir + "/piped/piped.sock")
}

func TestSecondSignalEndsTheDaemonAtOnce(t *testing.T) {
	path := socketDirectory(t) + "/s.sock"
	d := startDaemon(t, "--listen", "unix://"+path, "--shutdown-grace", "1h")
	d.dial(path)
	// A connection that says nothing holds up the end.
	silent, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := silent.Close(); err != nil {
			t.Error(err)
		}
	}()
	// The daemon speaks first: from then on it has the connection.
	if err := silent.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := silent.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		select {
		case <-d.exited:
			running = false
		case <-tick.C:
		}
	}
	if status, ok := d.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("ended with %v, want by SIGTERM", d.cmd.ProcessState)
	}
}

func TestIdleDaemonEndsByItself(t *testing.T) {
	path := socketDirectory(t) + "/s.sock"
	d := startDaemon(t, "--listen", "unix://"+path, "--idle-exit", "100ms")
	d.wantExit(0)
	if !strings.Contains(d.log.String(), "idle for 100ms") {
		t.Errorf("the log does not say why:\n%s", d.log.String())
	}
}

// createSession makes the session s with a process of its own, and returns the
// pid of that.
func createSession(t *testing.T, conn *grpc.ClientConn, args ...string) int {
	t.Helper()
	resp, err := pipedv1.NewSessionServiceClient(conn).CreateSession(t.Context(), &pipedv1.CreateSessionRequest{
		Name:    "s",
		Process: &pipedv1.ProcessSpec{Args: args},
	})
	if err != nil {
		t.Fatal(err)
	}
	return int(resp.GetSession().GetProcesses()[0].GetPid())
}

func TestSessionKeepsAnIdleDaemonUntilItIsDeleted(t *testing.T) {
	const idle = time.Second
	path := socketDirectory(t) + "/s.sock"
	d := startDaemon(t, "--listen", "unix://"+path, "--idle-exit", idle.String())
	conn := d.dial(path)
	createSession(t, conn, "true") // it has ended soon, and is kept
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.exited:
		t.Fatalf("ended although there is a session; its log:\n%s", d.log.String())
	case <-time.After(2 * idle):
	}
	conn = d.dial(path)
	_, err := pipedv1.NewSessionServiceClient(conn).DeleteSession(t.Context(), &pipedv1.DeleteSessionRequest{Session: "s", Force: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	d.wantExit(0)
}

func TestDaemonEndsItsSessionsAndTheirStreams(t *testing.T) {
	tests := []struct {
		name  string
		grace time.Duration
		args  []string
	}{
		{"child that heeds TERM", time.Hour, []string{"sleep", "1000"}},
		{"child that ignores TERM", 100 * time.Millisecond, []string{"sh", "-c", "trap '' TERM; echo ready; exec sleep 1000"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := socketDirectory(t) + "/s.sock"
			d := startDaemon(t, "--listen", "unix://"+path, "--shutdown-grace", tt.grace.String())
			conn := d.dial(path)
			pid := createSession(t, conn, tt.args...)
			stream, err := pipedv1.NewPipeServiceClient(conn).Recv(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			open := &pipedv1.RecvOpen{Endpoint: &pipedv1.EndpointRef{Session: "s"}, AutoAck: true}
			if err := stream.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Open{Open: open}}); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
			d.signal(syscall.SIGTERM)
			for err == nil {
				_, err = stream.Recv()
			}
			d.wantExit(0)
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("the child is still there: %v", err)
			}
		})
	}
}

func TestDaemonOutlivesTheReaderOfItsLog(t *testing.T) {
	path := socketDirectory(t) + "/s.sock"
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, cmd: exec.Command(os.Args[0], "--listen", "unix://"+path), exited: make(chan struct{}), log: logFile{w}}
	d.cmd.Env = append(os.Environ(), asDaemon+"=1", "PIPED_KEEPER_PROGRAM="+keeperBuilt)
	d.cmd.Stderr = w
	if err := errors.Join(d.cmd.Start(), w.Close(), r.Close()); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.exited)
		d.err = d.cmd.Wait()
	}()
	d.dial(path)
	d.signal(syscall.SIGTERM)
	d.wantExit(0)
}

func TestIdlenessIsTimeWithoutSessionsAndConnections(t *testing.T) {
	tests := []struct {
		name string
		look func(since time.Duration) activity
		want time.Duration // 0: never
	}{
		{"nothing ever", func(time.Duration) activity { return activity{} }, 10 * time.Second},
		{"busy for 25 s", func(d time.Duration) activity { return activity{accepted: 1, now: d < 25*time.Second} }, 35 * time.Second},
		{"busy for ever", func(time.Duration) activity { return activity{now: true} }, 0},
		{"a short connection every 9 s", func(d time.Duration) activity {
			return activity{accepted: uint64(d / (9 * time.Second))}
		}, 0},
		{"one short connection", func(d time.Duration) activity {
			if d < 5*time.Second {
				return activity{}
			}
			return activity{accepted: 1}
		}, 15 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				start := time.Now()
				idle := untilIdle(ctx, 10*time.Second, func() activity { return tt.look(time.Since(start)) })
				took := time.Since(start)
				switch {
				case idle != (tt.want != 0):
					t.Errorf("idle: %v after %v", idle, took)
				case idle && (took < tt.want-2*time.Second || took > tt.want+2*time.Second):
					t.Errorf("idle after %v, want %v", took, tt.want)
				}
			})
		})
	}
}
