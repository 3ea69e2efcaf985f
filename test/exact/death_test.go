package exact

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

func TestD3DaemonThatDiesInAnyWayLosesNothing(t *testing.T) {
	parallel(t)
	bin, list := withFailpoints(t), filepath.Join(t.TempDir(), "list")
	r := newChaos(t, "D3", daemon.Options{Bin: bin, Env: []string{"FAILPOINT_LIST=" + list}, Leave: true,
		Args: []string{"--log-size", "256KiB", "--sessions-at-exit", "leave"}})
	x := r.newStorm(dosed(2, 4, 4))
	signal := func(sig syscall.Signal) func() {
		return func() {
			x.struck()
			r.d.AwaitNext(r.d.Kill(sig))
		}
	}
	deaths := []struct {
		name string
		die  func()
	}{
		{"panic", func() {
			if err := os.WriteFile(list, []byte("piped:inbox.after-commit=panic@20\npiped:outbox.after-commit=panic@20\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			for n := 1; n <= 2; n++ {
				x.struck()
				r.d.Strike()
				if !await(func() bool { hits, _ := os.ReadFile(list + ".hit"); return bytes.Count(hits, []byte("\n")) == n }) {
					t.Error("the daemon does not panic")
				}
				x.struck()
			}
			r.d.Revive()
			_ = os.Remove(list + ".hit")
		}},
		{"segv", signal(syscall.SIGSEGV)},
		{"abort", signal(syscall.SIGABRT)}, // of a watchdog
		{"quit", signal(syscall.SIGQUIT)},
		{"oom", func() { r.exhaust(x) }},
		{"term", func() {
			x.struck()
			before := r.d.Kill(syscall.SIGTERM)
			r.d.AwaitExit(before)
			if pid := r.d.PID(); pid != before {
				t.Errorf("daemon %d was started after %d was told to end", pid, before)
			}
			r.d.Again()
		}},
	}
	rounds := dosed(1, 10, 100)
	for range rounds {
		for _, d := range deaths {
			if t.Failed() {
				break
			}
			took := stopwatch(d.die)
			r.survives(anyKeeper)
			if rounds == 1 {
				r.note("%s_ms=%d", d.name, took.Milliseconds())
			}
			pause(t.Context(), 50*time.Millisecond)
		}
	}
	x.end()
	r.d.Strike() // as the row has begun
	r.note("rounds=%d deaths=%d", rounds, rounds*len(deaths))
	r.finish()
}

// exhaust takes the daemon's memory away and asks it for work until it dies.
func (r *row) exhaust(x *storm) {
	r.t.Helper()
	c, err := client.Dial(r.t.Context(), r.d.Addr)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	pid := r.d.PID()
	x.struck()
	// Less than it has: whatever it maps next is refused.
	limit := unix.Rlimit{Cur: 64 << 20, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(pid, unix.RLIMIT_AS, &limit, nil); err != nil {
		r.t.Fatalf("prlimit: %v", err)
	}
	for n := 0; runs(pid); n++ {
		ctx, cancel := context.WithTimeout(r.t.Context(), 100*time.Millisecond)
		name := fmt.Sprintf("greedy-%d-%d", pid, n)
		_, _ = c.Create(ctx, &pipedv1.CreateSessionRequest{Name: name, Labels: map[string]string{"a": name}, Pipes: []*pipedv1.PipeSpec{{Name: "pipe"}}})
		_ = c.Endpoint(client.Ref{Session: name, Pipe: "pipe", End: 1}).Send(ctx, make([]byte, 100_000))
		cancel()
		if n == 2000 {
			r.t.Fatal("the daemon lives without memory")
		}
	}
	r.d.AwaitNext(pid)
	ctx, cancel := r.ctx()
	defer cancel()
	for s, err := range r.c.List(ctx, &pipedv1.ListSessionsRequest{NamePrefix: "greedy"}) {
		if err == nil {
			err = r.c.Delete(ctx, s.GetUid(), true)
		}
		if err != nil {
			r.t.Errorf("delete: %v", err)
			break
		}
	}
}

func TestD6TwoDaemonsNeverOwnTheSameSessions(t *testing.T) {
	parallel(t)
	r := newChaos(t, "D6", daemon.Options{Args: []string{"--log-size", "256KiB"}})
	x := r.newStorm(2)
	owners, rounds := 0, dosed(1, 20, 100)
	for round := range rounds {
		owners += r.rival(x, round)
	}
	x.end()
	r.d.Strike() // as the row has begun
	r.note("rounds=%d two_owners=%d", rounds, owners)
	if owners != 0 {
		t.Error("there were two owners")
	}
	r.finish()
}

// rival starts others while the daemon stands still, and returns how often one of
// them owned what the daemon had.
func (r *row) rival(x *storm, round int) (owners int) {
	ctx, cancel := r.ctx()
	defer cancel()
	x.struck()
	old := r.d.Kill(syscall.SIGSTOP)
	if err := r.d.Rival(ctx, "--listen", r.d.Addr).Run(); err == nil {
		owners++
	}
	// Another address, and the same keeper.
	addr := fmt.Sprintf("%s.%d", r.d.Addr, round)
	rival := r.d.Rival(ctx, "--listen", addr, "--keeper-socket", r.path("s.keeper"), "--sessions-at-exit", "leave", "--log-level", "warn")
	if err := rival.Start(); err != nil {
		r.t.Error(err)
		return owners
	}
	answers := func(patience time.Duration) bool {
		dialing, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		c, err := client.Dial(dialing, addr)
		if err != nil {
			return false
		}
		return c.Close() == nil
	}
	told := fmt.Sprintf("pid=%d", old)
	if !await(func() bool { return bytes.Contains([]byte(r.d.Log()), []byte(told)) }) {
		r.t.Errorf("the other daemon does not say that it waits for %d", old)
	}
	for until := time.Now().Add(dosed(300*time.Millisecond, time.Second, time.Second)); time.Now().Before(until) && owners == 0; pause(ctx, 20*time.Millisecond) {
		if answers(50 * time.Millisecond) {
			owners++
		}
	}
	// The old one goes on as if nothing had been, and the other waits on.
	r.d.Kill(syscall.SIGCONT)
	for until := time.Now().Add(200 * time.Millisecond); time.Now().Before(until) && owners == 0; pause(ctx, 20*time.Millisecond) {
		if answers(50 * time.Millisecond) {
			owners++
		}
	}
	x.struck()
	r.d.Kill(syscall.SIGSTOP)
	r.d.Kill(syscall.SIGKILL)
	if !await(func() bool { return answers(time.Second) }) {
		r.t.Error("the other daemon does not serve when the old one is dead")
	}
	if err := rival.Process.Signal(syscall.SIGTERM); err != nil {
		r.t.Error(err)
	}
	if err := rival.Wait(); err != nil {
		r.t.Errorf("the other daemon: %v", err)
	}
	r.d.Again()
	return owners
}
