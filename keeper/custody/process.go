package custody

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/failpoint"
	"github.com/piped-dev/piped/keeper/wire"
)

// tracerPatience is how long a tracer may have a child of ours that has exited
// before its exit is told without what it has used.
const tracerPatience = 200 * time.Millisecond

// strangerPatience is how long a process that is no child of ours may be a
// zombie whose status cannot be read, before it counts as unknown.
const strangerPatience = 5 * time.Second

// A process is one that was started for an account. The custody's lock guards it.
type process struct {
	wire.Process
	uid       [16]byte
	key       uint32
	slot      int // of its record; 0 once that was dropped
	pidfd     int // -1 before it was started and after its exit
	token     int32
	child     bool // of this keeper
	starting  bool
	discarded bool // its record is gone
	asked     bool // the front knows it
	claimed   bool // by the upload under way
	told      bool // the front knows its exit
	started   []func()
	ended     []func()
}

func (p *process) record() *record {
	return &record{kind: recordProcess, uid: p.uid, key: p.key, process: p.Process}
}

// describe puts the process into a message, and returns a copy of its pidfd.
func (p *process) describe(m *wire.Message) (fds []int, err error) {
	m.SetProcess(&p.Process)
	p.asked = true
	if p.told = p.Exited; p.Exited {
		return nil, nil
	}
	fd, err := duplicate(p.pidfd)
	if err != nil {
		return nil, err
	}
	return []int{fd}, nil
}

// watch waits for the exit of a process, whose pidfd it has.
func (c *custody) watch(p *process) (err error) {
	p.token, err = c.watcher.add(p.pidfd, unix.EPOLLIN, func(events uint32) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.look(p, events)
	})
	if err == nil && p.child {
		c.children[p.Pid] = func() { c.look(p, unix.EPOLLIN) }
	}
	return err
}

// look finds out whether a process has exited, and how.
func (c *custody) look(p *process, events uint32) {
	if p.Exited {
		return
	}
	if p.child {
		exited, err := childExit(p.pidfd, &p.Process)
		switch {
		case err != nil:
			c.log.Error("something else has waited for a child", "pid", p.Pid, "error", err)
			unknownExit(&p.Process)
		case !exited && gone(p.pidfd):
			c.awaitTracer(p)
			return
		case !exited:
			c.watcher.again(p.pidfd, p.token, unix.EPOLLIN)
			return
		}
		c.exited(p)
		return
	}
	switch {
	case strangerExit(p.pidfd, &p.Process):
		c.exited(p)
	case events&unix.EPOLLHUP != 0 && !strangerExit(p.pidfd, &p.Process):
		unknownExit(&p.Process)
		c.exited(p)
	case !p.Exited:
		// It waits for its parent, and only that is told from here on.
		c.watcher.again(p.pidfd, p.token, 0)
		time.AfterFunc(strangerPatience, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if !p.Exited {
				unknownExit(&p.Process)
				c.exited(p)
			}
		})
	default:
		c.exited(p)
	}
}

// awaitTracer is for a child that has exited and that a tracer other than us has
// not let go: until then the kernel tells nobody else, and has the zombie. A
// debugger lets go at once. What does not is not waited for: how the child has
// exited is told from /proc, without what it has used, and a sweep reaps it later.
func (c *custody) awaitTracer(p *process) {
	c.watcher.again(p.pidfd, p.token, 0)
	time.AfterFunc(tracerPatience, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if p.Exited {
			return
		}
		if exited, err := childExit(p.pidfd, &p.Process); (err != nil || !exited) && !strangerExit(p.pidfd, &p.Process) {
			unknownExit(&p.Process)
		}
		c.exited(p)
	})
}

