package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper/wire"
)

// A process is a child of the keeper, as its front knows it.
type process struct {
	account *Account
	key     uint32
	done    chan struct{}

	// Guarded by account.link.mu.
	pid      int
	started  uint64 // in the keeper's own measure
	pidfd    int    // for the next keeper; -1 when the process has exited
	recorded bool   // the keeper knows it
	disowned bool   // the keeper does not want to know it
	confined bool   // it has a cgroup of its own
	exited   bool
	exit     ExitStatus
}

var _ Process = (*process)(nil)

func newProcess(a *Account, key uint32) *process {
	return &process{account: a, key: key, done: make(chan struct{}), pidfd: -1}
}

// Pid implements [Process].
func (p *process) Pid() int {
	p.account.link.mu.Lock()
	defer p.account.link.mu.Unlock()
	return p.pid
}

// Done implements [Process].
func (p *process) Done() <-chan struct{} { return p.done }

// Confined implements [Process].
func (p *process) Confined() bool {
	p.account.link.mu.Lock()
	defer p.account.link.mu.Unlock()
	return p.confined && p.account.link.info.Cgroups.Used // it may be another keeper by now
}

// Exit implements [Process].
func (p *process) Exit() ExitStatus {
	p.account.link.mu.Lock()
	defer p.account.link.mu.Unlock()
	return p.exit
}

// Signal implements [Process].
func (p *process) Signal(sig syscall.Signal) error { return p.signal(sig, 0) }

// SignalGroup implements [Process].
func (p *process) SignalGroup(sig syscall.Signal, sweep bool) error {
	flags := uint64(wire.ToGroup)
	if sweep {
		flags |= wire.Sweep
	}
	return p.signal(sig, flags)
}

func (p *process) signal(sig syscall.Signal, flags uint64) error {
	select {
	case <-p.done:
		return ErrExited
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l := p.account.link
	for {
		if err := l.until(ctx, isUp); err != nil {
			return err
		}
		switch {
		case p.exited:
			l.mu.Unlock()
			return ErrExited
		case p.disowned:
			defer l.mu.Unlock()
			return os.NewSyscallError("pidfd_send_signal", unix.PidfdSendSignal(p.pidfd, sig, nil, 0))
		}
		m := &wire.Message{Verb: wire.Signal, UID: p.account.uid, Key: p.key}
		m.Args[0], m.Args[1] = uint64(sig), flags //nolint:gosec // signals are small
		_, err := l.call(m)
		switch {
		case !errors.Is(err, errDown):
			return err
		case !repeatable(sig):
			return fmt.Errorf("signal %d: %w", int(sig), ErrUncertain)
		}
	}
}

// repeatable says whether a signal that arrives twice does what it does once.
func repeatable(sig syscall.Signal) bool {
	switch sig {
	case 0, unix.SIGKILL, unix.SIGTERM, unix.SIGCONT, unix.SIGSTOP, unix.SIGWINCH:
		return true
	}
	return false
}

// beginLocked takes over what the keeper says about p, and the pidfd.
func (p *process) beginLocked(is wire.Process, pidfd int) {
	p.pid, p.started, p.confined, p.recorded = is.Pid, is.Start, is.Confined, true
	if pidfd >= 0 {
		p.releaseLocked()
		p.pidfd = pidfd
	}
	if is.Exited {
		p.finishLocked(exitOf(is))
	}
}

// finishLocked records the exit. Only the first counts.
func (p *process) finishLocked(exit ExitStatus) {
	p.releaseLocked()
	if p.exited {
		return
	}
	p.exit, p.exited = exit, true
	close(p.done)
}

// releaseLocked closes the pidfd.
func (p *process) releaseLocked() {
	if p.pidfd >= 0 {
		_ = unix.Close(p.pidfd)
		p.pidfd = -1
	}
}

// exitOf returns the exit that the keeper tells of.
func exitOf(is wire.Process) ExitStatus {
	exit := ExitStatus{Code: is.Code, Signal: syscall.Signal(is.Signal), CoreDumped: is.CoreDumped, Unknown: is.Unknown,
		OutOfMemory: is.OutOfMemory, Time: time.Unix(0, is.Time)}
	if exit.Unknown || exit.Signal != 0 {
		exit.Code = -1
	}
	if used := is.Used; used != nil {
		exit.Usage = &Usage{User: time.Duration(used.User) * time.Microsecond, System: time.Duration(used.System) * time.Microsecond, Peak: used.Peak}
	}
	return exit
}

// wireLocked is what a new keeper is told about p.
func (p *process) wireLocked() wire.Process {
	is := wire.Process{Pid: p.pid, Start: p.started, Exited: p.exited, Confined: p.confined}
	if p.exited {
		is.Unknown, is.CoreDumped, is.OutOfMemory = p.exit.Unknown, p.exit.CoreDumped, p.exit.OutOfMemory
		is.Code, is.Signal = p.exit.Code, int(p.exit.Signal)
		is.Time = p.exit.Time.UnixNano()
		if used := p.exit.Usage; used != nil {
			is.Used = &wire.Usage{User: used.User.Microseconds(), System: used.System.Microseconds(), Peak: used.Peak}
		}
	}
	return is
}

// setRecorded notes that a new keeper has p on record.
func (p *process) setRecorded() {
	p.account.link.mu.Lock()
	defer p.account.link.mu.Unlock()
	p.recorded = true
}
