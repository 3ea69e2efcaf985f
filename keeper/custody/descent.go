package custody

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Where a process has no cgroup its descendants are those whose parents are all still
// there. One of which a parent is gone is somebody else's child by then, and nothing
// about it tells whose it was.

// childrenOf returns the children of a process, of all its threads.
func childrenOf(pid int) (pids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task) // the thread may be gone
		for word := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// isChild reports whether a process is the child of another, now.
func isChild(pid, parent int) bool {
	fields, err := procStat(pid)
	return err == nil && fields[4-3] == strconv.Itoa(parent)
}

// killDescent kills a process, the group that it leads, and its descendants in
// whatever groups and sessions they are. Nobody can fork any more once he is stopped,
// so all are stopped before one is killed.
func (p *process) killDescent() error {
	held := make(map[int]int) // pidfds
	if !gone(p.pidfd) {
		_ = unix.PidfdSendSignal(p.pidfd, unix.SIGSTOP, nil, 0)
		held[p.Pid] = -1
		// Each round finds what was forked before its parent stopped.
		for again := true; again && len(held) < mostDescendants; {
			again = false
			for parent := range held {
				again = holdChildren(parent, held) || again
			}
		}
	}
	err := p.signalGroup(unix.SIGKILL)
	for _, pidfd := range held {
		if pidfd >= 0 {
			_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
			_ = unix.Close(pidfd)
		}
	}
	return err
}

// mostDescendants is how many are looked for, so that what forks faster than it is
// stopped does not hold up the keeper.
const mostDescendants = 4096

// holdChildren stops the children of a process that are not held yet, and reports
// whether there were any.
func holdChildren(parent int, held map[int]int) (some bool) {
	for _, pid := range childrenOf(parent) {
		if _, known := held[pid]; known {
			continue
		}
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		// The number may be another's by now: who is the child after the pidfd was opened
		// is who the pidfd is of, or else gone.
		if !isChild(pid, parent) {
			_ = unix.Close(pidfd)
			continue
		}
		_ = unix.PidfdSendSignal(pidfd, unix.SIGSTOP, nil, 0)
		held[pid], some = pidfd, true
	}
	return some
}
