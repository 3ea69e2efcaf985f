package custody_test

import (
	"errors"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
)

func TestProgramsThatCannotBeExecutedLeaveNoZombie(t *testing.T) {
	o := options(t)
	link, _ := connect(t, o)
	a := enter(t, link, 1)
	pid := link.Info().Pid
	var starters sync.WaitGroup
	for i := range 4 {
		starters.Go(func() {
			for j := range 25 {
				key := uint32(i*1000 + j)
				_, err := a.Start(t.Context(), key, keeper.Spec{Path: "/no/such/program", Args: []string{"x"}})
				if !errors.Is(err, keeper.ErrNotFound) {
					t.Errorf("error %v", err)
				}
				p, err := a.Start(t.Context(), key, shell("exit 7"))
				if err != nil {
					t.Error(err)
					continue
				}
				if <-p.Done(); p.Exit().Code != 7 {
					t.Errorf("exit %+v", p.Exit())
				}
				a.Forget(key)
			}
		})
	}
	starters.Wait()
	waitFor(t, "all children to be reaped", func() bool { return zombies(pid) == 0 })
	if got := children(pid); len(got) != 1 {
		t.Errorf("children %v, want the spawner alone", got)
	}
	if err := link.End(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSpawnerThatDiesIsReplaced(t *testing.T) {
	o := options(t)
	link, _ := connect(t, o)
	a := enter(t, link, 1)
	pid := link.Info().Pid
	running := start(t, a, 1, shell("exec sleep 1000"))
	for key := uint32(2); key < 6; key++ {
		spawner := spawnerOf(pid)
		if err := unix.Kill(spawner, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the spawner to be dead", func() bool { return !alive(spawner) })
		// What it was asked for is not asked for twice, so one start may fail; the next works.
		p, err := a.Start(t.Context(), key, shell("exit 7"))
		if err != nil {
			p = start(t, a, key, shell("exit 7"))
		}
		if got := exit(t, p); got.Code != 7 {
			t.Errorf("exit %+v", got)
		}
	}
	if !alive(running.Pid()) {
		t.Error("a process has died with a spawner")
	}
	waitFor(t, "all children to be reaped", func() bool { return zombies(pid) == 0 })
	if err := link.End(t.Context()); err != nil {
		t.Error(err)
	}
}
