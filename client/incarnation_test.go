//go:build linux

package client_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// service creates a session with a process "svc" that says its lines and then repeats
// what it gets.
func service(t *testing.T, c *client.Client, lines int) (session string, e *client.Endpoint) {
	t.Helper()
	session = create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Name: "svc",
		Args: []string{"sh", "-c", fmt.Sprintf("seq %d; exec cat", lines)}}})
	return session, c.Endpoint(client.Ref{Session: session})
}

func restart(t *testing.T, c *client.Client, session string) *pipedv1.Process {
	t.Helper()
	p, err := c.Restart(t.Context(), &pipedv1.RestartProcessRequest{Session: session, Process: "svc",
		Policy: &pipedv1.StopPolicy{CloseGrace: durationpb.New(0)}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// readOn reads up to a line, each once and in order.
func readOn(t *testing.T, r *client.Reader, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		m := next(t, r)
		if string(m.Data) != fmt.Sprint(i) || m.Position.Message != uint64(i) {
			t.Fatalf("message %v is %q, want %d", m.Position, m.Data, i)
		}
		if err := r.Ack(m.After); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReaderStaysWithItsIncarnationOverACut(t *testing.T) {
	direct := dial(t)
	session, _ := service(t, direct, 3000)
	c, p := throughProxy(t)
	e := c.Endpoint(client.Ref{Session: session})
	r := newReader(t, e, client.ReaderOptions{MaxUnackedMessages: 10})
	w := newWriter(t, e, client.WriterOptions{})
	readOn(t, r, 1, 100)
	if p := restart(t, direct, session); p.GetIncarnation() != 2 {
		t.Errorf("the next one is %v", p)
	}
	p.cutAll(false)
	readOn(t, r, 101, 3000)
	if _, err := r.Next(t.Context()); !errors.Is(err, io.EOF) || r.Incarnation() != 1 {
		t.Errorf("the reader of incarnation %d ended with %v", r.Incarnation(), err)
	}
	if err := errors.Join(w.Send(t.Context(), []byte("x")), w.Flush(t.Context())); !errors.Is(err, client.ErrBrokenPipe) && !errors.Is(err, client.ErrEndpointClosed) {
		t.Errorf("the writer into incarnation %d got %v", w.Incarnation(), err)
	}
	closeAll(t, r)
	fresh := newReader(t, e, client.ReaderOptions{})
	readOn(t, fresh, 1, 3000)
	send(t, e, "hello")
	if m := next(t, fresh); string(m.Data) != "hello" || fresh.Incarnation() != 2 || m.Position.Incarnation != 2 {
		t.Errorf("incarnation %d says %q at %+v", fresh.Incarnation(), m.Data, m.Position)
	}
	closeAll(t, fresh)
}

func TestVerifyComparesEachPartyWithItsOwnIncarnation(t *testing.T) {
	c := dial(t)
	session, e := service(t, c, 3)
	first := newReader(t, e, client.ReaderOptions{})
	readOn(t, first, 1, 3)
	restart(t, c, session)
	second := newReader(t, e, client.ReaderOptions{})
	readOn(t, second, 1, 2)
	restart(t, c, session)
	if _, err := first.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("the first ended with %v", err)
	}
	if err := c.Verify(t.Context(), session, "svc", first); err != nil {
		t.Errorf("the first has everything: %v", err)
	}
	if err := c.Verify(t.Context(), session, "svc", second); !errors.Is(err, client.ErrIncomplete) {
		t.Errorf("the second has not: %v", err)
	}
	p, err := c.WaitIncarnation(t.Context(), session, "svc", 1, client.Forever)
	if err != nil || p.GetExit() == nil || p.GetIncarnation() != 1 {
		t.Errorf("the first is %v, %v", p, err)
	}
	_, err = c.Endpoint(client.Ref{Session: session, Incarnation: 9}).NewReader(t.Context(), client.ReaderOptions{})
	if !errors.Is(err, client.ErrIncarnationNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
	closeAll(t, first, second)
}

// TestRestartsGoOnWithTheNextDaemon kills the daemon while a process that fails is
// started again and again: each incarnation is there once, and can be read.
func TestRestartsGoOnWithTheNextDaemon(t *testing.T) {
	c := mortal(t, "--incarnations-kept", "100")
	const last = 40
	starts := filepath.Join(t.TempDir(), "starts")
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Name: "svc",
		Args: []string{"sh", "-c", "echo x >> " + starts + "; echo $$ started; exit 1"}, Stdin: pipedv1.StdioMode_STDIO_MODE_NULL,
		Restart: &pipedv1.RestartPolicy{Mode: pipedv1.RestartPolicy_MODE_ALWAYS, InitialBackoff: durationpb.New(10 * time.Millisecond),
			MaxBackoff: durationpb.New(10 * time.Millisecond), MaxRestarts: last - 1}}})
	stop := killing(t, c, 10*time.Millisecond)
	p, err := c.Wait(t.Context(), session, "svc", client.Forever)
	kills := stop()
	if err != nil {
		t.Fatal(err)
	}
	if p.GetIncarnation() != last || p.GetRestarts() != last-1 || len(p.GetFormer()) != last-1 || p.GetRestartFailure() == "" {
		t.Errorf("after %d kills it is in incarnation %d, after %d restarts, with %d kept: %s", kills, p.GetIncarnation(), p.GetRestarts(),
			len(p.GetFormer()), p.GetRestartFailure())
	}
	if text, err := os.ReadFile(starts); err != nil || strings.Count(string(text), "x") != last {
		t.Errorf("it was started %d times, want %d: %v", strings.Count(string(text), "x"), last, err)
	}
	said := make(map[string]bool)
	for n := uint64(1); n <= last; n++ {
		r := newReader(t, c.Endpoint(client.Ref{Session: session, Pipe: "stdio", Incarnation: n}), client.ReaderOptions{})
		m := next(t, r)
		if said[string(m.Data)] {
			t.Errorf("incarnation %d says %q, as one before", n, m.Data)
		}
		said[string(m.Data)] = true
		if _, err := r.Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("incarnation %d ended with %v", n, err)
		}
		closeAll(t, r)
	}
	t.Logf("kills=%d", kills)
}

