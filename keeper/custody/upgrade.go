package custody

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/failpoint"
	"github.com/piped-dev/piped/keeper/wire"
)

// An upgrade is an exec: the process, its children and its connections stay, and
// the program is the one that is at the keeper's path by then. It happens at a
// moment when no request is under way. The new program first says, as another
// process, that it understands the state.

// upgradePatience is how long the keeper waits for such a moment, and for the
// new program's word.
const upgradePatience = 10 * time.Second

// checkFD is where the new program finds a state that it is to check.
const checkFD = 3

// upgrade becomes the program that is at the keeper's path, if that agrees.
func (c *custody) upgrade() {
	c.mu.Lock()
	if c.ending || c.upgrading {
		c.mu.Unlock()
		return
	}
	c.upgrading = true
	c.mu.Unlock()
	err := c.rehearse()
	if err == nil {
		err = c.become()
	}
	// Only a failure comes here.
	c.log.Error("the keeper was not upgraded, and goes on as it is", "program", c.o.program, "error", err)
	c.mu.Lock()
	c.upgrading = false
	c.mu.Unlock()
}

// rehearse has the program at the keeper's path check the state.
func (c *custody) rehearse() error {
	result := make(chan error, 1)
	c.mu.Lock()
	state, err := wire.NewBlob(c.snapshot().encode())
	if err != nil {
		c.mu.Unlock()
		return err
	}
	fds, err := c.checkSources(state)
	if err != nil {
		c.mu.Unlock()
		return err
	}
	c.starter.add(spawn{
		fds:    fds,
		wanted: func() bool { return !c.ending },
		done: func(pid, pidfd int, _ uint64, failure *wire.Failure) {
			if failure != nil {
				result <- errors.New(failure.Text)
				return
			}
			err := c.watchChild(pid, pidfd, func(exit wire.Process) {
				if exit.Unknown || exit.Code != 0 {
					result <- fmt.Errorf("the program refuses the state (exit code %d); it says why", exit.Code)
					return
				}
				result <- nil
			})
			if err != nil {
				result <- err
			}
		},
	})
	c.mu.Unlock()
	select {
	case err := <-result:
		return err
	case <-time.After(upgradePatience):
		return errors.New("the program does not say whether it understands the state")
	}
}

// checkSources returns what the spawner needs to have a state checked. It takes
// over the state.
func (c *custody) checkSources(state int) ([]int, error) {
	errors, err := duplicate(2)
	if err != nil {
		_ = unix.Close(state)
		return nil, err
	}
	spec := wire.Spec{
		Path: c.o.program, Args: append([]string{"piped-keeper", "--check-state", strconv.Itoa(checkFD)}, cgroupArgs(c.o.cgroup)...), Env: withoutFailpoints(os.Environ()), Dir: "/",
		Files: []wire.File{{FD: 0, Source: -1}, {FD: 1, Source: -1}, {FD: 2, Source: 1}, {FD: checkFD, Source: 0}},
	}
	blob, err := wire.NewBlob(spec.Encode())
	if err != nil {
		wire.CloseAll([]int{state, errors})
		return nil, err
	}
	return []int{state, errors, blob}, nil
}

// withoutFailpoints leaves out what is meant for keepers that keep.
func withoutFailpoints(env []string) []string {
	return slices.DeleteFunc(env, func(v string) bool { return len(v) >= 9 && v[:9] == "FAILPOINT" })
}

// become waits for a quiet moment and executes the program. It returns only when
// that fails.
func (c *custody) become() error {
	if err := c.quiet(); err != nil {
		c.goOn()
		return err
	}
	// The lock is held, and nothing but this goroutine does anything.
	defer c.mu.Unlock()
	defer c.goOnLocked()
	s := c.snapshot()
	state, err := wire.NewBlob(s.encode())
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(state) }()
	failpoint.Hit("custody.before-exec")
	args := append([]string{"piped-keeper", "--state", strconv.Itoa(state)}, c.o.args...)
	env := os.Environ()
	if c.notifier.address != "" {
		env = append(env, notifyVariable+"="+c.notifier.address)
	}
	// A signal that comes before the new program handles it must wait.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var late, old unix.Sigset_t
	for _, sig := range []syscall.Signal{unix.SIGHUP, unix.SIGTERM, unix.SIGINT, unix.SIGPIPE} {
		late.Val[(sig-1)/64] |= 1 << ((sig - 1) % 64)
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &late, &old); err != nil {
		return os.NewSyscallError("rt_sigprocmask", err)
	}
	keep := append(s.descriptors(), state)
	for _, fd := range keep {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			c.log.Error("a descriptor will not survive the upgrade", "fd", fd, "error", err)
		}
	}
	c.log.Info("the keeper becomes another program", "program", c.o.program, "version", c.o.version)
	err = syscall.Exec(c.o.program, args, env)
	for _, fd := range keep {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	}
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
	return &os.PathError{Op: "exec", Path: c.o.program, Err: err}
}

