package processes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// A row is one kind of fault against a daemon of its own. Its methods are safe
// for concurrent use.
type row struct {
	t    testing.TB
	name string
	d    *daemon.Daemon
	c    *client.Client
	// before is what the daemon and its keeper have with no session.
	before [2]int
	pids   [2]int
	began  time.Time

	mu    sync.Mutex
	notes []string
}

func newRow(t testing.TB, name string, args ...string) *row {
	t.Helper()
	return newRowWith(t, name, daemon.Options{Args: args})
}

func newRowWith(t testing.TB, name string, o daemon.Options) *row {
	t.Helper()
	o.Args = append([]string{"--log-level", "warn"}, o.Args...)
	r := &row{t: t, name: name, d: daemon.StartWith(t, o), began: time.Now()}
	r.c = r.d.Dial(t)
	// What the first session of a daemon makes and keeps is not what is looked for.
	if r.create("warm", &pipedv1.ProcessSpec{Args: []string{"true"}}) == nil {
		t.Fatal("no first session")
	}
	r.remove("warm")
	if !await(func() bool { return len(r.d.Children()) == 0 }) {
		t.Fatal("the first process stays")
	}
	r.pids = [2]int{r.d.PID(), r.d.KeeperPID()}
	r.before = r.descriptors()
	return r
}

// descriptors returns how many the daemon and its keeper have.
func (r *row) descriptors() (n [2]int) {
	r.t.Helper()
	for i, pid := range r.pids {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			r.t.Fatal(err)
		}
		n[i] = len(entries)
	}
	return n
}

func (r *row) ctx() (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.t.Context(), patience)
}

// create makes a session with a process, and returns nil when it cannot.
func (r *row) create(name string, p *pipedv1.ProcessSpec, pipes ...*pipedv1.PipeSpec) *pipedv1.Session {
	r.t.Helper()
	ctx, cancel := r.ctx()
	defer cancel()
	s, err := r.c.Create(ctx, &pipedv1.CreateSessionRequest{Name: name, Process: p, Pipes: pipes})
	if err != nil {
		r.t.Errorf("create %s: %v", name, err)
	}
	return s
}

func (r *row) remove(name string) {
	r.t.Helper()
	ctx, cancel := r.ctx()
	defer cancel()
	if err := r.c.Delete(ctx, name, true); err != nil {
		r.t.Errorf("delete %s: %v", name, err)
	}
}

// wait returns a session's process once it has exited.
func (r *row) wait(name string) *pipedv1.Process {
	r.t.Helper()
	ctx, cancel := r.ctx()
	defer cancel()
	p, err := r.c.Wait(ctx, name, "", patience)
	if err != nil {
		r.t.Errorf("wait for %s: %v", name, err)
	}
	return p
}

// text reads a pipe of a session to its end: all messages with a line end each,
// and the last word.
func (r *row) text(name, pipe string) (string, *pipedv1.End) {
	r.t.Helper()
	ctx, cancel := r.ctx()
	defer cancel()
	rd, err := r.c.Endpoint(client.Ref{Session: name, Pipe: pipe}).NewReader(ctx, client.ReaderOptions{AutoAck: true})
	if err != nil {
		r.t.Errorf("read %s: %v", name, err)
		return "", nil
	}
	var text strings.Builder
	for {
		m, err := rd.Next(ctx)
		if err != nil {
			var incomplete *client.IncompleteError
			if !errors.Is(err, io.EOF) && !errors.As(err, &incomplete) {
				r.t.Errorf("read %s: %v", name, err)
			}
			break
		}
		text.Write(m.Data)
		text.WriteByte('\n')
	}
	if err := rd.Close(ctx); err != nil {
		r.t.Errorf("read %s: %v", name, err)
	}
	return text.String(), rd.End()
}

// each runs n rounds, eight at a time, and returns how many went right.
func each(n int, round func(i int) bool) int {
	var mu sync.Mutex
	right := 0
	rounds := make(chan int)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for i := range rounds {
				if round(i) {
					mu.Lock()
					right++
					mu.Unlock()
				}
			}
		})
	}
	for i := range n {
		rounds <- i
	}
	close(rounds)
	workers.Wait()
	return right
}

// note adds to the line.
func (r *row) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// lives says that another child can be started, talked to and ended.
func (r *row) lives(name string) bool {
	r.t.Helper()
	if r.create(name, &pipedv1.ProcessSpec{Args: plays(r.t, "tail", "1"), Stderr: pipedv1.StdioMode_STDIO_MODE_NULL}) == nil {
		return false
	}
	defer r.remove(name)
	text, _ := r.text(name, "stdio")
	return text == "0 of 1\n" && r.wait(name).GetExit().GetCode() == 1
}

// finish removes what sessions there are, prints the line of the row and fails
// the test unless the same daemon and keeper live and nothing is left.
func (r *row) finish() {
	r.t.Helper()
	for s, err := range r.c.List(r.t.Context(), &pipedv1.ListSessionsRequest{}) {
		if err != nil {
			r.t.Error(err)
			break
		}
		r.remove(s.GetName())
	}
	if pids := [2]int{r.d.PID(), r.d.KeeperPID()}; pids != r.pids {
		r.t.Fatalf("%s: daemon and keeper were %d and are %d", r.name, r.pids, pids)
	}
	var after [2]int
	var children []int
	clean := await(func() bool {
		after, children = r.descriptors(), r.d.Children()
		return after[0] <= r.before[0] && after[1] <= r.before[1] && len(children) == 0
	})
	r.note("left_fds=%d left_in_keeper=%d left_processes=%d seconds=%.1f", after[0]-r.before[0], after[1]-r.before[1], len(children), time.Since(r.began).Seconds())
	fmt.Fprintf(os.Stdout, "%s %s\n", r.name, strings.Join(r.notes, " "))
	if !clean {
		r.t.Errorf("%s: descriptors before %v, after %v, children %v", r.name, r.before, after, children)
	}
}

// middle returns the median of times.
func middle(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}
