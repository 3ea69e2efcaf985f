package children

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// patience is how long a row waits for what has to come.
var patience = daemon.Patience

// sized returns how much of something a row does.
func sized[T any](inShort, inLong T) T {
	if os.Getenv("CHAOS") == "long" {
		return inLong
	}
	return inShort
}

func TestMain(m *testing.M) { daemon.Main(m) }

// child is the program of testdata/child.c. It lies beside the programs of the
// daemon, and goes with them.
var child = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(daemon.Bin(), "children")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "gcc"
	}
	path := filepath.Join(dir, "child")
	out, err := exec.Command(compiler, "-O2", "-Wall", "-o", path, "testdata/child.c").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("compiling the children: %w\n%s", err, out)
	}
	return path, nil
})

// A host is a daemon of a test's own, with a client.
type host struct {
	*daemon.Daemon
	t     testing.TB
	c     *client.Client
	child string
}

// start starts a daemon. One that panics fails the test.
func start(t testing.TB, o daemon.Options) *host {
	t.Helper()
	path, err := child()
	if err != nil {
		t.Fatal(err)
	}
	o.Args = append([]string{"--log-level", "warn"}, o.Args...)
	d := daemon.StartWith(t, o)
	t.Cleanup(func() {
		if log := d.Log(); strings.Contains(log, "panic") {
			t.Errorf("a panic in the log of the daemon:\n%s", log)
		}
	})
	return &host{Daemon: d, t: t, c: d.Dial(t), child: path}
}

// plays is a process that plays a role of the child.
func (h *host) plays(args ...string) *pipedv1.ProcessSpec {
	return &pipedv1.ProcessSpec{Args: append([]string{h.child}, args...)}
}

// create makes a session and returns its name.
func (h *host) create(ctx context.Context, process *pipedv1.ProcessSpec, pipes ...*pipedv1.PipeSpec) (string, error) {
	s, err := h.c.Create(ctx, &pipedv1.CreateSessionRequest{Process: process, Pipes: pipes})
	return s.GetName(), err
}

// wait returns the first process of a session once it has exited.
func (h *host) wait(ctx context.Context, session string) (*pipedv1.Process, error) {
	return h.c.Wait(ctx, session, "", client.Forever)
}

// everything receives from an end until its last word, and acknowledges it.
func (h *host) everything(ctx context.Context, session, pipe string) (messages []client.Message, end *pipedv1.End, err error) {
	r, err := h.c.Endpoint(client.Ref{Session: session, Pipe: pipe, End: 1}).NewReader(ctx, client.ReaderOptions{})
	if err != nil {
		return nil, nil, err
	}
	for {
		m, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			return messages, r.End(), r.Close(ctx)
		}
		if err == nil {
			messages = append(messages, m)
			err = r.Ack(m.After)
		}
		if err != nil {
			return messages, nil, errors.Join(err, r.Close(ctx))
		}
	}
}

// framed is a pipe with one framing both ways.
func framed(name, framing string) *pipedv1.PipeSpec {
	return &pipedv1.PipeSpec{Name: name, FramingIn: &pipedv1.Framing{Name: framing}}
}

// gives is the handing over of end 2 of a pipe at a descriptor.
func gives(pipe string, fd int32) *pipedv1.Inherit {
	return &pipedv1.Inherit{Pipe: pipe, End: 2, Fd: fd, HandOver: true}
}

// quiet takes the standard streams from a process.
func quiet(p *pipedv1.ProcessSpec) *pipedv1.ProcessSpec {
	p.Stdin, p.Stdout, p.Stderr = pipedv1.StdioMode_STDIO_MODE_NULL, pipedv1.StdioMode_STDIO_MODE_NULL, pipedv1.StdioMode_STDIO_MODE_NULL
	return p
}

// say prints the line of a row.
func say(row, format string, args ...any) {
	_, _ = fmt.Fprintf(os.Stdout, row+" "+format+"\n", args...)
}

// await looks until ok says yes, and returns false when patience ends.
func await(ok func() bool) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			return ok()
		}
	}
	return true
}

// inParallel calls f with 0 to n-1, some at a time, until one fails.
func inParallel(workers, n int, f func(i int) error) error {
	var wg sync.WaitGroup
	todo := make(chan int)
	failed := make(chan error, workers)
	for range workers {
		wg.Go(func() {
			for i := range todo {
				if err := f(i); err != nil {
					failed <- fmt.Errorf("number %d: %w", i, err)
					return
				}
			}
		})
	}
	var err error
	for i := 0; i < n && err == nil; i++ {
		select {
		case todo <- i:
		case err = <-failed:
		}
	}
	close(todo)
	wg.Wait()
	close(failed)
	for e := range failed {
		err = errors.Join(err, e)
	}
	return err
}
