package custody

import (
	"errors"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper/wire"
)

// siginfo is what waitid(2) fills in; golang.org/x/sys/unix does not name the
// fields. The blank integer aligns the union on 64-bit machines.
type siginfo struct {
	signo, errno, code int32
	_                  [^uint(0) >> 63]int32
	pid, uid, status   int32
}

// Causes of an exit in siginfo.code (CLD_EXITED, CLD_KILLED, CLD_DUMPED).
const (
	causeExited = 1
	causeKilled = 2
	causeDumped = 3
)

// hasExited tells an exit from a stop. A child that has itself traced by its
// parent (PTRACE_TRACEME) makes us its tracer, and a tracer is told of each stop
// whether it asks for stops or not.
func (s *siginfo) hasExited() bool {
	return s.code == causeExited || s.code == causeKilled || s.code == causeDumped
}

// waitid asks for a child that has exited, and does not block. used, which may be
// nil, is what it has used.
func waitid(idType, id, options int, used *unix.Rusage) (siginfo, error) {
	for {
		var raw unix.Siginfo
		err := unix.Waitid(idType, id, &raw, unix.WEXITED|unix.WNOHANG|options, used)
		if !errors.Is(err, syscall.EINTR) {
			return *(*siginfo)(unsafe.Pointer(&raw)), err //nolint:gosec // the same bytes with their names; siginfo is a prefix of them
		}
	}
}

// forgetStop takes a stop of a child that we trace, so that it is not told again. It
// asks for stops alone: the child may have exited since.
func forgetStop(pid int) {
	_ = unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED|unix.WNOHANG, nil)
}

// childExit looks how a child of ours has exited, and leaves it to be reaped. An
// error says that it is not a child of ours, or that something else has waited
// for it.
func childExit(pidfd int, p *wire.Process) (exited bool, err error) {
	var used unix.Rusage
	info, err := waitid(unix.P_PIDFD, pidfd, unix.WNOWAIT, &used)
	if err != nil || info.signo == 0 || !info.hasExited() {
		return false, err
	}
	p.Exited, p.Unknown, p.Time = true, false, time.Now().UnixNano()
	switch info.code {
	case causeExited:
		p.Code = int(info.status)
	case causeKilled, causeDumped:
		p.Code, p.Signal, p.CoreDumped = -1, int(info.status), info.code == causeDumped
	}
	p.Used = usageOf(&used)
	return true, nil
}

// usageOf returns what the kernel tells the parent: of all threads of the process
// and of the descendants that it has waited for (RUSAGE_BOTH in kernel/exit.c),
// times added up, memory that of the largest. Linux counts memory in KiB.
//
//nolint:unconvert // int64 already on 64-bit machines only
func usageOf(used *unix.Rusage) *wire.Usage {
	return &wire.Usage{User: used.Utime.Nano() / 1000, System: used.Stime.Nano() / 1000, Peak: int64(used.Maxrss) << 10}
}

// reap reaps a child that has exited.
func reap(pidfd int) { _, _ = waitid(unix.P_PIDFD, pidfd, 0, nil) }

// strangerExit finds out how a process has exited that is no child of ours: from
// /proc while it is a zombie, from its pidfd when it was reaped (the kernel
// keeps that since 6.15).
func strangerExit(pidfd int, p *wire.Process) (known bool) {
	status, known := zombieStatus(p.Pid, p.Start)
	if !known {
		status, known = reapedStatus(pidfd)
	}
	if !known {
		return false
	}
	p.Exited, p.Unknown, p.Time = true, false, time.Now().UnixNano()
	if status.Signaled() {
		p.Code, p.Signal, p.CoreDumped = -1, int(status.Signal()), status.CoreDump()
	} else {
		p.Code = status.ExitStatus()
	}
	return true
}

// reapedStatus returns the wait status of a process that somebody has reaped.
func reapedStatus(pidfd int) (unix.WaitStatus, bool) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(pidfd, &info); err != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return 0, false
	}
	return unix.WaitStatus(info.Exit_code), true //nolint:gosec // the same bits
}

// unknownExit says that nobody can tell.
func unknownExit(p *wire.Process) {
	p.Exited, p.Unknown, p.Code, p.Time, p.Used = true, true, -1, time.Now().UnixNano(), nil
}
