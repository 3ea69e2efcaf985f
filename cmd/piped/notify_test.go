package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A manager is the socket of a service manager.
type manager struct {
	t    *testing.T
	path string
	conn *net.UnixConn
}

// startManager listens, and makes this process one that is managed.
func startManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{t: t, path: filepath.Join(socketDirectory(t), "notify")}
	m.listen()
	t.Setenv("NOTIFY_SOCKET", m.path)
	return m
}

func (m *manager) listen() {
	m.t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		m.t.Fatal(err)
	}
	m.conn = conn
	m.t.Cleanup(func() { _ = conn.Close() })
}

// hear returns the next message.
func (m *manager) hear() string {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		m.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := m.conn.Read(buf)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(buf[:n])
}

// startNotifier makes a notifier that the end of the test closes.
func startNotifier(t *testing.T, log *slog.Logger) *notifier {
	t.Helper()
	n := newNotifier(log)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func TestServiceManagerHearsOfEachStep(t *testing.T) {
	m := startManager(t)
	n := startNotifier(t, slog.New(slog.DiscardHandler))
	n.ready("serving")
	n.status("busy")
	n.reloading()
	n.stopping("ending")
	for _, want := range []string{"READY=1\nSTATUS=serving", "STATUS=busy", "RELOADING=1\nMONOTONIC_USEC=", "STOPPING=1\nSTATUS=ending"} {
		if got := m.hear(); !strings.HasPrefix(got, want) {
			t.Errorf("the service manager hears %q, want %q", got, want)
		}
	}
	if v, ok := os.LookupEnv("NOTIFY_SOCKET"); ok {
		t.Errorf("NOTIFY_SOCKET is still %q: a process started from here would inherit it", v)
	}
}

func TestServiceManagerThatBeganAnewIsFoundAgain(t *testing.T) {
	m := startManager(t)
	n := startNotifier(t, slog.New(slog.DiscardHandler))
	if err := m.conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(m.path); err != nil {
		t.Fatal(err)
	}
	m.listen()
	n.status("still here")
	if got, want := m.hear(), "STATUS=still here"; got != want {
		t.Errorf("the service manager hears %q, want %q", got, want)
	}
}

func TestMissingServiceManagerIsNoTrouble(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "1000")
	n := startNotifier(t, slog.New(slog.DiscardHandler))
	n.ready("serving")
	n.watch(t.Context(), func() bool { t.Error("asked for health that nobody wants to know"); return true })
	if n.managed() {
		t.Error("managed, without a service manager")
	}

	t.Setenv("NOTIFY_SOCKET", filepath.Join(socketDirectory(t), "gone"))
	var out bytes.Buffer
	n = startNotifier(t, slog.New(slog.NewTextHandler(&out, nil)))
	n.ready("serving")
	n.status("serving")
	if got := strings.Count(out.String(), "service manager not told"); got != 1 {
		t.Errorf("it is logged %d times, want once:\n%s", got, &out)
	}
}

// TestWatchdogHearsOnlyOfHealth has healthy say no at first, so that what is heard
// first has to be heard after that.
func TestWatchdogHearsOnlyOfHealth(t *testing.T) {
	m := startManager(t)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	n := startNotifier(t, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	asked := 0
	go func() {
		defer close(done)
		n.watch(ctx, func() bool {
			if asked++; asked == 3 {
				n.status("healthy from now on")
			}
			return asked >= 3
		})
	}()
	for _, want := range []string{"STATUS=healthy from now on", "WATCHDOG=1", "WATCHDOG=1"} {
		if got := m.hear(); got != want {
			t.Errorf("the service manager hears %q, want %q", got, want)
		}
	}
	cancel()
	<-done
	if asked < 4 {
		t.Errorf("asked for health %d times, want each time anew", asked)
	}
}

func TestWatchdogOfAnotherProcessIsNotFed(t *testing.T) {
	startManager(t)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", "1")
	if n := startNotifier(t, slog.New(slog.DiscardHandler)); n.every != 0 {
		t.Errorf("the watchdog is told every %v, and is another's", n.every)
	}
}