// exited records an exit that was seen, reaps, and tells.
func (c *custody) exited(p *process) {
	failpoint.Hit("custody.exit-seen")
	if c.confined(p) && p.Signal == int(unix.SIGKILL) {
		p.OutOfMemory = c.tree.OutOfMemory(p.uid, p.key)
	}
	if p.slot != 0 {
		c.reg.set(p.slot, p.record())
	}
	failpoint.Hit("custody.exit-recorded")
	if p.Sweep {
		_ = c.killTree(p) // not reaped yet, so that its number is its own; nobody may be left
	}
	if p.child {
		reap(p.pidfd)
		delete(c.children, p.Pid)
	}
	failpoint.Hit("custody.reaped")
	c.watcher.forget(p.token)
	_ = unix.Close(p.pidfd)
	p.pidfd = -1
	c.log.Debug("process exited", "pid", p.Pid, "code", p.Code, "signal", p.Signal, "unknown", p.Unknown)
	if p.asked {
		c.tell(p)
	}
	c.leaveGroup(p)
	for _, f := range p.ended {
		f()
	}
	p.ended = nil
}

// tell tells the front of an exit, if there is one that serves. Others learn it
// with the estate.
func (c *custody) tell(p *process) {
	front := c.serving()
	if front == nil || p.told {
		return
	}
	p.told = true
	m := wire.Message{Verb: wire.Exit, UID: p.uid, Key: p.key}
	m.SetProcess(&p.Process)
	front.send(m)
}

// discard lets a process go: it is killed if it runs. done is called when it is
// reaped.
func (c *custody) discard(a *account, key uint32, p *process, done func()) {
	delete(a.processes, key)
	if p.slot != 0 {
		c.reg.drop(p.slot)
		p.slot = 0
	}
	p.discarded = true
	end := func() {
		if p.pidfd < 0 { // it has exited, or was never there
			done()
			return
		}
		p.ended = append(p.ended, done)
		_ = c.killTree(p)
	}
	if p.starting {
		p.started = append(p.started, end)
		return
	}
	end()
}

// signal sends a signal, to the descendants too if the flags say so.
func (c *custody) signal(p *process, sig syscall.Signal, flags uint64) wire.Code {
	if p.pidfd < 0 {
		return wire.Exited
	}
	if flags&wire.Sweep != 0 && !p.Sweep {
		p.Sweep = true
		if p.slot != 0 {
			c.reg.set(p.slot, p.record())
		}
	}
	var err error
	if flags&wire.ToGroup != 0 {
		err = c.signalTree(p, sig)
	} else {
		err = unix.PidfdSendSignal(p.pidfd, sig, nil, 0)
	}
	switch {
	case err == nil:
		return wire.OK
	case errors.Is(err, syscall.ESRCH):
		return wire.Exited
	}
	return wire.Refused
}

// signalGroup sends a signal to the process group of a process whose pidfd is
// open. Kernels before 6.9 know groups by number only. The number is the pid,
// which nobody else has as long as the process is not reaped, and only of our own
// child we know that: of another one the leader alone is reached.
func (p *process) signalGroup(sig syscall.Signal) error {
	err := unix.PidfdSendSignal(p.pidfd, sig, nil, unix.PIDFD_SIGNAL_PROCESS_GROUP)
	if !errors.Is(err, syscall.EINVAL) {
		return err
	}
	if p.child {
		return unix.Kill(-p.Pid, sig)
	}
	return unix.PidfdSendSignal(p.pidfd, sig, nil, 0)
}

// sweep reaps children that nobody knows: a program that could not be executed
// leaves one. What is known and has exited is taken down on the way, because it
// stands in front. So does a child that stands still and has us for its tracer; it
// stays, and is stopped until it is killed, which is what it asked for.
func (c *custody) sweep() {
	for {
		info, err := waitid(unix.P_ALL, 0, unix.WNOWAIT, nil)
		if err != nil || info.signo == 0 {
			return
		}
		if !info.hasExited() {
			forgetStop(int(info.pid))
			continue
		}
		if known := c.children[int(info.pid)]; known != nil {
			known()
			continue
		}
		_, _ = waitid(unix.P_PID, int(info.pid), 0, nil)
	}
}
