package keeper

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// childVariable names the behaviour of the test binary when it is started as a
// child.
const childVariable = "PIPED_TEST_CHILD"

// behaviours are what the test binary can be as a child; used records which of
// them a test has started.
var (
	behaviours = map[string]func(args []string){
		"block":       beBlocked,
		"descriptors": beWithoutDescriptors,
		"exit":        beExiting,
		"keeper":      beKeeper,
		"list":        beListing,
		"orphan":      beOrphaning,
	}
	usedMu sync.Mutex
	used   = map[string]bool{}
)

func TestMain(m *testing.M) {
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

func testLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newKeeper(t *testing.T) *Local {
	t.Helper()
	k := New(testLog())
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return k
}

// program returns the Spec of an ordinary program.
func program(path string, args ...string) Spec {
	return Spec{
		Path: path,
		Args: append([]string{path}, args...),
		Env:  []string{"PATH=/usr/bin:/bin"},
	}
}

// cat returns the Spec of a program that runs until its stdin ends.
func cat(stdin int) Spec {
	spec := program("/bin/cat")
	spec.Files = []File{{FD: 0, Source: stdin}, {FD: 1, Source: -1}}
	return spec
}

// behaviour returns the Spec of the test binary as a child.
func behaviour(t *testing.T, name string, args ...string) Spec {
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
func start(t *testing.T, k *Local, spec Spec) Process {
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
func waitDone(t *testing.T, p Process) ExitStatus {
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
func output(t *testing.T, k *Local, spec Spec) (string, ExitStatus) {
	t.Helper()
	r, w := pipe(t)
	spec.Files = append(spec.Files, File{FD: 0, Source: -1}, File{FD: 1, Source: w}, File{FD: 2, Source: 2})
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

// runOutput runs a program from inside a child, with the child's own stdout.
func runOutput(k *Local, spec Spec) error {
	spec.Files = []File{{FD: 0, Source: -1}, {FD: 1, Source: 1}, {FD: 2, Source: 2}}
	p, err := k.Start(context.Background(), spec)
	if err != nil {
		return err
	}
	<-p.Done()
	if exit := p.Exit(); exit.Code != 0 {
		return fmt.Errorf("%s: %+v", spec.Path, exit)
	}
	return nil
}

func TestNothingIsLeftBy500Starts(t *testing.T) {
	k := newKeeper(t)
	spec := program("/bin/true")
	fds, goroutines := len(openFDs()), runtime.NumGoroutine()
	for range 500 {
		p, err := k.Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if exit := waitDone(t, p); exit.Code != 0 {
			t.Fatalf("exit %+v", exit)
		}
	}
	if got := len(openFDs()); got != fds {
		t.Errorf("%d descriptors before, %d after", fds, got)
	}
	if left := children(); len(left) > 0 {
		t.Errorf("children left: %v", left)
	}
	k.reapers.Wait()
	if got := runtime.NumGoroutine(); got > goroutines {
		t.Errorf("%d goroutines before, %d after", goroutines, got)
	}
	if len(k.children) != 0 {
		t.Errorf("the keeper still knows %v", slices.Collect(maps.Keys(k.children)))
	}
}
