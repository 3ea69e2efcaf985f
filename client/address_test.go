//go:build unix

package client_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/piped-dev/piped/client"
	"google.golang.org/grpc"
)

func TestSocketPathTakesUnixAddresses(t *testing.T) {
	for addr, want := range map[string]string{
		"unix:///run/piped.sock": "/run/piped.sock",
		"unix:/run/piped.sock":   "/run/piped.sock",
		"unix:piped.sock":        "piped.sock",
		"/run/piped.sock":        "/run/piped.sock",
	} {
		if got, err := client.SocketPath(addr); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", addr, got, err, want)
		}
	}
}

func TestSocketPathRefusesEverythingElse(t *testing.T) {
	for addr, want := range map[string]string{
		"":                                       "empty",
		"unix:":                                  "absolute path",
		"unix://":                                "absolute path",
		"unix://piped.sock":                      "absolute path",
		"localhost:7433":                         "ssh -L",
		"10.0.0.1:7433":                          "ssh -L",
		"dns:///host:1":                          "ssh -L",
		"piped.sock":                             "not a unix socket",
		"unix:///" + strings.Repeat("long/", 30): "at most",
	} {
		if path, err := client.SocketPath(addr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v; want an error with %q", addr, path, err, want)
		}
	}
	if _, err := client.Dial(t.Context(), "localhost:7433"); err == nil || !strings.Contains(err.Error(), "ssh -L") {
		t.Errorf("Dial of a TCP address: got %v, want an error that names ssh -L", err)
	}
}

func TestCandidatesAreTheFlagThenTheVariableThenTheUsualPlaces(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	t.Setenv(client.AddressVariable, "")
	usual := []string{"unix:///run/user/7/piped/piped.sock", "unix:///run/piped/piped.sock"}
	if diff := cmp.Diff(usual, client.Candidates("")); diff != "" {
		t.Errorf("without anything (-want +got):\n%s", diff)
	}
	t.Setenv("XDG_RUNTIME_DIR", "")
	usual[0] = fmt.Sprintf("unix:///tmp/piped-%d/piped.sock", os.Getuid())
	if diff := cmp.Diff(usual, client.Candidates("")); diff != "" {
		t.Errorf("without XDG_RUNTIME_DIR (-want +got):\n%s", diff)
	}
	t.Setenv(client.AddressVariable, "unix:///var")
	if diff := cmp.Diff([]string{"unix:///var"}, client.Candidates("")); diff != "" {
		t.Errorf("with the variable (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"unix:///flag"}, client.Candidates("unix:///flag")); diff != "" {
		t.Errorf("with the flag (-want +got):\n%s", diff)
	}
}

func TestFindAddressReturnsTheFirstThatAnswers(t *testing.T) {
	dir := shortDir(t)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	t.Setenv(client.AddressVariable, "")
	listen(t, filepath.Join(dir, "piped", "piped.sock"))
	got, err := client.FindAddress(t.Context(), "")
	if want := "unix://" + dir + "/piped/piped.sock"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestFindAddressTriesOnlyAnExplicitOne(t *testing.T) {
	dir := shortDir(t)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	listen(t, filepath.Join(dir, "piped", "piped.sock"))
	explicit := "unix://" + dir + "/none.sock"
	_, err := client.FindAddress(t.Context(), explicit)
	none, ok := errors.AsType[*client.NoServerError](err)
	if !ok {
		t.Fatalf("got %v, want a NoServerError", err)
	}
	if diff := cmp.Diff([]string{explicit}, none.Addresses); diff != "" {
		t.Errorf("tried (-want +got):\n%s", diff)
	}
	if !errors.Is(err, client.ErrUnavailable) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v is not ErrUnavailable and ErrNotExist", err)
	}
}

func TestDialSaysThatNobodyAnswers(t *testing.T) {
	path := filepath.Join(shortDir(t), "none.sock")
	_, err := client.Dial(t.Context(), "unix://"+path)
	if !errors.Is(err, client.ErrUnavailable) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want ErrUnavailable with the path", err)
	}
}

func TestDialSaysThatItWasRefused(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var refusing sync.WaitGroup
	refusing.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	})
	defer refusing.Wait()
	defer func() { _ = l.Close() }()
	_, err = client.Dial(t.Context(), "unix://"+path)
	if !errors.Is(err, client.ErrUnavailable) || !errors.Is(err, client.ErrRefused) {
		t.Errorf("got %v, want ErrUnavailable and ErrRefused", err)
	}
}

func TestDialOfADaemonThatHangsSaysThatItDoesNotAnswer(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	listen(t, path) // and nobody accepts
	_, err := client.Dial(t.Context(), "unix://"+path, grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 500 * time.Millisecond}))
	if !errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrRefused) || !strings.Contains(err.Error(), "did not answer") {
		t.Errorf("got %v, want ErrUnavailable because it did not answer", err)
	}
}

func listen(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
}

// shortDir returns a directory whose sockets have paths that are short enough.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pc") //nolint:usetesting // the path of a socket has little room
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
