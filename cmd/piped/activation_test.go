package main

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// handedIn returns a copy of the descriptor of a socket, for adopt to close.
func handedIn(t *testing.T, socket interface{ File() (*os.File, error) }) int {
	t.Helper()
	file, err := socket.File()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// listenUnix opens a socket until the end of the test.
func listenUnix(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	return lis
}

func TestHandedInSocketOutlivesItsListener(t *testing.T) {
	path := filepath.Join(socketDirectory(t), "s.sock")
	owner := listenUnix(t, path)
	for range 2 {
		lis, err := adopt(handedIn(t, owner), "piped")
		if err != nil {
			t.Fatal(err)
		}
		if got, want := addresses([]net.Listener{lis}), "unix://"+path; !slices.Equal(got, []string{want}) {
			t.Errorf("addresses %q, want %q", got, want)
		}
		// Who connects before somebody accepts waits, and is served by the next one.
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatalf("no queue: %v", err)
		}
		if served, err := lis.Accept(); err != nil {
			t.Error(err)
		} else if err := served.Close(); err != nil {
			t.Error(err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if err := lis.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket of the service manager is gone: %v", err)
	}
}

func TestOtherDescriptorsAreRefused(t *testing.T) {
	dir := socketDirectory(t)
	stream := listenUnix(t, dir+"/stream")
	packet, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: dir + "/packet", Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = packet.Close() }()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tcp.Close() }()
	conn, err := net.Dial("unix", dir+"/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	tests := []struct {
		what   string
		socket interface{ File() (*os.File, error) }
		name   string
		want   string
	}{
		{"a name that nobody knows", stream, "metrics", `named "metrics": want FileDescriptorName=piped`},
		{"packets", packet, "piped", "want ListenStream="},
		{"TCP", tcp.(*net.TCPListener), "piped", "want ListenStream="},
		{"a connection", conn.(*net.UnixConn), "piped", "Accept=no"},
	}
	for _, tt := range tests {
		lis, err := adopt(handedIn(t, tt.socket), tt.name)
		if err == nil {
			t.Errorf("%s: taken as a listener (%v)", tt.what, lis.Close())
		} else if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %q does not say %q", tt.what, err, tt.want)
		}
	}
}

func TestNobodyHandsIn(t *testing.T) {
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "1")
	listeners, err := activated()
	if err != nil || listeners != nil {
		t.Errorf("took %v, %v: they are another process's", listeners, err)
	}
	if _, ok := os.LookupEnv("LISTEN_FDS"); ok {
		t.Error("the variables are still there")
	}
}
