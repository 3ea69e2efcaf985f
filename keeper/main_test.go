package keeper_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/keepertest"
)

// childVariable names the behaviour of the test binary when it is started as a
// child.
const childVariable = "PIPED_TEST_CHILD"

// behaviours are what the test binary can be as a child; used records which of
// them a test has started.
var (
	behaviours = map[string]func(args []string){
		"block":  beBlocked,
		"burn":   beBurning,
		"exit":   beExiting,
		"held":   beHeld,
		"front":  beFront,
		"list":   beListing,
		"orphan": beOrphaning,
		"touch":  beTouching,
		"worker": beWorker,
	}
	usedMu sync.Mutex
	used   = map[string]bool{}
)

func TestMain(m *testing.M) {
	keepertest.Main()
	if name := os.Getenv(childVariable); name != "" {
		behaviours[name](os.Args[1:])
		os.Exit(0)
	}
	startPoller()
	before := openFDs()
	code := m.Run()
	if code == 0 {
		code = leftBehind(before)
	}
	if code == 0 && flag.Lookup("test.run").Value.String()+flag.Lookup("test.list").Value.String() == "" {
		for name := range behaviours {
			if !used[name] {
				fmt.Fprintf(os.Stderr, "no test uses the child behaviour %q\n", name)
				code = 1
			}
		}
	}
	os.Exit(code)
}

// leftBehind returns an exit code that is not 0 if the tests left goroutines,
// descriptors or children.
func leftBehind(before []int) (code int) {
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if after := openFDs(); len(after) != len(before) {
		fmt.Fprintf(os.Stderr, "open descriptors: %v before, %v after the tests\n", before, after)
		code = 1
	}
	if left := children(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "children left: %v\n", left)
		code = 1
	}
	return code
}

// startPoller makes Go open its poller's descriptors, which it does once.
func startPoller() {
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	_ = r.Close()
	_ = w.Close()
}

// openFDs returns the numbers of our open descriptors.
func openFDs() []int {
	fds, err := numericNames("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return slices.DeleteFunc(fds, func(fd int) bool {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		return err != nil // the one that listed them
	})
}

// children returns the process ids of our children, zombies included.
func children() []string {
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		panic(err)
	}
	var list []string
	for _, task := range tasks {
		text, _ := os.ReadFile(task) // the thread may be gone
		list = append(list, strings.Fields(string(text))...)
	}
	return list
}

// A front is a link to a keeper, and an account to start processes in.
type front struct {
	*keeper.Link
	account *keeper.Account
	last    atomic.Uint32
}

// newKeeper returns a front with a keeper of its own, which ends with the test.
func newKeeper(t *testing.T) *front {
	t.Helper()
	link := keepertest.Start(t)
	return newFront(t, link)
}

func newFront(t *testing.T, link *keeper.Link) *front {
	t.Helper()
	account, err := link.Enter(keeper.UID{1}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return &front{Link: link, account: account}
}

// Start starts a process under a key of its own.
func (f *front) Start(ctx context.Context, spec keeper.Spec) (keeper.Process, error) {
	return f.account.Start(ctx, f.last.Add(1), spec)
}

// pids returns what the keeper has for children, the spawner among them.
func (f *front) pids(t *testing.T) []int {
	t.Helper()
	return childrenOf(t, f.Info().Pid)
}

// onlySpawner waits until the keeper has no child but the spawner.
func (f *front) onlySpawner(t *testing.T) {
	t.Helper()
	eventually(t, "the keeper has only its spawner", func() bool { return len(f.pids(t)) <= 1 })
}

// eventually waits until done says so.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not so after 30 s: %s", what)
		}
	}
}

// childrenOf returns the process ids of the children of a process, zombies included.
func childrenOf(t *testing.T, pid int) (list []int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		text, _ := os.ReadFile(task) // the thread may be gone
		for field := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, child)
		}
	}
	return list
}

