package exact

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	"github.com/piped-dev/piped/test/daemon"
)

func TestD5BothKilledTogetherIsToldForEachSession(t *testing.T) {
	parallel(t)
	r := newChaos(t, "D5", daemon.Options{})
	sessions, lost, orphans := dosed(10, 100, 100), 0, 0
	rounds := dosed(2, 20, 100)
	for round := range rounds {
		l, o := r.loseBoth(round, sessions)
		lost, orphans = lost+l, orphans+o
	}
	r.d.Strike() // as the row has begun
	r.note("rounds=%d lost=%d want=%d orphans=%d", rounds, lost, rounds*sessions, orphans)
	if lost != rounds*sessions || orphans != 0 {
		t.Errorf("%d of %d sessions were told to be lost, %d orphans", lost, rounds*sessions, orphans)
	}
	r.finish()
}

// loseBoth kills the daemon and its keeper at the same time, and returns how many
// sessions are told to be lost, and how many of their processes are left.
func (r *row) loseBoth(round, sessions int) (lost, orphans int) {
	ctx, cancel := r.ctx()
	defer cancel()
	names := make([]string, sessions)
	for i := range names {
		names[i] = fmt.Sprintf("both-%d-%d", round, i)
	}
	r.several(names, func(name string) error {
		k := r.newTalk(name, "mp")
		if _, err := r.c.Create(ctx, k.request()); err != nil {
			return err
		}
		w, err := r.c.Endpoint(k.ref()).NewWriter(ctx, client.WriterOptions{ID: "w"})
		if err != nil {
			return err
		}
		return k.send(ctx, w, 3, 100)
	})
	children := r.d.Children()
	if len(children) < sessions {
		r.t.Errorf("%d children of %d sessions", len(children), sessions)
	}
	front, keeper := r.d.PID(), r.d.KeeperPID()
	for _, pid := range []int{front, keeper} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			r.t.Error(err)
		}
	}
	r.d.AwaitExit(front)
	r.d.AwaitExit(keeper)
	r.d.Revive()
	for _, name := range names {
		if _, err := r.c.Get(ctx, name); whyLost(err) == "LOST_BOTH" {
			lost++
		} else {
			r.t.Errorf("%s: %v, want LOST_BOTH", name, err)
		}
	}
	// And so say the daemons after that one, and with another keeper.
	r.d.Strike()
	r.d.AwaitNextKeeper(r.d.KillKeeper(syscall.SIGKILL))
	r.survives(anyKeeper)
	r.d.Strike()
	r.several(names, func(name string) error {
		if _, err := r.c.Get(ctx, name); whyLost(err) != "LOST_BOTH" {
			return fmt.Errorf("later: %w, want LOST_BOTH", err)
		}
		return r.c.Delete(ctx, name, true)
	})
	await(func() bool {
		orphans = 0
		for _, pid := range children {
			if runs(pid) {
				orphans++
			}
		}
		return orphans == 0
	})
	return lost, orphans
}

// runs says whether a process is there and no zombie.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// roomFor returns how many of n sessions the limit of descriptors allows here.
func (r *row) roomFor(n int) int {
	r.t.Helper()
	ctx, cancel := r.ctx()
	defer cancel()
	limits, err := r.c.Limits(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	return min(n, int(limits.GetMaxSessions()))
}

func TestS1ManyIdleSessionsAreRecovered(t *testing.T) {
	parallel(t)
	r := newChaos(t, "S1", daemon.Options{})
	n := dosed(200, 2500, max(2500, r.roomFor(10_000))) // these need less than what is counted for a session
	front, keeper := use(t, r.d.PID()), use(t, r.d.KeeperPID())
	spent := stopwatch(func() { r.idlers(n) })
	ctx, cancel := context.WithTimeout(t.Context(), patience*dosed[time.Duration](1, 1, 20))
	defer cancel()
	each := func(before, now usage) string {
		return fmt.Sprintf("%.2f/%.1fKiB", float64(now.descriptors-before.descriptors)/float64(n), float64(now.rss-before.rss)/float64(n)/1024)
	}
	r.note("idle=%d create_per_s=%.0f front_fds/rss_each=%s keeper_fds/rss_each=%s", n, float64(n)/spent.Seconds(),
		each(front, use(t, r.d.PID())), each(keeper, use(t, r.d.KeeperPID())))
	for range dosed(1, 5, 5) {
		away := stopwatch(r.d.Strike)
		info, err := r.c.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		r.note("away_ms=%d pause_ms=%d recovered=%d", away.Milliseconds(), info.GetLastRestart().GetPause().AsDuration().Milliseconds(), info.GetLastRestart().GetRecoveredSessions())
		if got := info.GetLastRestart().GetRecoveredSessions(); int(got) != n {
			t.Errorf("%d sessions were recovered, want %d", got, n)
		}
	}
	r.note("recovered_front_fds/rss_each=%s", each(front, use(t, r.d.PID())))
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("idle-%d", i)
	}
	spent = stopwatch(func() {
		r.several(names, func(name string) error {
			e := r.c.Endpoint(client.Ref{Session: name})
			if err := e.Send(ctx, []byte(name)); err != nil {
				return err
			}
			rd, err := e.NewReader(ctx, client.ReaderOptions{})
			if err != nil {
				return err
			}
			m, err := rd.Next(ctx)
			if err == nil && string(m.Data) != name {
				err = fmt.Errorf("%q came back", m.Data)
			}
			if err == nil {
				err = rd.Ack(m.After)
			}
			if cerr := rd.Close(ctx); err == nil {
				err = cerr
			}
			return err
		})
	})
	r.note("all_active_per_s=%.0f", float64(n)/spent.Seconds())
	r.several(names, func(name string) error {
		s, err := r.c.Get(ctx, name)
		if err != nil {
			return err
		}
		return r.discard(s)
	})
	r.finish()
}
