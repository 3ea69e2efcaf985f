package custody_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/custody"
)

// roleVariable says what the test binary is when a test has started it.
const roleVariable = "CUSTODY_TEST_ROLE"

var roles = map[string]func(args []string){
	"front": beFront,
	"crash": beCrashing,
}

func TestMain(m *testing.M) {
	if strings.HasPrefix(filepath.Base(os.Args[0]), "piped-") {
		code := custody.Main(os.Args[1:], "test")
		// Not os.Exit: a race-enabled binary sleeps for a second there.
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(code), 0, 0)
	}
	if role := os.Getenv(roleVariable); role != "" {
		roles[role](os.Args[1:])
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	goleak.VerifyTestMain(m)
}

// options returns options for a keeper of the test's own.
func options(t *testing.T) keeper.Options {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "custody-") //nolint:usetesting // the path of a socket has little room
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := keeper.Options{Socket: filepath.Join(dir, "k"), Program: self, Version: "test"}
	t.Cleanup(func() {
		for _, pid := range keepers(o) {
			_ = unix.Kill(pid, unix.SIGTERM)
		}
		waitFor(t, "the keepers to end", func() bool { return len(keepers(o)) == 0 })
		_ = os.RemoveAll(dir)
	})
	return o
}

// keepers returns the process ids of the keepers at a place.
func keepers(o keeper.Options) []int {
	return processes(func(args []string) bool {
		return filepath.Base(args[0]) == "piped-keeper" && slices.Contains(args, o.Socket)
	})
}

// processes returns those whose arguments match.
func processes(match func(args []string) bool) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || len(text) == 0 {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/", &pid); err == nil && match(strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// waitFor waits until done says so, for a while.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// connect connects to the keeper of o, and closes the link at the end.
func connect(t *testing.T, o keeper.Options) (*keeper.Link, *keeper.Estate) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	link, estate, err := keeper.Connect(ctx, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = link.Close() })
	return link, estate
}

func enter(t *testing.T, l *keeper.Link, number byte) *keeper.Account {
	t.Helper()
	a, err := l.Enter(keeper.UID{number}, fmt.Sprintf("session %d", number))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// shell returns the spec of a script.
func shell(script string, files ...keeper.File) keeper.Spec {
	return keeper.Spec{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}, Files: files}
}

func start(t *testing.T, a *keeper.Account, key uint32, spec keeper.Spec) keeper.Process {
	t.Helper()
	p, err := a.Start(t.Context(), key, spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// exit waits for the exit of p.
func exit(t *testing.T, p keeper.Process) keeper.ExitStatus {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		t.Fatalf("process %d does not exit", p.Pid())
	}
	return p.Exit()
}

// pipe returns the descriptors of a pipe, closed at the end.
func pipe(t *testing.T) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Close(p[0])
		_ = unix.Close(p[1])
	})
	return p[0], p[1]
}

func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	return len(fields) > 0 && fields[0] != "Z"
}

// parent returns the parent of a process; 0 if it is gone.
func parent(pid int) (ppid int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, _ = fmt.Sscanf(string(text[strings.LastIndexByte(string(text), ')')+1:]), " %s %d", new(string), &ppid)
	return ppid
}

// children returns the children of a process.
func children(of int) (pids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", of))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for word := range strings.FieldsSeq(string(text)) {
			var pid int
			if _, err := fmt.Sscan(word, &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func notify(signals chan os.Signal) { signal.Notify(signals, unix.SIGUSR1, unix.SIGUSR2) }