// descriptorsOf returns the numbers of the open descriptors of a process, in ascending order.
func descriptorsOf(t *testing.T, pid int) []int {
	t.Helper()
	fds, err := numericNames(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return fds
}

// numericNames returns the names in dir that are numbers, in ascending order.
func numericNames(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, entry := range entries {
		if n, err := strconv.Atoi(entry.Name()); err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// program returns the Spec of an ordinary program.
func program(path string, args ...string) keeper.Spec {
	return keeper.Spec{
		Path: path,
		Args: append([]string{path}, args...),
		Env:  []string{"PATH=/usr/bin:/bin"},
	}
}

// cat returns the Spec of a program that runs until its stdin ends.
func cat(stdin int) keeper.Spec {
	spec := program("/bin/cat")
	spec.Files = []keeper.File{{FD: 0, Source: stdin}, {FD: 1, Source: -1}}
	return spec
}

// behaviour returns the Spec of the test binary as a child.
func behaviour(t *testing.T, name string, args ...string) keeper.Spec {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	usedMu.Lock()
	used[name] = true
	usedMu.Unlock()
	spec := program(self, args...)
	// A race-enabled binary sleeps for a second at its exit otherwise.
	spec.Env = append(spec.Env, childVariable+"="+name, "GORACE=atexit_sleep_ms=0")
	return spec
}

// start starts spec and kills it at the end of the test if it still runs.
func start(t *testing.T, k *front, spec keeper.Spec) keeper.Process {
	t.Helper()
	p, err := k.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Signal(unix.SIGKILL)
		waitDone(t, p)
	})
	return p
}

// waitDone waits for the exit of p and returns how it was.
func waitDone(t *testing.T, p keeper.Process) keeper.ExitStatus {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(30 * time.Second):
		t.Fatalf("process %d does not exit", p.Pid())
	}
	return p.Exit()
}

// output runs spec with its stdout on a pipe, stdin on /dev/null and stderr
// ours, and returns all it wrote and how it exited.
func output(t *testing.T, k *front, spec keeper.Spec) (string, keeper.ExitStatus) {
	t.Helper()
	r, w := pipe(t)
	spec.Files = append(spec.Files, keeper.File{FD: 0, Source: -1}, keeper.File{FD: 1, Source: w}, keeper.File{FD: 2, Source: 2})
	p := start(t, k, spec)
	closeFD(t, w)
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text), waitDone(t, p)
}

// blockingPipe returns the two descriptors of a pipe. The caller closes them.
func blockingPipe(t *testing.T) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return p[0], p[1]
}

// pipe returns a reader with deadlines, closed after the test, and the blocking
// descriptor of the writing end, which the caller closes.
func pipe(t *testing.T) (r *os.File, w int) {
	t.Helper()
	fd, w := blockingPipe(t)
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	r = os.NewFile(uintptr(fd), "pipe")
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r, w
}

func closeFD(t *testing.T, fd int) {
	t.Helper()
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
}

// readLine reads up to the first newline, one byte at a time.
func readLine(t *testing.T, r io.Reader) string {
	t.Helper()
	var line strings.Builder
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatalf("after %q: %v", line.String(), err)
		}
		if b[0] == '\n' {
			return line.String()
		}
		line.WriteByte(b[0])
	}
}

// fail ends a child with a message on its stderr.
func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "child: "+format+"\n", args...)
	os.Exit(1)
}

func TestNothingIsLeftBy500Starts(t *testing.T) {
	k := newKeeper(t)
	spec := program("/bin/true")
	waitDone(t, start(t, k, spec))
	k.onlySpawner(t)
	pids := []int{os.Getpid(), k.Info().Pid}
	pids = append(pids, k.pids(t)...)
	var before []int
	for _, pid := range pids {
		before = append(before, len(descriptorsOf(t, pid)))
	}
	goroutines := runtime.NumGoroutine()
	for range 500 {
		p, err := k.Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if exit := waitDone(t, p); exit.Code != 0 {
			t.Fatalf("exit %+v", exit)
		}
		k.account.Forget(k.last.Load())
	}
	k.onlySpawner(t)
	for i, pid := range pids {
		eventually(t, "all descriptors are closed again", func() bool { return len(descriptorsOf(t, pid)) <= before[i] })
	}
	if got := runtime.NumGoroutine(); got > goroutines {
		t.Errorf("%d goroutines before, %d after", goroutines, got)
	}
}
