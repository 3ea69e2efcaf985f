package exact

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// chaos says how much the rows do in which the daemon or its keeper is killed:
// short, full or long.
var chaos = os.Getenv("CHAOS")

// dosed returns how much of something such a row does.
func dosed[T any](inShort, inFull, inLong T) T {
	switch chaos {
	case "full":
		return inFull
	case "long":
		return inLong
	}
	return inShort
}

// parallel lets a row of the short form run beside others: what takes its time is
// starting again.
func parallel(t *testing.T) {
	if dosed(true, false, false) {
		t.Parallel()
	}
}

// newChaos starts the daemon of a row in which it is killed. What the row begins
// with is a daemon that has come after another one.
func newChaos(t testing.TB, name string, o daemon.Options) *row {
	t.Helper()
	if chaos != "" && chaos != "short" && chaos != "full" && chaos != "long" {
		t.Fatalf("CHAOS=%s: want short, full or long", chaos)
	}
	o.Args = append([]string{"--log-level", "warn"}, o.Args...)
	d := daemon.StartWith(t, o)
	d.Strike()
	return newRowWith(t, name, d)
}

// idlers creates sessions that do nothing, each with a process, and returns their
// names.
func (r *row) idlers(n int) []string {
	r.t.Helper()
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("idle-%d", i)
	}
	r.several(names, func(name string) error {
		ctx, cancel := r.ctx()
		defer cancel()
		_, err := r.c.Create(ctx, &pipedv1.CreateSessionRequest{Name: name, Process: &pipedv1.ProcessSpec{
			Args: []string{"cat"}, Stderr: pipedv1.StdioMode_STDIO_MODE_NULL,
		}})
		if err == nil {
			r.created()
		}
		return err
	})
	return names
}

// several does something with each name, a few at a time.
func (r *row) several(names []string, f func(name string) error) {
	r.t.Helper()
	work := make(chan string)
	done := make(chan struct{})
	const workers = 8
	for range workers {
		go func() {
			defer func() { done <- struct{}{} }()
			for name := range work {
				if err := f(name); err != nil {
					r.t.Errorf("%s: %v", name, err)
				}
			}
		}()
	}
	for _, name := range names {
		work <- name
	}
	close(work)
	for range workers {
		<-done
	}
}

// discard deletes a session by its uid, which goes on over a restart.
func (r *row) discard(s *pipedv1.Session) error {
	ctx, cancel := r.ctx()
	defer cancel()
	err := r.c.Delete(ctx, s.GetUid(), true)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live--
	return err
}

// whyLost returns why a session was lost, or nothing.
func whyLost(err error) string {
	if !errors.Is(err, client.ErrSessionLost) {
		return ""
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.Metadata["why"]
	}
	return "unknown"
}

// survives waits until the keeper has everything, so that the daemon may be killed
// again, and returns what the daemon says of it.
func (r *row) survives(keeper func(k *pipedv1.Keeper) bool) *pipedv1.GetServerInfoResponse {
	r.t.Helper()
	var info *pipedv1.GetServerInfoResponse
	ok := await(func() bool {
		ctx, cancel := r.ctx()
		defer cancel()
		var err error
		if info, err = r.c.Info(ctx); err != nil {
			r.t.Errorf("info: %v", err)
			return true
		}
		return info.GetSurvivesDaemonDeath() && keeper(info.GetKeeper())
	})
	if !ok {
		r.t.Errorf("the keeper does not come back: %v", info)
	}
	return info
}

// anyKeeper accepts every keeper.
func anyKeeper(*pipedv1.Keeper) bool { return true }

// stopwatch returns how long something takes.
func stopwatch(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

// wrong says that something was found already.
func (r *row) wrong() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.t.Failed() || r.v.faults() > 0
}
