package daemon

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/client"
)

// Patience is how long a test waits for what has to come. It is far longer than
// anything takes, so that only what never comes reaches it. Where everything is
// slow, as in a machine by software emulation, TEST_PATIENCE says how long.
var Patience = patienceFrom(os.Getenv("TEST_PATIENCE"))

func patienceFrom(text string) time.Duration {
	if d, err := time.ParseDuration(text); err == nil {
		return d
	}
	return 30 * time.Second
}

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
	opts   Options
	log    *os.File
	stop   sync.Once

	mu  sync.Mutex
	run *run // the latest one that this test has started
}

// Options say how to start a daemon otherwise than [Start] does.
type Options struct {
	// Args are further arguments.
	Args []string
	// Env is added to the environment, "KEY=value" each.
	Env []string
	// Bin is the directory of the programs; empty: those that Main has built.
	Bin string
	// Leave says that the arguments let it leave its sessions to the next daemon,
	// with the keeper and the socket.
	Leave bool
}

// A run is one process that this test has started. Its keeper starts others.
type run struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when err is final
	err    error
}

// Start starts piped with extraArgs on a socket of its own and returns once it
// answers. The end of the test stops it.
func Start(t testing.TB, extraArgs ...string) *Daemon {
	t.Helper()
	return StartWith(t, Options{Args: extraArgs})
}

// StartWith is Start with options.
func StartWith(t testing.TB, o Options) *Daemon {
	t.Helper()
	if o.Bin == "" {
		o.Bin = bin
	}
	if o.Bin == "" {
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
	// A file, because the keeper and daemons that it starts write into it too.
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	socket := filepath.Join(dir, "s")
	d := &Daemon{Addr: "unix://" + socket, Dir: dir, Bin: o.Bin, t: t, socket: socket, opts: o, log: log}
	t.Cleanup(d.Stop)
	d.Again()
	return d
}

// Again starts the daemon again that has ended, and returns once it answers. A
// daemon that was killed is started by its keeper too: the one that comes second
// is refused.
func (d *Daemon) Again() {
	d.t.Helper()
	r := d.begin()
	d.mu.Lock()
	d.run = r
	d.mu.Unlock()
	d.awaitService(r.exited)
}

// begin starts a daemon.
func (d *Daemon) begin() *run {
	d.t.Helper()
	r := &run{cmd: exec.Command(filepath.Join(d.Bin, "piped"), append([]string{"--listen", d.Addr}, d.opts.Args...)...), exited: make(chan struct{})}
	r.cmd.Env = append(d.environ(), d.opts.Env...)
	r.cmd.Dir = d.Dir
	r.cmd.Stderr = d.log
	if err := r.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() {
		defer close(r.exited)
		r.err = r.cmd.Wait()
	}()
	return r
}

// environ is what the daemon and pipectl get: nothing of the person who runs the
// tests but the PATH. HOME also marks the children, see leftovers.
func (d *Daemon) environ() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.Dir, "LANG=C.UTF-8", client.AddressVariable + "=" + d.Addr}
}

// awaitService waits until the daemon answers. It listens before that, and makes
// the rest of what it keeps in between.
func (d *Daemon) awaitService(exited <-chan struct{}) {
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
		case <-exited:
			d.t.Fatalf("piped ended instead of serving; its log:\n%s", d.Log())
		case <-ctx.Done():
			d.t.Fatalf("piped does not answer: %v", err)
		}
	}
}

// Log returns what the daemon and its keeper have logged up to now.
func (d *Daemon) Log() string {
	text, err := os.ReadFile(d.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

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
		paths := []string{d.socket, d.socket + ".keeper", d.socket + ".keeper.registry"}
		if d.opts.Leave {
			paths = paths[1:]
			d.AwaitExit(d.KillKeeper(syscall.SIGTERM))
		}
		for _, path := range paths {
			if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
				d.t.Errorf("%s is left over: Lstat says %v", path, err)
			}
		}
		for _, command := range leftovers(d.Dir) {
			d.t.Errorf("a process is left over: %s", command)
		}
		if d.t.Failed() {
			d.t.Logf("the log of piped:\n%s", d.Log())
		}
	})
}

// end sends SIGTERM to the daemon that serves and waits for its exit. One that
// stays is made to show its goroutines and killed, and its keeper ended.
func (d *Daemon) end() error {
	d.mu.Lock()
	r := d.run
	d.mu.Unlock()
	pid := d.PID()
	gone, err := watchExit(pid)
	if err != nil {
		return err
	}
	_ = syscall.Kill(pid, syscall.SIGTERM)
	if !within(gone) {
		_ = syscall.Kill(pid, syscall.SIGQUIT)
		_ = within(gone)
		_ = syscall.Kill(d.KeeperPID(), syscall.SIGTERM)
		return errors.New("it did not end")
	}
	<-gone
	if r.cmd.Process.Pid == pid {
		<-r.exited
		return r.err
	}
	return nil
}

// watchExit returns a channel that is closed when a process has exited, also one
// that is not a child of ours.
func watchExit(pid int) (<-chan struct{}, error) {
	gone := make(chan struct{})
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		close(gone)
		return gone, nil
	}
	if err != nil {
		return nil, err
	}
	go func() {
		defer close(gone)
		defer func() { _ = unix.Close(fd) }()
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(2*Patience/time.Millisecond)) //nolint:gosec // a descriptor
			if n > 0 || !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	return gone, nil
}

func within(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	case <-time.After(Patience):
		return false
	}
}
