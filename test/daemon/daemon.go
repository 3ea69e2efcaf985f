package daemon

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
)

// Patience is how long a test waits for what has to come. It is far longer than
// anything takes, so that only what never comes reaches it.
const Patience = 30 * time.Second

// A Daemon is a piped in a process of its own. Its methods are safe for
// concurrent use.
type Daemon struct {
	// Addr is the address, unix:///PATH.
	Addr string
	// Dir is a directory of this daemon's own, with mode 0700 and a short path.
	// It is the HOME of the daemon and so of its children, and is removed at the
	// end of the test.
	Dir string
	// Bin is the directory that holds piped and pipectl.
	Bin string

	t      testing.TB
	socket string
	cmd    *exec.Cmd
	log    log
	stop   sync.Once
	exited chan struct{} // closed when err is final
	err    error
}

// Start starts piped with extraArgs on a socket of its own and returns once it
// answers. The end of the test stops it.
func Start(t testing.TB, extraArgs ...string) *Daemon {
	t.Helper()
	if bin == "" {
		t.Fatal("the programs are not built: call daemon.Main from TestMain")
	}
	dir, err := os.MkdirTemp("/tmp", "piped-") //nolint:usetesting // the path of a socket has little room
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	socket := filepath.Join(dir, "s")
	d := &Daemon{Addr: "unix://" + socket, Dir: dir, Bin: bin, t: t, socket: socket, exited: make(chan struct{})}
	d.cmd = exec.Command(filepath.Join(bin, "piped"), append([]string{"--listen", d.Addr}, extraArgs...)...)
	d.cmd.Env = d.environ()
	d.cmd.Dir = dir
	d.cmd.Stderr = &d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.exited)
		d.err = d.cmd.Wait()
	}()
	t.Cleanup(d.Stop)
	d.awaitService()
	return d
}

// environ is what the daemon and pipectl get: nothing of the person who runs the
// tests but the PATH. HOME also marks the children, see leftovers.
func (d *Daemon) environ() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.Dir, "LANG=C.UTF-8", client.AddressVariable + "=" + d.Addr}
}

// awaitService waits until the daemon answers. It listens before that, and makes
// the rest of what it keeps in between.
func (d *Daemon) awaitService() {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), Patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := client.Dial(ctx, d.Addr)
		if err == nil {
			if err := c.Close(); err != nil {
				d.t.Fatal(err)
			}
			return
		}
		select {
		case <-tick.C:
		case <-d.exited:
			d.t.Fatalf("piped ended instead of serving: %v", d.err)
		case <-ctx.Done():
			d.t.Fatalf("piped does not answer: %v", err)
		}
	}
}

// PID returns the process id of the daemon.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Log returns what the daemon has logged up to now.
func (d *Daemon) Log() string { return d.log.String() }

// Dial connects the Go client to the daemon; the end of the test closes the
// connection.
func (d *Daemon) Dial(t testing.TB) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	c, err := client.Dial(ctx, d.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Stop ends the daemon with SIGTERM and fails the test unless it exits 0 and
// leaves nothing behind. It may be called early; only the first call does
// anything, and the others wait for it.
func (d *Daemon) Stop() {
	d.t.Helper()
	d.stop.Do(func() {
		d.t.Helper()
		if err := d.end(); err != nil {
			d.t.Errorf("piped after SIGTERM: %v, want exit status 0", err)
		}
		if _, err := os.Lstat(d.socket); !errors.Is(err, os.ErrNotExist) {
			d.t.Errorf("the socket is left over: Lstat says %v", err)
		}
		for _, command := range leftovers(d.Dir) {
			d.t.Errorf("a process is left over: %s", command)
		}
		if d.t.Failed() {
			d.t.Logf("the log of piped:\n%s", d.Log())
		}
	})
}

// end sends SIGTERM and waits for the exit. A daemon that stays is made to show
// its goroutines and killed.
func (d *Daemon) end() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-d.exited:
		return d.err
	case <-time.After(Patience):
	}
	_ = d.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-d.exited:
	case <-time.After(Patience):
		_ = d.cmd.Process.Kill()
		<-d.exited
	}
	return errors.New("it did not end")
}

// log keeps what the daemon writes to stderr.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write appends to the log.
func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
