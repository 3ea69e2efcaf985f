package exact

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

func TestD4KeeperThatIsKilledAndReplacedLosesNothing(t *testing.T) {
	parallel(t)
	bin, versions := t.TempDir(), [2]string{"v1.0.0-test", "v1.1.0-test"}
	var keepers [2]string
	for i, version := range versions {
		if err := daemon.BuildOnly(t.Context(), bin, []string{programKeeper}, "-ldflags", "-X main.version="+version); err != nil {
			t.Fatal(err)
		}
		keepers[i] = filepath.Join(t.TempDir(), version)
		install(t, filepath.Join(bin, programKeeper), keepers[i])
	}
	install(t, keepers[0], filepath.Join(bin, programKeeper))
	r := newChaos(t, "D4", daemon.Options{Bin: bin, Args: []string{"--log-size", "256KiB"}})
	x := r.newStorm(dosed(2, 4, 4))
	e := r.newExits(2)
	kills, upgrades, strikes := dosed(4, 100, 400), dosed(4, 20, 80), dosed(4, 40, 160)
	var todo []func()
	for range kills {
		todo = append(todo, func() {
			before := r.d.KeeperPID()
			x.struck()
			r.d.KillKeeper(syscall.SIGKILL)
			r.survives(func(k *pipedv1.Keeper) bool { return int(k.GetPid()) != before })
		})
	}
	next := 1 // which of the two versions
	for range upgrades {
		todo = append(todo, func() {
			install(t, keepers[next], filepath.Join(bin, programKeeper))
			before, want := r.d.KeeperPID(), versions[next]
			next = 1 - next
			x.struck()
			r.d.KillKeeper(syscall.SIGHUP)
			r.survives(func(k *pipedv1.Keeper) bool { return k.GetVersion() == want && int(k.GetPid()) == before })
		})
	}
	for range strikes {
		todo = append(todo, func() {
			x.struck()
			r.d.Strike()
			r.survives(anyKeeper)
		})
	}
	rand.Shuffle(len(todo), func(i, j int) { todo[i], todo[j] = todo[j], todo[i] })
	for _, do := range todo {
		if t.Failed() {
			break
		}
		do()
		pause(t.Context(), time.Duration(rand.IntN(50))*time.Millisecond)
	}
	right, unknown := e.end()
	x.end()
	r.note("keeper_kills=%d upgrades=%d front_kills=%d", kills, upgrades, strikes)
	r.note("short_children: exits_right=%d unknown=%d", right, unknown)
	r.finish()
}

// install puts a program in the place of another one, which may run.
func install(t testing.TB, from, to string) {
	t.Helper()
	if err := daemon.Install(from, to); err != nil {
		t.Fatal(err)
	}
}

// exits are children that end with a code of their own, over and over.
type exits struct {
	row     *row
	stop    chan struct{}
	workers sync.WaitGroup

	mu             sync.Mutex
	right, unknown int
}

func (r *row) newExits(workers int) *exits {
	e := &exits{row: r, stop: make(chan struct{})}
	for i := range workers {
		e.workers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-e.stop:
					return
				default:
				}
				if err := e.one(fmt.Sprintf("exit-%d-%d", i, n), n%200); err != nil {
					r.t.Errorf("exit-%d-%d: %v", i, n, err)
				}
			}
		})
	}
	return e
}

// one starts a child and looks how it is told to have ended.
func (e *exits) one(name string, code int) error {
	ctx, cancel := e.row.ctx()
	defer cancel()
	req := script(name, fmt.Sprintf("sleep 0.0%d; exit %d", code%10, code), pipedv1.StdioMode_STDIO_MODE_NULL)
	s, err := e.row.c.Create(ctx, req)
	for refused(err) {
		pause(ctx, 10*time.Millisecond)
		s, err = e.row.c.Create(ctx, req)
	}
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	e.row.created()
	p, err := e.row.c.Wait(ctx, name, "", patience)
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	e.mu.Lock()
	switch exit := p.GetExit(); {
	case exit.GetUnknown():
		e.unknown++
	case exit == nil || exit.GetSignal() != "" || int(exit.GetCode()) != code:
		e.row.t.Errorf("%s: it ended with %v, want %d", name, p, code)
	default:
		e.right++
	}
	e.mu.Unlock()
	return e.row.discard(s)
}

func (e *exits) end() (right, unknown int) {
	close(e.stop)
	e.workers.Wait()
	return e.right, e.unknown
}
