package custody_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
)

// upgraded has the keeper execute itself anew and waits until it has.
func upgraded(t *testing.T, pid int) {
	t.Helper()
	if pid <= 0 {
		t.Fatal("there is no keeper")
	}
	before := spawnerOf(pid)
	if err := unix.Kill(pid, unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	// The spawner goes with the program that had it.
	waitFor(t, "the upgrade", func() bool { return before == 0 || spawnerOf(pid) != before })
}

// spawnerOf returns the process id of a keeper's spawner; 0 if it has none.
func spawnerOf(keeper int) int {
	for _, pid := range processes(func(args []string) bool { return filepath.Base(args[0]) == "piped-spawner" }) {
		if parent(pid) == keeper && alive(pid) {
			return pid
		}
	}
	return 0
}

func TestUpgradeLeavesNoZombie(t *testing.T) {
	link, _ := connect(t, options(t))
	a := enter(t, link, 1)
	pid := link.Info().Pid
	exit(t, start(t, a, 1, shell("exit 0")))
	a.Forget(1)
	if spawnerOf(pid) == 0 {
		t.Fatal("there is no spawner, which would be left behind")
	}
	upgraded(t, pid)
	waitFor(t, "the spawner to be reaped", func() bool { return zombies(pid) == 0 })
	if err := link.End(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestUpgradeKeepsEverything(t *testing.T) {
	o := options(t)
	link, _ := connect(t, o)
	r, w := pipe(t)
	a := enter(t, link, 1)
	if err := a.Put(keeper.Item{Key: 7, FD: r}); err != nil {
		t.Fatal(err)
	}
	running := start(t, a, 1, shell("read x; exit 3", keeper.File{FD: 0, Source: r}))
	exited := start(t, a, 2, shell("exit 4"))
	exit(t, exited)
	pid := link.Info().Pid
	for range 5 {
		upgraded(t, pid)
		if got := link.Info(); got.Pid != pid || got.Restarts != 0 {
			t.Fatalf("info %+v", got)
		}
		// Its children are its children still, and it starts more.
		if got := exit(t, start(t, a, 3, shell("exit 5"))); got.Code != 5 || got.Unknown {
			t.Errorf("exit %+v", got)
		}
		a.Forget(3)
		if parent(running.Pid()) != pid {
			t.Errorf("the parent is %d, want %d", parent(running.Pid()), pid)
		}
	}
	if err := link.Close(); err != nil {
		t.Fatal(err)
	}
	link, estate := connect(t, o)
	if len(estate.Sessions) != 1 || link.Epoch() != 2 {
		t.Fatalf("estate %+v, epoch %d", estate, link.Epoch())
	}
	s := estate.Sessions[0]
	defer func() { _ = unix.Close(s.Files[7]) }()
	if got := exit(t, s.Processes[2]); got.Code != 4 {
		t.Errorf("exit %+v", got)
	}
	if _, err := unix.Write(w, []byte("x\n")); err != nil {
		t.Fatal(err)
	}
	if got := exit(t, s.Processes[1]); got.Code != 3 || got.Unknown {
		t.Errorf("exit %+v", got)
	}
	if err := link.End(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestProgramThatRefusesTheStateIsNotExecuted(t *testing.T) {
	o := options(t)
	self, err := os.ReadFile(o.Program)
	if err != nil {
		t.Fatal(err)
	}
	o.Program = filepath.Join(filepath.Dir(o.Socket), "program")
	if err := os.WriteFile(o.Program, self, 0o700); err != nil {
		t.Fatal(err)
	}
	link, _ := connect(t, o)
	pid := link.Info().Pid
	refuses := filepath.Join(filepath.Dir(o.Socket), "refuses")
	ran := filepath.Join(filepath.Dir(o.Socket), "ran")
	script := "#!/bin/sh\necho x >>" + ran + "\nexit 1\n"
	if err := os.WriteFile(refuses, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(refuses, o.Program); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the program to be asked", func() bool { _, err := os.Stat(ran); return err == nil })
	a := enter(t, link, 1)
	if got := exit(t, start(t, a, 1, shell("exit 5"))); got.Code != 5 {
		t.Errorf("exit %+v", got)
	}
	if got := link.Info(); got.Pid != pid || got.Restarts != 0 {
		t.Errorf("info %+v", got)
	}
	if err := link.End(t.Context()); err != nil {
		t.Error(err)
	}
}
