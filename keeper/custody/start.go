package custody

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/failpoint"
	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/spawner"
	"github.com/piped-dev/piped/keeper/wire"
)

// A spawn is a process that is to be made.
type spawn struct {
	fds []int // sources and blob; closed when it was tried
	// group, which may be nil, makes the cgroup in which the process is born.
	group func() (fd int, err error)
	// wanted is asked right before. made, which may be nil, puts a new process on
	// record, before the spawner lets go of it. done is told how it went, with the
	// pidfd, which it takes over. All are called with the custody's lock held.
	wanted func() bool
	made   func(pid int, start uint64)
	done   func(pid, pidfd int, start uint64, failure *wire.Failure)
}

// starter talks to the spawner: one process after the other.
type starter struct {
	c *custody

	mu    sync.Mutex // guards what follows
	queue []spawn
	held  int // greater than zero: nothing new is begun
	busy  bool
	more  *sync.Cond

	// Of the starter's goroutine alone.
	conn  *wire.Conn
	pid   int
	pidfd int
}

func newStarter(c *custody) *starter {
	s := &starter{c: c, pidfd: -1}
	s.more = sync.NewCond(&s.mu)
	return s
}

// add puts a spawn at the end of the queue.
func (s *starter) add(one spawn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, one)
	s.more.Broadcast()
}

// hold keeps new spawns back and waits for the one under way.
func (s *starter) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held++
	for s.busy {
		s.more.Wait()
	}
}

// empty tells whether nothing is to be made.
func (s *starter) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) == 0 && !s.busy
}

// goOn is the inverse of hold.
func (s *starter) goOn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held--
	s.more.Broadcast()
}

// sweep reaps children that nobody knows, unless one is being made: then that is done after it. The custody's lock is held.
func (s *starter) sweep() {
	s.mu.Lock()
	if s.busy {
		s.mu.Unlock()
		return
	}
	s.held++
	s.mu.Unlock()
	s.c.sweep()
	s.goOn()
}

// run makes what is in the queue, for ever.
func (s *starter) run() {
	for {
		s.mu.Lock()
		s.busy = false
		s.more.Broadcast()
		for len(s.queue) == 0 || s.held > 0 {
			s.more.Wait()
		}
		one := s.queue[0]
		s.queue = s.queue[1:]
		s.busy = true
		s.mu.Unlock()
		s.make(one)
	}
}

// make makes one process.
func (s *starter) make(one spawn) {
	s.c.mu.Lock()
	wanted := one.wanted()
	s.c.mu.Unlock()
	if !wanted {
		wire.CloseAll(one.fds)
		s.c.mu.Lock()
		defer s.c.mu.Unlock()
		one.done(0, -1, 0, &wire.Failure{Text: "it is not wanted any more"})
		return
	}
	pid, pidfd, failure := s.place(one)
	wire.CloseAll(one.fds)
	var start uint64
	if failure == nil {
		var err error
		if start, err = startTime(pid); err != nil {
			failure = keeper.Describe(&keeper.SpawnError{Step: "watch", Err: err})
			_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
			_, _ = waitid(unix.P_PIDFD, pidfd, 0, nil)
			_ = unix.Close(pidfd)
		}
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	defer s.c.sweep() // what exited while it could not be told from a child that is not yet on record
	if failure != nil {
		one.done(0, -1, 0, failure)
		return
	}
	failpoint.Hit("custody.spawned")
	if one.made != nil {
		one.made(pid, start)
	}
	failpoint.Hit("custody.before-settled")
	if err := s.conn.Send(&wire.Message{Verb: wire.Settled}); err != nil {
		s.c.log.Warn("the spawner does not answer", "error", err)
	}
	failpoint.Hit("custody.settled")
	one.done(pid, pidfd, start, nil)
	failpoint.Hit("custody.start-recorded")
}

// place has the spawner make a process, in its cgroup if it is to have one.
func (s *starter) place(one spawn) (pid, pidfd int, failure *wire.Failure) {
	if one.group == nil {
		return s.ask(one.fds, 0)
	}
	group, err := one.group()
	if err != nil {
		if sentinel := keeper.Exhausted(err); sentinel != nil {
			err = fmt.Errorf("%w: %w", sentinel, err)
		}
		return 0, -1, keeper.Describe(&keeper.SpawnError{Step: "cgroup", Err: err})
	}
	defer func() { _ = unix.Close(group) }()
	return s.ask(slices.Insert(slices.Clone(one.fds), 0, group), wire.Placed)
}

// spawnPatience is how long a start may take. The spawner waits for the kernel to
// open the directory and the program; on a file system that hangs it would wait for
// ever, and with it whoever is next. A front has looked at both before it asks.
const spawnPatience = 5 * time.Second

// errSpawner says that the spawner is gone, and has left no process.
var errSpawner = errors.New("the spawner has died")

// ask has the spawner make a process. A spawner that dies is replaced, and asked
// for the same again where it is certain that it had not begun.
func (s *starter) ask(fds []int, placed uint64) (pid, pidfd int, failure *wire.Failure) {
	for range 3 {
		pid, pidfd, err := s.askOnce(fds, placed)
		if err == nil {
			return pid, pidfd, nil
		}
		if !errors.Is(err, errSpawner) {
			return 0, -1, failureOf(err)
		}
	}
	return 0, -1, failureOf(&keeper.SpawnError{Step: "fork", Err: errSpawner})
}

// A refusal is an error that carries the spawner's own words.
type refusal struct{ failure *wire.Failure }

func (r *refusal) Error() string { return r.failure.Text }

func failureOf(err error) *wire.Failure {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.failure
	}
	return keeper.Describe(err)
}

