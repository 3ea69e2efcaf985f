package custody_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
)

// busy lets accounts come and go, with descriptors and processes, until ctx is
// done. All must go right; where keepers die, a start may be uncertain and an
// exit unknown.
func busy(ctx context.Context, t *testing.T, link *keeper.Link, number byte, deaths bool) (rounds, uncertain, unknown int) {
	for ; ctx.Err() == nil; rounds++ {
		a, err := link.Enter(keeper.UID{number, byte(rounds), byte(rounds >> 8)}, "busy")
		if err != nil {
			t.Error(err)
			return rounds, uncertain, unknown
		}
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			t.Error(err)
			return rounds, uncertain, unknown
		}
		err = a.Put(keeper.Item{Key: 1, FD: p[0]}, keeper.Item{Key: 2, FD: p[1]})
		if err != nil {
			t.Error(err)
		}
		code := rand.IntN(256)
		spec := keeper.Spec{Path: "/bin/sh", Args: []string{"sh", "-c", "read x; exit $x"}, Files: []keeper.File{{FD: 0, Source: p[0]}}}
		child, err := a.Start(context.WithoutCancel(ctx), 1, spec)
		if deaths && errors.Is(err, keeper.ErrUncertain) {
			a.Leave()
			_ = unix.Close(p[0])
			_ = unix.Close(p[1])
			uncertain++
			continue
		}
		if err != nil {
			t.Error(err)
			return rounds, uncertain, unknown
		}
		a.Remove(1)
		_, _ = unix.Write(p[1], []byte{byte('0' + code/100), byte('0' + code/10%10), byte('0' + code%10), '\n'})
		select {
		case <-child.Done():
			switch got := child.Exit(); {
			case deaths && got.Unknown:
				unknown++
			case got.Unknown || got.Code != code:
				t.Errorf("exit %+v, want %d", got, code)
			}
		case <-time.After(20 * time.Second):
			t.Error("a process does not exit")
			return rounds, uncertain, unknown
		}
		a.Leave()
		_ = unix.Close(p[0])
		_ = unix.Close(p[1])
	}
	return rounds, uncertain, unknown
}

func TestUpgradesUnderLoadDisturbNobody(t *testing.T) {
	o := options(t)
	link, _ := connect(t, o)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var workers sync.WaitGroup
	var mu sync.Mutex
	rounds := 0
	for i := range 4 {
		workers.Go(func() {
			n, _, _ := busy(ctx, t, link, byte(i+1), false)
			mu.Lock()
			defer mu.Unlock()
			rounds += n
		})
	}
	pid := link.Info().Pid
	start := time.Now()
	const upgrades = 10
	for range upgrades {
		// One spawner after the other, as long as something is started.
		waitFor(t, "a spawner", func() bool { return spawnerOf(pid) != 0 })
		upgraded(t, pid)
	}
	took := time.Since(start)
	stop()
	workers.Wait()
	if got := link.Info(); got.Pid != pid || got.Restarts != 0 {
		t.Errorf("info %+v", got)
	}
	t.Logf("%d upgrades in %v, beside %d processes", upgrades, took.Round(time.Millisecond), rounds)
	waitFor(t, "the last to be reaped", func() bool { return zombies(pid) == 0 })
	if err := link.End(t.Context()); err != nil {
		t.Error(err)
	}
}

// zombies counts the children of a process that were not reaped.
func zombies(of int) (n int) {
	for _, pid := range children(of) {
		if !alive(pid) {
			n++
		}
	}
	return n
}

func TestKeepersThatDieUnderLoadLoseNothing(t *testing.T) {
	o := options(t)
	link, _ := connect(t, o)
	r, _ := pipe(t)
	kept := enter(t, link, 100)
	if err := kept.Put(keeper.Item{Key: 7, FD: r}); err != nil {
		t.Fatal(err)
	}
	resting := start(t, kept, 1, shell("exec sleep 1000"))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var workers sync.WaitGroup
	var mu sync.Mutex
	rounds, uncertain, unknown := 0, 0, 0
	for i := range 4 {
		workers.Go(func() {
			n, s, u := busy(ctx, t, link, byte(i+1), true)
			mu.Lock()
			defer mu.Unlock()
			rounds, uncertain, unknown = rounds+n, uncertain+s, unknown+u
		})
	}
	const deaths = 15
	upgrades := 0
	for range deaths {
		info := link.Info()
		if info.Pid <= 0 {
			t.Fatal("there is no keeper")
		}
		if rand.IntN(3) == 0 {
			_ = unix.Kill(info.Pid, unix.SIGHUP)
			upgrades++
		}
		timer := time.NewTimer(time.Duration(rand.IntN(200)) * time.Millisecond)
		<-timer.C
		if err := unix.Kill(info.Pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "a new keeper", func() bool {
			now := link.Info()
			return now.Restarts > info.Restarts && now.Away.IsZero()
		})
	}
	stop()
	workers.Wait()
	t.Logf("%d keepers died, %d were upgraded, beside %d processes; %d starts were uncertain, %d exits unknown", deaths, upgrades, rounds, uncertain, unknown)
	if err := resting.Signal(unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if got := exit(t, resting); !got.Unknown && got.Signal != unix.SIGTERM {
		t.Errorf("exit %+v", got)
	}
	if err := link.Close(); err != nil {
		t.Fatal(err)
	}
	link, estate := connect(t, o)
	if len(estate.Sessions) != 1 || len(estate.Sessions[0].Files) != 1 || len(estate.Lost) != 0 {
		t.Fatalf("estate %+v", estate)
	}
	_ = unix.Close(estate.Sessions[0].Files[7])
	if err := link.End(t.Context()); err != nil {
		t.Error(err)
	}
}
