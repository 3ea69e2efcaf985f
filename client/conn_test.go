//go:build linux

package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"golang.org/x/net/nettest"
)

func TestConnIsANetConn(t *testing.T) {
	c := dial(t)
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		one, two := newPipe(t, c, "raw")
		c1, err := one.Conn(t.Context())
		if err != nil {
			return nil, nil, nil, err
		}
		c2, err := two.Conn(t.Context())
		if err != nil {
			return nil, nil, nil, errors.Join(err, c1.Close())
		}
		return c1, c2, func() {
			if err := errors.Join(c1.Close(), c2.Close()); err != nil {
				t.Error(err)
			}
		}, nil
	})
}

// rawProcess starts a program with raw standard streams and returns it as a
// connection.
func rawProcess(t *testing.T, c *client.Client, args ...string) (session string, conn *client.Conn) {
	t.Helper()
	raw := &pipedv1.Framing{Name: "raw"}
	session = create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
		Args: args, StdioPipe: &pipedv1.PipeSpec{FramingIn: raw, FramingOut: raw},
	}})
	return session, newConn(t, c.Endpoint(client.Ref{Session: session}))
}

// newConn opens a connection that is closed after the test.
func newConn(t *testing.T, e *client.Endpoint) *client.Conn {
	t.Helper()
	conn, err := e.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// soon bounds how long a test waits for what must come.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestConnCarriesManyBytesAndHalfCloses(t *testing.T) {
	_, conn := rawProcess(t, dial(t), "cat")
	want := make([]byte, 20<<20+1)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(want)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if n, err := conn.Write(want); n != len(want) || err != nil {
			t.Errorf("Write: %d, %v", n, err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Error(err)
		}
		if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write after CloseWrite: got %v, want net.ErrClosed", err)
		}
	})
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(want))
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF { //nolint:errorlint // io.Reader promises io.EOF itself
		t.Errorf("after the end: got %d, %v", n, err)
	}
}

func TestConnCloseHandsOverWhatWasWritten(t *testing.T) {
	c := dial(t)
	// The program takes nothing before it is told to.
	session, conn := rawProcess(t, c, "sh", "-c", "trap 'wc -c >&2; exit' USR1; echo ready; while :; do sleep 0.02; done")
	if _, err := io.ReadFull(conn, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(make([]byte, 1_000_000)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Signal(t.Context(), session, "", "USR1"); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, c.Endpoint(client.Ref{Session: session, Pipe: "stderr"}), 1); got != "1000000" {
		t.Errorf("the program read %s bytes, want 1000000", got)
	}
}

func TestConnCloseReleasesEveryone(t *testing.T) {
	c := dial(t)
	name, conn := rawProcess(t, c, "sleep", "60")
	const callers = 4
	errs := make(chan error, 2*callers)
	for range callers {
		go func() {
			_, err := conn.Read(make([]byte, 10))
			errs <- err
		}()
		go func() {
			// More than all the buffers hold.
			_, err := conn.Write(make([]byte, 8<<20))
			errs <- err
		}()
	}
	// Only then is it certain that a Write waits.
	if err := until(soon(t), func() bool {
		session, err := c.Get(t.Context(), name)
		return err == nil && session.GetPipes()[0].GetEndpoints()[0].GetOutbox().GetBlockedSince() != nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 * callers {
		if err := <-errs; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want net.ErrClosed", err)
		}
	}
	if err := conn.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("SetDeadline after Close: got %v, want net.ErrClosed", err)
	}
}

func TestConnAcknowledgesWhatReadReturned(t *testing.T) {
	c := dial(t)
	session, conn := rawProcess(t, c, "sh", "-c", "printf abcdef; read x")
	buf := make([]byte, 4)
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "abcd" {
		t.Fatalf("got %q, %v", buf, err)
	}
	if err := until(soon(t), func() bool {
		info, err := c.Get(t.Context(), session)
		return err == nil && info.GetPipes()[0].GetEndpoints()[0].GetInbox().GetQueuedBytes() == 2
	}); err != nil {
		t.Errorf("what was read was not acknowledged, alone: %v", err)
	}
}

func TestConnTimesOutAndGoesOn(t *testing.T) {
	_, conn := rawProcess(t, dial(t), "cat")
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Read(make([]byte, 1))
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want a timeout", err)
	}
	// Writing has a deadline of its own.
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 9)
	if n, err := conn.Read(buf); n != 1 || err != nil || buf[0] != 'x' {
		t.Errorf("got %q, %v; want x", buf[:n], err)
	}
}