func (s *starter) askOnce(fds []int, placed uint64) (pid, pidfd int, err error) {
	fork := func(err error) error { return &keeper.SpawnError{Step: "fork", Err: err} }
	if s.conn == nil {
		if err := s.launch(); err != nil {
			return 0, -1, fork(fmt.Errorf("no spawner: %w", err))
		}
	}
	var answer wire.Message
	err = s.conn.Send(&wire.Message{Verb: wire.Spawn, Args: [8]uint64{placed}}, fds...)
	if errors.Is(err, syscall.ETOOMANYREFS) {
		return 0, -1, fork(fmt.Errorf("%w: %w", keeper.ErrDescriptors, err))
	}
	var got []int
	if err == nil {
		_ = s.conn.SetReadDeadline(time.Now().Add(spawnPatience))
		got, err = s.conn.Recv(&answer)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.bury()
		return 0, -1, fork(fmt.Errorf("%w: given up after %v", keeper.ErrHung, spawnPatience))
	case err != nil:
		lost := errors.Is(err, wire.ErrDescriptors) // there is a process of which nothing is known
		switch made := s.bury(); {
		case lost:
			return 0, -1, &keeper.SpawnError{Step: "watch", Err: fmt.Errorf("%w: %w", keeper.ErrDescriptors, err)}
		case made:
			return 0, -1, fork(fmt.Errorf("%w: %w", keeper.ErrUncertain, errors.New("the spawner has died in the middle")))
		}
		return 0, -1, errSpawner
	case answer.Code == wire.Failed && len(got) == 1:
		defer wire.CloseAll(got)
		data, err := wire.ReadBlob(got[0])
		if err != nil {
			return 0, -1, fork(err)
		}
		failure, err := wire.DecodeFailure(data)
		if err != nil {
			return 0, -1, fork(err)
		}
		return 0, -1, &refusal{failure}
	case answer.Code != wire.OK || len(got) != 1:
		wire.CloseAll(got)
		return 0, -1, fork(errors.New(answer.Text))
	}
	return int(answer.Args[0]), got[0], nil //nolint:gosec // a process id
}

// launch starts a spawner: this program again.
func (s *starter) launch() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	defer func() { _ = unix.Close(pair[1]) }()
	files := make([]uintptr, spawner.SocketFD+1)
	for i := range 3 {
		files[i] = uintptr(i)
	}
	files[spawner.SocketFD] = uintptr(pair[1])
	pidfd := -1
	s.c.mu.Lock() // so that no sweep comes before it is known
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"piped-spawner", "--spawner"}, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: files, Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
	})
	if err == nil {
		s.c.children[pid] = func() {
			_, _ = waitid(unix.P_PIDFD, pidfd, 0, nil)
			delete(s.c.children, pid)
		}
	}
	s.c.mu.Unlock()
	if err != nil {
		_ = unix.Close(pair[0])
		return err
	}
	s.pid, s.pidfd = pid, pidfd
	s.conn, err = wire.NewConn(pair[0])
	if err != nil {
		s.bury()
	}
	return err
}

// bury ends the spawner and reaps it, and tells whether it had made something
// that nobody knows; that is killed and reaped too.
func (s *starter) bury() (made bool) {
	if s.conn != nil {
		_ = s.conn.Close()
		s.conn = nil
	}
	if s.pidfd < 0 {
		return false
	}
	_ = unix.PidfdSendSignal(s.pidfd, unix.SIGKILL, nil, 0)
	for !gone(s.pidfd) {
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(s.pidfd), Events: unix.POLLIN}}, -1) //nolint:gosec // a descriptor
	}
	s.c.mu.Lock()
	if reap := s.c.children[s.pid]; reap != nil {
		reap()
	}
	made = s.c.killUnknown()
	s.c.mu.Unlock()
	_ = unix.Close(s.pidfd)
	s.pid, s.pidfd = 0, -1
	return made
}

