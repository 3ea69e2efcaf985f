package pipe

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// TestMain holds every test to leaving no goroutine and no descriptor behind.
func TestMain(m *testing.M) {
	if role := os.Getenv(crashEnv); role != "" {
		os.Exit(playCrashRole(role))
	}
	warm, err := NewPoller() // Go's own poller has descriptors too, from its first use on
	if err == nil {
		err = warm.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	before := descriptors()
	code := m.Run()
	if code == 0 && !inMemory && flag.Lookup("test.fuzz").Value.String() == "" {
		code = runInMemory()
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if after := descriptors(); len(after) > len(before) {
		fmt.Fprintf(os.Stderr, "descriptors are left: before %v, after %v\n", before, after)
		code = 1
	}
	os.Exit(code)
}

// runInMemory runs the same tests once more, in memory.
func runInMemory() int {
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), "PIPED_TEST_LOGS=memory")
	out, err := cmd.CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "with logs in memory: %v\n%s", err, out)
		return 1
	}
	return 0
}

func descriptors() (open []string) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			open = append(open, e.Name()+" "+to)
		}
	}
	return open
}

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// inMemory makes the tests use plain moves and logs that are the process's own
// memory: TestMain runs them both ways.
var inMemory = os.Getenv("PIPED_TEST_LOGS") == "memory"

func testSpec(kind Kind, framing string, sealed bool) Spec {
	f := Framing{Name: framing}
	return Spec{Kind: kind, In: f, Out: f, LogSize: 4 << 20, TailSize: 64 << 10, MaxMessage: 1 << 30, Sealed: sealed}
}

func newTestPoller(t testing.TB) *Poller {
	t.Helper()
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// open makes a pipe whose ends are closed after the test.
func open(t testing.TB, spec Spec) (one, two *Endpoint) {
	t.Helper()
	one, two, err := Open(newTestPoller(t), exactly(t, spec))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closeEnd(t, one, true)
		closeEnd(t, two, true)
	})
	return one, two
}

// A cleaner is a test that cleans up after itself.
type cleaner interface {
	rapid.TB
	Cleanup(func())
}

