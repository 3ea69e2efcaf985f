package custody

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"errors"
	"fmt"
)

// An identity says which kernel object a descriptor is open on, and how: two
// descriptors of one identity are copies of each other, as far as a registry
// can tell.
type identity struct {
	device, inode uint64
	kind          uint32 // file type, and access mode
}

// identify returns the identity of fd.
func identify(fd int) (identity, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return identity{}, os.NewSyscallError("fstat", err)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return identity{}, os.NewSyscallError("fcntl", err)
	}
	return identity{device: stat.Dev, inode: stat.Ino, kind: stat.Mode&unix.S_IFMT | uint32(flags&unix.O_ACCMODE)}, nil
}

// errGone says that there is no such process any more.
var errGone = errors.New("no such process")

// procStat returns the fields of /proc/PID/stat from the third on.
func procStat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, errGone
	}
	// The second is the name, in parentheses; it may hold anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 50 {
		return nil, errGone
	}
	return fields, nil
}

// startTime returns when a process was started, in ticks since the machine was.
func startTime(pid int) (uint64, error) {
	fields, err := procStat(pid)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(fields[22-3], 10, 64)
}

// zombieStatus returns the wait status of a process that has exited and was not
// yet reaped. That needs not be its parent, only the same user.
func zombieStatus(pid int, start uint64) (unix.WaitStatus, bool) {
	fields, err := procStat(pid)
	if err != nil || fields[0] != "Z" || fields[22-3] != strconv.FormatUint(start, 10) {
		return 0, false
	}
	status, err := strconv.ParseUint(fields[52-3], 10, 32)
	return unix.WaitStatus(status), err == nil
}

// openProcess returns a pidfd of the process that has this pid and was started
// then.
func openProcess(pid int, start uint64) (pidfd int, err error) {
	if pid <= 0 {
		return -1, errGone
	}
	pidfd, err = unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, errGone
	}
	// After the open: the number cannot change hands any more without the pidfd
	// telling of another process.
	if now, err := startTime(pid); err != nil || now != start {
		_ = unix.Close(pidfd)
		return -1, errGone
	}
	return pidfd, nil
}

// gone tells whether the process of a pidfd has exited.
func gone(pidfd int) bool {
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	for {
		n, err := unix.Poll(poll, 0)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n == 1
		}
	}
}

// bootID names the time since the machine was started.
func bootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