// quiet waits until no request is under way and none comes. If there is no error
// it returns with the lock held.
func (c *custody) quiet() error {
	c.mu.Lock()
	c.resumed = make(chan struct{})
	for p := range c.peers {
		_ = p.conn.SetReadDeadline(time.Unix(1, 0))
	}
	c.mu.Unlock()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(upgradePatience)
	for held := false; ; {
		c.mu.Lock()
		// Nothing new is begun from here on, but what was asked for is done.
		if c.standing == len(c.peers) && !held && c.starter.empty() {
			held = true
			c.mu.Unlock()
			c.starter.hold()
			c.mu.Lock()
			c.starterHeld = true
		}
		switch {
		case c.ending:
			c.mu.Unlock()
			return errors.New("the keeper ends")
		case held && c.still():
			return nil
		case held && !c.starter.empty(): // a front that is to be started again
			held, c.starterHeld = false, false
			c.starter.goOn()
		}
		c.mu.Unlock()
		if time.Now().After(deadline) {
			return errors.New("there was no moment at which nothing was under way")
		}
		<-tick.C
	}
}

// still tells whether nothing is under way.
func (c *custody) still() bool {
	if c.standing != len(c.peers) || c.pending > 0 || len(c.deferred) > 0 || !c.starter.empty() {
		return false
	}
	for p := range c.peers {
		if !p.idle() || !p.conn.Whole() || p.state == peerInherit || p.state == peerUpload {
			return false
		}
	}
	return true
}

// stand has the reader of a peer wait until it may go on.
func (c *custody) stand(p *peer) {
	c.mu.Lock()
	resumed := c.resumed
	if resumed == nil || !p.conn.Whole() || p.state == peerInherit || p.state == peerUpload {
		// The rest is on its way; and a recovery is not to be stopped in the middle.
		_ = p.conn.SetReadDeadline(time.Time{})
		if resumed != nil {
			time.AfterFunc(time.Millisecond, func() { c.halt(p) })
		}
		c.mu.Unlock()
		return
	}
	c.standing++
	c.mu.Unlock()
	<-resumed
}

// halt interrupts the reader of a peer again.
func (c *custody) halt(p *peer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.peers[p]; there && c.resumed != nil {
		_ = p.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// goOn lets everything go on after an attempt that failed.
func (c *custody) goOn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.goOnLocked()
}

func (c *custody) goOnLocked() {
	for p := range c.peers {
		_ = p.conn.SetReadDeadline(time.Time{})
	}
	close(c.resumed)
	c.resumed, c.standing = nil, 0
	if c.starterHeld {
		c.starterHeld = false
		c.starter.goOn()
	}
}

// snapshot returns all that there is. Processes that are being made are left
// out: there are none when it counts.
func (c *custody) snapshot() *snapshot {
	s := &snapshot{
		started: c.started, gone: c.gone, lock: int(c.place.lock.Fd()), listener: c.place.listener, registry: c.reg.fd(),
		passed: c.o.passed, notify: c.notifier.address, again: c.again, front: c.front, fresh: c.fresh, unadopted: c.unadopted, losses: c.losses,
	}
	s.connected = c.front != nil && c.front.peer != nil
	for _, uid := range c.uids() {
		s.accounts = append(s.accounts, c.accounts[uid])
	}
	for p := range c.peers {
		one := peerSnapshot{pid: p.pid, pidfd: p.pidfd, start: p.start, state: p.state, front: p.front,
			id: p.hello.ID, flags: p.hello.Args[1], epoch: p.hello.Args[2], version: p.hello.Text}
		_ = p.conn.Control(func(fd int) { one.conn = fd })
		s.peers = append(s.peers, one)
	}
	for pid, pidfd := range c.wards {
		s.wards = append(s.wards, ward{pid, pidfd})
	}
	return s
}

// descriptors returns all numbers that the new program needs.
func (s *snapshot) descriptors() []int {
	fds := []int{s.lock, s.listener, s.registry}
	if s.front != nil {
		fds = append(fds, s.front.pidfd)
	}
	for _, a := range s.accounts {
		for _, f := range a.files {
			fds = append(fds, f.fd)
		}
		for _, p := range a.processes {
			fds = append(fds, p.pidfd)
		}
	}
	for _, p := range s.peers {
		fds = append(fds, p.conn, p.pidfd)
	}
	for _, w := range s.wards {
		fds = append(fds, w.pidfd)
	}
	return slices.DeleteFunc(fds, func(fd int) bool { return fd < 0 })
}
