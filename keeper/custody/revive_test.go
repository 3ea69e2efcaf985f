package custody_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
)

// beFront is a front: it writes a line about each of its lives, and keeps a
// session. It ends as the signal says: USR1 leaves, USR2 ends all.
func beFront(args []string) {
	signals := make(chan os.Signal, 1)
	notify(signals)
	o := keeper.Options{Socket: args[0], Program: os.Args[0], Version: "test", Front: append([]string{os.Args[0]}, args...)}
	link, estate, err := keeper.Connect(context.Background(), o, nil)
	if err != nil {
		fatal(err)
	}
	if len(estate.Sessions) == 0 {
		a, err := link.Enter(keeper.UID{1}, "x")
		if err != nil {
			fatal(err)
		}
		if _, err := a.Start(context.Background(), 1, shell("exec sleep 1000")); err != nil {
			fatal(err)
		}
	}
	lives, err := os.OpenFile(filepath.Join(filepath.Dir(args[0]), "lives"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		fatal(err)
	}
	if _, err := fmt.Fprintf(lives, "%d %d %s\n", os.Getpid(), link.Epoch(), os.Getenv("CANARY")); err != nil {
		fatal(err)
	}
	if sig := <-signals; sig == unix.SIGUSR1 {
		err = link.Leave(context.Background())
	} else {
		err = link.End(context.Background())
	}
	if err != nil {
		fatal(err)
	}
}

// beCrashing is a front that never comes to serve, after the first time.
func beCrashing(args []string) {
	if _, err := os.Stat(filepath.Join(filepath.Dir(args[0]), "lives")); err == nil {
		file, err := os.OpenFile(filepath.Join(filepath.Dir(args[0]), "crashes"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			fatal(err)
		}
		_, _ = fmt.Fprintln(file, time.Now().UnixNano())
		return
	}
	beFront(args)
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "front:", err)
	os.Exit(1)
}

// lives returns what fronts have said of themselves: pid, epoch and canary.
func lives(o keeper.Options) (all [][3]string) {
	text, _ := os.ReadFile(filepath.Join(filepath.Dir(o.Socket), "lives"))
	for line := range strings.Lines(string(text)) {
		var one [3]string
		copy(one[:], strings.Fields(line))
		all = append(all, one)
	}
	return all
}

// fronted starts a front in a process of its own and waits until it serves.
func fronted(t *testing.T, o keeper.Options, role string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), o.Program, o.Socket)
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "CANARY=sings")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the front", func() bool { return len(lives(o)) == 1 })
	return cmd
}

func pidOf(life [3]string) (pid int) {
	_, _ = fmt.Sscan(life[0], &pid)
	return pid
}

func TestFrontThatIsKilledIsStartedAgain(t *testing.T) {
	o := options(t)
	cmd := fronted(t, o, "front")
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for n := 2; n <= 5; n++ {
		killedAt := time.Now()
		waitFor(t, "the next front", func() bool { return len(lives(o)) == n })
		t.Logf("front %d serves after %v", n, time.Since(killedAt).Round(time.Millisecond))
		life := lives(o)[n-1]
		if life[1] != fmt.Sprint(n) || life[2] != "sings" {
			t.Errorf("life %v, want epoch %d and the environment of the first", life, n)
		}
		if err := unix.Kill(pidOf(life), unix.SIGKILL); n < 5 && err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "one more front", func() bool { return len(lives(o)) == 6 })
	if err := unix.Kill(pidOf(lives(o)[5]), unix.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the keeper to end", func() bool { return len(keepers(o)) == 0 })
	if _, err := os.Stat(o.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestFrontThatLeavesIsNotStartedAgain(t *testing.T) {
	o := options(t)
	cmd := fronted(t, o, "front")
	if err := cmd.Process.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	// The next one gets what is there, and nobody else came in between.
	link, estate := connect(t, o)
	if link.Epoch() != 2 || len(estate.Sessions) != 1 || len(lives(o)) != 1 {
		t.Errorf("epoch %d, estate %+v, lives %v", link.Epoch(), estate, lives(o))
	}
	p := estate.Sessions[0].Processes[1]
	if err := link.End(t.Context()); err != nil {
		t.Error(err)
	}
	if alive(p.Pid()) {
		t.Error("a process lives on after the end")
	}
}

func TestFrontThatNeverServesIsStartedAgainMoreAndMoreSeldom(t *testing.T) {
	o := options(t)
	cmd := fronted(t, o, "crash")
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	var times []int64
	waitFor(t, "five crashes", func() bool {
		text, _ := os.ReadFile(filepath.Join(filepath.Dir(o.Socket), "crashes"))
		times = nil
		for word := range strings.FieldsSeq(string(text)) {
			var at int64
			_, _ = fmt.Sscan(word, &at)
			times = append(times, at)
		}
		return len(times) >= 5
	})
	first, last := time.Duration(times[1]-times[0]), time.Duration(times[4]-times[3])
	if first < 10*time.Millisecond || last < 80*time.Millisecond {
		t.Errorf("pauses %v and %v", first, last)
	}
	pid := keepers(o)[0]
	if left := zombies(pid); left > 1 {
		t.Errorf("%d zombies", left)
	}
}

func TestKeeperThatNobodyCanFindEndsWithItsFront(t *testing.T) {
	o := options(t)
	cmd := fronted(t, o, "front")
	if err := os.Remove(o.Socket); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	waitFor(t, "the keeper to end", func() bool { return len(keepers(o)) == 0 })
	if len(lives(o)) != 1 {
		t.Errorf("lives %v", lives(o))
	}
}

func TestKeeperThatIsToldToEndKillsWhatRuns(t *testing.T) {
	o := options(t)
	link, _ := connect(t, o)
	a := enter(t, link, 1)
	p := start(t, a, 1, shell("exec sleep 1000"))
	if err := unix.Kill(link.Info().Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-link.Ended():
	case <-time.After(20 * time.Second):
		t.Fatal("the front is not told")
	}
	waitFor(t, "the process to be dead", func() bool { return !alive(p.Pid()) })
	waitFor(t, "the keeper to end", func() bool { return len(keepers(o)) == 0 })
	for _, path := range []string{o.Socket, o.Socket + ".registry", o.Socket + ".lock"} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}
