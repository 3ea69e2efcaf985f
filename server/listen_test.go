package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// stranger is a user that is neither root nor, in any likelihood, the one that
// runs the tests.
const stranger = 65534

// listenUnix listens at a short path until the test ends.
func listenUnix(t *testing.T) (net.Listener, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "piped") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s.sock")
	lis, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lis.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return lis, path
}

// dialAs connects to path as user uid, for which the test has to be root. The
// user is changed for one thread only; the kernel takes the credentials of a
// peer from the thread that connects.
func dialAs(ctx context.Context, uid int, path string) (net.Conn, error) {
	runtime.LockOSThread()
	if err := setThreadUser(uid); err != nil {
		return nil, err
	}
	var d net.Dialer
	conn, dialErr := d.DialContext(ctx, "unix", path)
	if err := setThreadUser(0); err != nil {
		return nil, err // the thread stays locked, and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return conn, dialErr
}

func setThreadUser(uid int) error {
	const keep = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
		return os.NewSyscallError("setresuid", errno)
	}
	return nil
}

// connectionOf returns the server's side of a connection that dial makes.
func connectionOf(t *testing.T, dial func(path string) (net.Conn, error)) net.Conn {
	t.Helper()
	lis, path := listenUnix(t)
	if err := errors.Join(os.Chmod(filepath.Dir(path), 0o755), os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	client, err := dial(path)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := trackedListener{lis, newConnections()}.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(client.Close(), conn.Close()); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func dialAsMyself(path string) (net.Conn, error) { return net.Dial("unix", path) }

func TestPeerIsTheUserThatConnected(t *testing.T) {
	conn := connectionOf(t, dialAsMyself)
	info, err := peerOf(conn)
	if err != nil {
		t.Fatal(err)
	}
	if int(info.UID) != os.Geteuid() || int(info.GID) != os.Getegid() || int(info.PID) != os.Getpid() {
		t.Errorf("peer %+v, want the user, group and pid of this process", info)
	}
}

func TestOnlyTheOwnUserAndRootAreLetIn(t *testing.T) {
	me := uint32(os.Geteuid())
	type admission struct {
		name   string
		daemon uint32
		dial   func(path string) (net.Conn, error)
		want   error
	}
	tests := []admission{{"own user", me, dialAsMyself, nil}}
	if me == 0 {
		asStranger := func(path string) (net.Conn, error) { return dialAs(t.Context(), stranger, path) }
		tests = append(tests,
			admission{"another user at root's daemon", 0, asStranger, errPeerRefused},
			admission{"another user at a user's daemon", 1000, asStranger, errPeerRefused},
			admission{"the user of the daemon", stranger, asStranger, nil},
			admission{"root at a user's daemon", 1000, dialAsMyself, nil})
	} else {
		// To a daemon of somebody else, this user is the stranger.
		tests = append(tests,
			admission{"another user at root's daemon", 0, dialAsMyself, errPeerRefused},
			admission{"another user at a user's daemon", me + 1, dialAsMyself, errPeerRefused})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var logged bytes.Buffer
			creds := &peerCredentials{uid: tt.daemon, log: slog.New(slog.NewTextHandler(&logged, nil))}
			conn := connectionOf(t, tt.dial)
			_, info, err := creds.ServerHandshake(conn)
			if !errors.Is(err, tt.want) {
				t.Fatalf("handshake: %v, want %v", err, tt.want)
			}
			if refused := strings.Contains(logged.String(), "connection refused"); refused != (tt.want != nil) {
				t.Errorf("the log says %q", logged.String())
			}
			if _, ok := info.(PeerInfo); ok != (tt.want == nil) {
				t.Errorf("info is %T", info)
			}
		})
	}
}

func TestPeerOfSomethingElseThanASocketIsRefused(t *testing.T) {
	a, b := net.Pipe()
	defer func() {
		if err := errors.Join(a.Close(), b.Close()); err != nil {
			t.Error(err)
		}
	}()
	creds := &peerCredentials{log: slog.New(slog.DiscardHandler)}
	if _, _, err := creds.ServerHandshake(a); err == nil {
		t.Error("an in-memory pipe was let in")
	}
}

func TestConnectionsAreCountedUntilTheyClose(t *testing.T) {
	lis, path := listenUnix(t)
	conns := newConnections()
	tracked := trackedListener{lis, conns}
	var accepted []net.Conn
	for range 3 {
		client, err := dialAsMyself(path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := client.Close(); err != nil {
				t.Error(err)
			}
		}()
		conn, err := tracked.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := conn.(syscall.Conn); !ok {
			t.Errorf("a %T hides its descriptor", conn)
		}
		accepted = append(accepted, conn)
	}
	if err := accepted[0].Close(); err != nil {
		t.Fatal(err)
	}
	if err := accepted[0].Close(); err == nil {
		t.Error("closed twice without an error")
	}
	if open, total := conns.count(); open != 2 || total != 3 {
		t.Errorf("%d open of %d, want 2 of 3", open, total)
	}
	conns.closeAll()
	if open, total := conns.count(); open != 0 || total != 3 {
		t.Errorf("%d open of %d after all were closed, want 0 of 3", open, total)
	}
}