func TestConnOfOneDirectionRefusesTheOther(t *testing.T) {
	c := dial(t)
	session := create(t, c, &pipedv1.CreateSessionRequest{Pipes: []*pipedv1.PipeSpec{{
		Kind: pipedv1.Pipe_KIND_ONE_WAY, FramingIn: &pipedv1.Framing{Name: "raw"},
	}}})
	in := newConn(t, c.Endpoint(client.Ref{Session: session}))
	out := newConn(t, c.Endpoint(client.Ref{Session: session, End: 2}))
	if _, err := in.Write([]byte("x")); !errors.Is(err, client.ErrWrongDirection) {
		t.Errorf("Write: got %v, want ErrWrongDirection", err)
	}
	if err := in.CloseWrite(); !errors.Is(err, client.ErrWrongDirection) {
		t.Errorf("CloseWrite: got %v, want ErrWrongDirection", err)
	}
	if _, err := out.Read(make([]byte, 1)); !errors.Is(err, client.ErrWrongDirection) {
		t.Errorf("Read: got %v, want ErrWrongDirection", err)
	}
	if _, err := out.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if err := out.Close(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(in); string(got) != "x" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestConnStillReadsWhatAProgramLeft(t *testing.T) {
	c := dial(t)
	raw := &pipedv1.Framing{Name: "raw"}
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
		Args: []string{"echo", "bye"}, StdioPipe: &pipedv1.PipeSpec{FramingIn: raw, FramingOut: raw},
	}})
	if _, err := c.Wait(t.Context(), session, "", client.Forever); err != nil {
		t.Fatal(err)
	}
	conn := newConn(t, c.Endpoint(client.Ref{Session: session}))
	if got, err := io.ReadAll(conn); string(got) != "bye\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if err := until(soon(t), func() bool {
		_, err := conn.Write([]byte("x"))
		return errors.Is(err, client.ErrBrokenPipe)
	}); err != nil {
		t.Error(err)
	}
}

func TestConnNeedsRaw(t *testing.T) {
	c := dial(t)
	for name, spec := range map[string]*pipedv1.PipeSpec{
		"both": {FramingIn: &pipedv1.Framing{Name: "line"}},
		"out":  {FramingIn: &pipedv1.Framing{Name: "raw"}, FramingOut: &pipedv1.Framing{Name: "mp"}},
		"in":   {FramingIn: &pipedv1.Framing{Name: "mp"}, FramingOut: &pipedv1.Framing{Name: "raw"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := c.Endpoint(client.Ref{Session: create(t, c, &pipedv1.CreateSessionRequest{Pipes: []*pipedv1.PipeSpec{spec}})})
			if _, err := e.Conn(t.Context()); !errors.Is(err, client.ErrNotRaw) {
				t.Errorf("got %v, want ErrNotRaw", err)
			}
			// Nothing is left open by it.
			if err := until(soon(t), func() bool {
				w, err := e.NewWriter(t.Context(), client.WriterOptions{})
				if err == nil {
					closeAll(t, w)
				}
				return err == nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestConnIsNotBoundToTheContextThatOpenedIt(t *testing.T) {
	one, _ := newPipe(t, dial(t), "raw")
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := one.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if _, err := one.Conn(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: got %v", err)
	}
}

func TestConnAddressesNameBothEnds(t *testing.T) {
	one, two := newPipe(t, dial(t), "raw")
	conn := newConn(t, one)
	if got, want := conn.LocalAddr().String(), one.Ref().String(); got != want {
		t.Errorf("local address %s, want %s", got, want)
	}
	if got, want := conn.RemoteAddr().String(), two.Ref().String(); got != want || conn.RemoteAddr().Network() != "piped" {
		t.Errorf("remote address %s, want %s", got, want)
	}
}
