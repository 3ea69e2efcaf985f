package exact

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

func TestDaemonHasNoGoroutineLeftAfterItsSessions(t *testing.T) {
	r := newRow(t, "LEFT")
	idle := r.goroutines(func(context.Context, *client.Client) error { return nil })
	sessions := sized(20, 500)
	busy := r.goroutines(func(ctx context.Context, c *client.Client) error {
		for i := range sessions {
			if err := mess(ctx, c, fmt.Sprintf("mess-%d", i)); err != nil {
				return fmt.Errorf("session %d: %w", i, err)
			}
		}
		return nil
	})
	left := 0
	for creator, n := range busy {
		if n > idle[creator] {
			t.Errorf("%d goroutines are left that were created by %s", n-idle[creator], creator)
			left += n - idle[creator]
		}
	}
	if len(idle) == 0 {
		t.Error("an idle daemon shows no goroutine: they are not found")
	}
	r.note("torn_down=%d left_goroutines=%d", sessions, left)
	r.finish()
}

// mess uses everything that has a goroutine, and removes the session in the
// middle of it.
func mess(ctx context.Context, c *client.Client, name string) error {
	_, err := c.Create(ctx, &pipedv1.CreateSessionRequest{
		Name: name, Pipes: []*pipedv1.PipeSpec{{Name: "pipe", FramingIn: &pipedv1.Framing{Name: "mp"}}},
		Process: &pipedv1.ProcessSpec{Args: []string{"sh", "-c", "cat; exec sleep 1000"}},
	})
	if err != nil {
		return err
	}
	stdio, one, two := c.Endpoint(client.Ref{Session: name, Pipe: "stdio"}), c.Endpoint(client.Ref{Session: name, Pipe: "pipe", End: 1}), c.Endpoint(client.Ref{Session: name, Pipe: "pipe", End: 2})
	var errs []error
	for _, e := range []*client.Endpoint{stdio, one} {
		for _, id := range []string{"first", "second"} {
			w, err := e.NewWriter(ctx, client.WriterOptions{ID: id, Steal: true, Level: pipedv1.AckLevel_ACK_LEVEL_READ})
			if err != nil {
				return err
			}
			// More than the kernel takes, so that some of it waits.
			errs = append(errs, w.Send(ctx, make([]byte, 200<<10)))
		}
	}
	for _, e := range []*client.Endpoint{stdio, one, two} {
		for _, opts := range []client.ReaderOptions{{ConsumerID: "first"}, {ConsumerID: "second", Steal: true}, {Observe: true}} {
			if _, err := e.NewReader(ctx, opts); err != nil {
				return err
			}
		}
	}
	return errors.Join(append(errs, c.Delete(ctx, name, true))...)
}

// goroutines starts a daemon of its own, lets use use it, and returns what
// goroutines it has when everything is over, by who created them.
func (r *row) goroutines(use func(ctx context.Context, c *client.Client) error) map[string]int {
	r.t.Helper()
	d := daemon.Start(r.t, "--log-level", "error")
	pid := d.PID()
	r.use(pid, d.Addr, use)
	// It shows all goroutines and exits with 2; its keeper starts another.
	d.AwaitNext(d.Kill(syscall.SIGQUIT))
	return creators(d.Log())
}

// use lets f use the daemon of process pid, and returns when that has no more
// descriptors than before.
func (r *row) use(pid int, addr string, f func(ctx context.Context, c *client.Client) error) {
	r.t.Helper()
	ctx, cancel := r.ctx()
	defer cancel()
	var c *client.Client
	// It listens before it has everything that it needs, and is connected to when it has.
	if !await(func() (connected bool) {
		var err error
		c, err = client.Dial(ctx, addr)
		return err == nil
	}) {
		r.t.Fatal("it does not serve")
	}
	before := use(r.t, pid) // and our connection
	if err := f(ctx, c); err != nil {
		r.t.Error(err)
	}
	if err := c.Close(); err != nil {
		r.t.Error(err)
	}
	if !await(func() bool { return use(r.t, pid).descriptors < before.descriptors }) {
		r.t.Errorf("before %+v, after %+v", before, use(r.t, pid))
	}
	// What ends with a connection may do so a moment after its descriptor.
	pause(ctx, 200*time.Millisecond)
}

// createdBy finds in a dump who created a goroutine.
var createdBy = regexp.MustCompile(`(?m)^created by (\S+)`)

func creators(dump string) map[string]int {
	found := map[string]int{}
	for _, m := range createdBy.FindAllStringSubmatch(dump, -1) {
		// The runtime starts its own when it likes.
		if !strings.HasPrefix(m[1], "runtime.") {
			found[m[1]]++
		}
	}
	return found
}