// TestRestartIsCarriedOutOnceOverKills asks for restarts while the daemon is killed
// again and again: each call makes exactly one incarnation.
func TestRestartIsCarriedOutOnceOverKills(t *testing.T) {
	c := mortal(t)
	session, e := service(t, c, 1)
	stop := killing(t, c, 50*time.Millisecond)
	for n := uint64(2); n <= 30; n++ {
		p := restart(t, c, session)
		if p.GetIncarnation() != n || p.GetRestarts() != n-1 {
			t.Fatalf("call %d made incarnation %d, restart %d", n-1, p.GetIncarnation(), p.GetRestarts())
		}
		r := newReader(t, e, client.ReaderOptions{})
		readOn(t, r, 1, 1)
		if r.Incarnation() != n {
			t.Errorf("the current one is %d, want %d", r.Incarnation(), n)
		}
		closeAll(t, r)
	}
	wantKills(t, stop)
}

// TestRestartsGoOnWithTheNextKeeper kills the keeper while a process is started again
// and again.
func TestRestartsGoOnWithTheNextKeeper(t *testing.T) {
	c := mortal(t)
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Name: "svc", Args: []string{"sh", "-c", "echo 1; exit 1"},
		Restart: &pipedv1.RestartPolicy{Mode: pipedv1.RestartPolicy_MODE_ALWAYS, InitialBackoff: durationpb.New(10 * time.Millisecond),
			MaxBackoff: durationpb.New(10 * time.Millisecond)}}})
	for kills := range 8 {
		info, err := c.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		before, err := c.Wait(t.Context(), session, "svc", 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(int(info.GetKeeper().GetPid()), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		var now *pipedv1.Process
		if err := until(t.Context(), func() bool {
			now, err = c.Wait(t.Context(), session, "svc", 0)
			return err != nil || now.GetIncarnation() > before.GetIncarnation()+2
		}); err != nil {
			t.Fatalf("after %d kills it stays at %v: %v", kills, now, err)
		}
		if err != nil {
			t.Fatal(err)
		}
		// The next one must be there before it is killed.
		if err := until(t.Context(), func() bool {
			next, err := c.Info(t.Context())
			return err != nil || next.GetKeeper().GetAwaySince() == nil && next.GetKeeper().GetPid() != info.GetKeeper().GetPid()
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.StopProcess(t.Context(), &pipedv1.StopProcessRequest{Session: session, Process: "svc"}); err != nil {
		t.Fatal(err)
	}
	if p, err := c.Wait(t.Context(), session, "svc", client.Forever); err != nil || p.GetState() != pipedv1.Process_STATE_EXITED {
		t.Errorf("stopped, it is %v, %v", p, err)
	}
}