// exactly gives a pipe a control file, unless the tests run in memory. The pipe
// must be closed by a cleanup that is registered later.
func exactly(t cleaner, spec Spec) Spec {
	t.Helper()
	if inMemory {
		return spec
	}
	control, err := NewControl(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(control.Close)
	spec.Control = control
	return spec
}

func closeEnd(t testing.TB, e *Endpoint, discard bool) {
	t.Helper()
	e.Close(discard)
	await(t, "the end to be closed", e.Closed())
}

// await waits for a channel to be closed.
func await(t rapid.TB, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
}

// until looks at cond after every change until it holds.
func until(t rapid.TB, what string, changed <-chan struct{}, cond func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !cond() {
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// poll looks at cond again and again: for facts of the kernel that nobody
// announces.
func poll(t rapid.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// next waits for the next event.
func next(t rapid.TB, c *Cursor, lim Limits) Event {
	t.Helper()
	deadline := time.After(patience)
	for {
		ev, err := c.Next(nil, lim)
		if err != nil {
			t.Fatal(err)
		}
		if !ev.None() {
			return ev
		}
		select {
		case <-c.Changed():
		case <-deadline:
			t.Fatalf("nothing came at %v", c.Position())
		}
	}
}

func nextBatch(t rapid.TB, c *Cursor, lim Limits) *Batch {
	t.Helper()
	ev := next(t, c, lim)
	if ev.Batch == nil {
		t.Fatalf("got gap %+v, end %+v instead of a batch", ev.Gap, ev.End)
	}
	return ev.Batch
}

func nextEnd(t rapid.TB, c *Cursor) *End {
	t.Helper()
	ev := next(t, c, Limits{})
	if ev.End == nil {
		t.Fatalf("got %+v, %+v instead of the end", ev.Batch, ev.Gap)
	}
	return ev.End
}

// none asserts that nothing is there.
func none(t rapid.TB, c *Cursor) {
	t.Helper()
	if ev, err := c.Next(nil, Limits{}); err != nil || !ev.None() {
		t.Fatalf("got %+v, %v instead of nothing", ev, err)
	}
}

// send appends and pushes a whole message.
func send(t testing.TB, e *Endpoint, data string) {
	t.Helper()
	if err := trySend(e, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

func trySend(e *Endpoint, data []byte) error {
	if err := e.out.Append(Part{Data: data}); err != nil {
		return err
	}
	return e.out.Push()
}

// sendWaiting appends a part as soon as there is room.
func sendWaiting(t testing.TB, e *Endpoint, p Part) {
	t.Helper()
	changed, stop := e.out.Watch()
	defer stop()
	var err error
	until(t, "room", changed, func() bool {
		err = e.out.Append(p)
		return err != ErrNoRoom //nolint:errorlint // as Append returns it
	})
	if err == nil {
		err = e.out.Push()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// peer gives the test the other end as a process would have it: plain
// descriptors, blocking. The daemon's copies are closed.
type peer struct{ r, w int }

func takePeer(t testing.TB, e *Endpoint) *peer {
	t.Helper()
	p := copyPeer(t, e)
	closeEnd(t, e, false)
	return p
}

// copyPeer is takePeer without closing.
func copyPeer(t testing.TB, e *Endpoint) *peer {
	t.Helper()
	p := &peer{r: -1, w: -1}
	r, w := e.Descriptors()
	if r >= 0 {
		p.r = dup(t, r)
	}
	switch {
	case w == r:
		p.w = p.r
	case w >= 0:
		p.w = dup(t, w)
	}
	t.Cleanup(p.close)
	return p
}

func dup(t testing.TB, fd int) int {
	t.Helper()
	d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (p *peer) close() {
	p.closeRead()
	p.closeWrite()
}

func (p *peer) closeRead() {
	if p.r >= 0 {
		_ = unix.Close(p.r)
	}
	if p.w == p.r {
		p.w = -1
	}
	p.r = -1
}

func (p *peer) closeWrite() {
	if p.w >= 0 {
		_ = unix.Close(p.w)
	}
	if p.w == p.r {
		p.r = -1
	}
	p.w = -1
}

func (p *peer) write(t testing.TB, s string) {
	t.Helper()
	for b := []byte(s); len(b) > 0; {
		n, err := unix.Write(p.w, b)
		if err != nil {
			t.Error(err) // not Fatal: any goroutine may write
			return
		}
		b = b[n:]
	}
}

// read reads exactly n bytes.
func (p *peer) read(t testing.TB, n int) string {
	t.Helper()
	b := make([]byte, n)
	for got := 0; got < n; {
		m, err := unix.Read(p.r, b[got:])
		if err != nil || m == 0 {
			t.Fatalf("read %d, %v after %d of %d bytes", m, err, got, n)
		}
		got += m
	}
	return string(b)
}

// A python is a real child with an end on descriptors 3 and up.
type python struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan struct{}
	err  error
}

// startPython runs code in a child that inherits copies of descriptors. code
// finds Connection as C.
func startPython(t testing.TB, code string, fds ...int) *python {
	t.Helper()
	p := &python{cmd: exec.Command("python3", "-c", "import os, sys\nfrom multiprocessing.connection import Connection as C\n"+code), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	for _, fd := range fds {
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, os.NewFile(uintptr(dup(t, fd)), "inherited"))
	}
	err := p.cmd.Start()
	for _, f := range p.cmd.ExtraFiles {
		_ = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

// wait waits for the child to exit well, and returns what it printed.
func (p *python) wait(t testing.TB) string {
	t.Helper()
	await(t, "the child to exit", p.done)
	if p.err != nil {
		t.Fatalf("child: %v\n%s", p.err, &p.out)
	}
	return p.out.String()
}

// startOnEnd starts a child that gets the end e for itself.
func startOnEnd(t testing.TB, e *Endpoint, code string) *python {
	t.Helper()
	r, w := e.Descriptors()
	fds := []int{r}
	if w != r {
		fds = append(fds, w)
	}
	p := startPython(t, code, fds...)
	closeEnd(t, e, false)
	return p
}