// killPatience is how long a process may take to die of SIGKILL.
const killPatience = time.Second

// killUnknown kills and reaps the children that nobody knows, and tells whether
// there were any.
func (c *custody) killUnknown() (found bool) {
	for _, pid := range childrenOf(os.Getpid()) {
		if c.children[pid] != nil {
			continue
		}
		found = true
		_ = unix.Kill(pid, unix.SIGKILL)
		// What hangs in the kernel may not even die. A sweep reaps it when it does.
		for until := time.Now().Add(killPatience); time.Now().Before(until); {
			if got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); got == pid || err != nil && !errors.Is(err, unix.EINTR) {
				break
			}
			_, _ = unix.Poll(nil, 1)
		}
	}
	return found
}

// start starts a process for a request.
func (c *custody) start(p *peer, m *wire.Message, fds []int) {
	a := c.accounts[m.UID]
	if a == nil || len(fds) == 0 {
		wire.CloseAll(fds)
		p.answer(m, wire.Unknown, "no such account")
		return
	}
	if old := a.processes[m.Key]; old != nil {
		wire.CloseAll(fds)
		if old.starting {
			old.started = append(old.started, func() { c.answerStart(p, m, old) })
			return
		}
		c.answerStart(p, m, old)
		return
	}
	one := &process{uid: m.UID, key: m.Key, pidfd: -1, child: true, starting: true}
	one.Confined = c.tree != nil
	one.slot = c.reg.add(one.record())
	a.processes[m.Key] = one
	request := *m
	c.starter.add(spawn{
		fds:   fds,
		group: c.groupOf(one),
		wanted: func() bool {
			// A start that has not begun ends with the front that asked for it.
			return !one.discarded && c.front != nil && c.front.peer == p
		},
		made: func(pid int, start uint64) {
			if one.slot != 0 {
				r := one.record()
				r.process.Pid, r.process.Start, r.unsettled = pid, start, true
				c.reg.set(one.slot, r)
			}
		},
		done: func(pid, pidfd int, start uint64, failure *wire.Failure) {
			if failure == nil {
				failure = c.made(one, pid, pidfd, start)
			}
			one.starting = false
			if failure != nil {
				if a.processes[one.key] == one {
					delete(a.processes, one.key)
				}
				if one.slot != 0 {
					c.reg.drop(one.slot)
					one.slot = 0
				}
				c.leaveGroup(one)
				refuse(p, &request, failure)
			} else {
				c.answerStart(p, &request, one)
			}
			for _, f := range one.started {
				f()
			}
			one.started = nil
			c.pump()
		},
	})
}

// made takes a new process on record.
func (c *custody) made(one *process, pid, pidfd int, start uint64) *wire.Failure {
	one.Pid, one.Start, one.pidfd = pid, start, pidfd
	if one.slot != 0 {
		c.reg.set(one.slot, one.record())
	}
	err := c.watch(one)
	if err == nil {
		c.log.Debug("process started", "pid", pid)
		return nil
	}
	_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	_, _ = unix.Wait4(pid, nil, 0, nil)
	_ = unix.Close(pidfd)
	one.pidfd = -1
	return keeper.Describe(&keeper.SpawnError{Step: "watch", Err: err})
}

// answerStart tells of a process that was started, or could not be.
func (c *custody) answerStart(p *peer, m *wire.Message, one *process) {
	if one.Pid == 0 {
		p.answer(m, wire.Unknown, "it could not be started")
		return
	}
	answer := wire.Message{Verb: m.Verb, Reply: true, ID: m.ID, UID: m.UID, Key: m.Key}
	fds, err := one.describe(&answer)
	if err != nil {
		// A process that the front cannot have is none.
		if a := c.accounts[one.uid]; a != nil && a.processes[one.key] == one {
			c.discard(a, one.key, one, func() {})
		}
		p.answer(m, wire.Scarce, err.Error())
		return
	}
	p.send(answer, fds...)
}

// refuse says why there is no process.
func refuse(p *peer, m *wire.Message, failure *wire.Failure) {
	blob, err := wire.NewBlob(failure.Encode())
	if err != nil {
		p.answer(m, wire.Scarce, failure.Text)
		return
	}
	p.send(wire.Message{Verb: m.Verb, Reply: true, ID: m.ID, Code: wire.Failed, UID: m.UID, Key: m.Key}, blob)
}
