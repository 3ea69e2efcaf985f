package keeper

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A child is a process of ours, watched through its pidfd.
type child struct {
	pid   int
	pidfd *os.File // in Go's poller, so that no thread waits
	done  chan struct{}

	mu     sync.Mutex // guards what follows; held while reaping and signalling
	exited bool
	exit   ExitStatus
}

var _ Process = (*child)(nil)

// newChild takes over the pidfd, also when it fails.
func newChild(pid, pidfd int) (*child, error) {
	if pidfd < 0 {
		return nil, errors.New("the kernel gave no pidfd")
	}
	if err := unix.SetNonblock(pidfd, true); err != nil {
		_ = unix.Close(pidfd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(pidfd), fmt.Sprintf("pidfd:%d", pid))
	// A file that the poller did not take has no deadlines.
	if err := file.SetReadDeadline(time.Time{}); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("poll the pidfd: %w", err)
	}
	return &child{pid: pid, pidfd: file, done: make(chan struct{})}, nil
}

// Pid implements [Process].
func (c *child) Pid() int { return c.pid }

// Done implements [Process].
func (c *child) Done() <-chan struct{} { return c.done }

// Exit implements [Process].
func (c *child) Exit() ExitStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exit
}

// Signal implements [Process].
func (c *child) Signal(sig syscall.Signal) error {
	conn, err := c.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.exited {
		return ErrExited
	}
	var sendErr error
	err = conn.Control(func(fd uintptr) {
		sendErr = unix.PidfdSendSignal(int(fd), sig, nil, 0)
	})
	switch {
	case err != nil:
		return ErrClosed
	case errors.Is(sendErr, syscall.ESRCH):
		return ErrExited // something else has waited for it
	}
	return os.NewSyscallError("pidfd_send_signal", sendErr)
}

// wait blocks until the process has exited, reaps it, and records its status.
// The error says that release came first.
func (c *child) wait() error {
	conn, err := c.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Read(func(fd uintptr) bool {
		// Under the lock, so that no signal is sent to what is already reaped.
		c.mu.Lock()
		defer c.mu.Unlock()
		exit, exited := reapPidfd(int(fd))
		if exited {
			c.exit, c.exited = exit, true
		}
		return exited
	})
}

// release closes the pidfd and wakes wait. It is idempotent.
func (c *child) release() { _ = c.pidfd.Close() }

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

// reapPidfd reaps the process if it has exited, and does not block.
func reapPidfd(pidfd int) (exit ExitStatus, exited bool) {
	var raw unix.Siginfo
	err := unix.Waitid(unix.P_PIDFD, pidfd, &raw, unix.WEXITED|unix.WNOHANG, nil)
	for errors.Is(err, syscall.EINTR) {
		err = unix.Waitid(unix.P_PIDFD, pidfd, &raw, unix.WEXITED|unix.WNOHANG, nil)
	}
	exit = ExitStatus{Code: -1, Time: time.Now()}
	if err != nil {
		return exit, true // ECHILD: something else has waited for it
	}
	info := (*siginfo)(unsafe.Pointer(&raw)) //nolint:gosec // the same bytes with their names; siginfo is a prefix of them
	if info.signo == 0 {
		return ExitStatus{}, false
	}
	switch info.code {
	case causeExited:
		exit.Code = int(info.status)
	case causeKilled, causeDumped:
		exit.Signal = syscall.Signal(info.status)
		exit.CoreDumped = info.code == causeDumped
	}
	return exit, true
}

// abandon ends a child that cannot be watched. Nothing has reaped it, so the
// number is still its own.
func abandon(pid int) {
	_ = syscall.Kill(pid, syscall.SIGKILL)
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}
