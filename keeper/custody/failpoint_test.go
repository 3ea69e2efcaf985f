//go:build failpoints

package custody_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
)

// failpointNames returns the names in the source of the keeper, with the program
// that comes to each.
func failpointNames(t *testing.T) (names [][2]string) {
	t.Helper()
	call := regexp.MustCompile(`failpoint\.Hit\("([^"]+)"\)`)
	for dir, program := range map[string]string{".": "piped-keeper", "../spawner": "piped-spawner"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, match := range call.FindAllStringSubmatch(string(text), -1) {
				names = append(names, [2]string{program, match[1]})
			}
		}
	}
	return names
}

func TestDeathAtEachFailpointLosesNothing(t *testing.T) {
	names := failpointNames(t)
	hit := 0
	for _, name := range names {
		t.Run(name[1], func(t *testing.T) {
			dieAt(t, name[0]+":"+name[1])
			if !t.Failed() {
				hit++
			}
		})
	}
	t.Logf("names hit %d, total %d", hit, len(names))
}

// dieAt has a program killed at a failpoint while there is much to do.
func dieAt(t *testing.T, name string) {
	o := options(t)
	list := filepath.Join(filepath.Dir(o.Socket), "list")
	if err := os.WriteFile(list, []byte(name+"=kill@3\n"+name+"=kill@1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FAILPOINT_LIST", list)
	hits := func() int {
		text, _ := os.ReadFile(list + ".hit")
		return strings.Count(string(text), "\n")
	}
	link, estate := connect(t, o)
	if len(estate.Lost) > 0 {
		t.Errorf("lost %+v", estate.Lost)
	}
	r, _ := pipe(t)
	kept, err := link.Enter(keeper.UID{100}, "kept")
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.Put(keeper.Item{Key: 7, FD: r}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for more := 2; hits() < 2 && more > 0 && time.Now().Before(deadline); {
		if hits() > 0 {
			more--
		}
		ctx, stop := context.WithCancel(t.Context())
		var workers sync.WaitGroup
		for i := range 2 {
			workers.Go(func() { busy(ctx, t, link, byte(i+1), true) })
		}
		if p, err := kept.Start(t.Context(), 1, shell("exec sleep 1000")); err == nil {
			for range 3 {
				_ = p.Signal(unix.SIGCONT)
			}
			_ = p.Signal(unix.SIGKILL)
			exit(t, p)
			kept.Forget(1)
		}
		if pid := link.Info().Pid; pid > 0 { // 0 would be the whole process group
			_ = unix.Kill(pid, unix.SIGHUP)
		}
		timer := time.NewTimer(150 * time.Millisecond)
		<-timer.C
		stop()
		workers.Wait()
		// The next front: also one that dies in the middle of its keeper's death.
		if err := link.Close(); err != nil {
			t.Fatal(err)
		}
		link, estate = connect(t, o)
		kept = found(t, estate, link)
	}
	if hits() == 0 {
		t.Errorf("%s was never come to", name)
	}
	if err := link.End(t.Context()); err != nil {
		t.Error(err)
	}
}

// found returns the session that must be there, and closes what came with it.
// Without a front nothing is left when a keeper dies: then it was lost, and is made anew.
func found(t *testing.T, estate *keeper.Estate, link *keeper.Link) *keeper.Account {
	t.Helper()
	for _, lost := range estate.Lost {
		if lost.UID == (keeper.UID{100}) {
			return enter(t, link, 100)
		}
	}
	for _, s := range estate.Sessions {
		for _, fd := range s.Files {
			_ = unix.Close(fd)
		}
		if s.UID == (keeper.UID{100}) {
			for _, p := range s.Processes {
				_ = p.Signal(unix.SIGKILL)
				exit(t, p)
			}
			if len(s.Processes) > 0 {
				s.Account.Forget(1)
			}
			return s.Account
		}
		s.Account.Leave()
	}
	t.Fatalf("the session is neither there nor lost: %+v", estate)
	return nil
}
