package cgroup

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A UID is that of a session.
type UID = [16]byte

func (t *Tree) session(uid UID) string {
	return filepath.Join(t.dir, fmt.Sprintf("%x-%x-%x-%x-%x", uid[:4], uid[4:6], uid[6:8], uid[8:10], uid[10:]))
}

func (t *Tree) process(uid UID, key uint32) string {
	return filepath.Join(t.session(uid), strconv.FormatUint(uint64(key), 10))
}

// makeSession makes the cgroup of a session, if it is not there.
func (t *Tree) makeSession(uid UID) error {
	dir := t.session(uid)
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := makeDir(dir); err != nil {
		return err
	}
	if !slices.Contains(t.enabled, Memory) {
		return nil
	}
	// Who has run out of memory is told process by process.
	return enable(dir, Memory)
}

// Make makes the cgroup of a process that is about to be started, and opens it. The
// caller closes the descriptor, in which a process can be born (CLONE_INTO_CGROUP).
func (t *Tree) Make(uid UID, key uint32) (fd int, err error) {
	if err := t.makeSession(uid); err != nil {
		return -1, err
	}
	dir := t.process(uid, key)
	if err := makeDir(dir); err != nil {
		return -1, err
	}
	if slices.Contains(t.enabled, Memory) {
		if err := write(filepath.Join(dir, "memory.oom.group"), "1"); err != nil {
			return -1, err
		}
	}
	fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

// Kill kills all that is in the cgroup of a process. Nobody in it can fork faster
// than that.
func (t *Tree) Kill(uid UID, key uint32) error { return kill(t.process(uid, key)) }

// KillSession kills all that is in the cgroup of a session.
func (t *Tree) KillSession(uid UID) error { return kill(t.session(uid)) }

func kill(dir string) error {
	err := write(filepath.Join(dir, killFile), "1")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) { // it is gone, and so are they
		return nil
	}
	return err
}

// Signal sends a signal to all that is in the cgroup of a process, one after the
// other; who is forked meanwhile may not get it. The process itself, whose pid is
// given, is left out: its keeper has a better name for it.
func (t *Tree) Signal(uid UID, key uint32, sig syscall.Signal, but int) {
	_ = filepath.WalkDir(t.process(uid, key), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil //nolint:nilerr // what is gone needs no signal
		}
		text, _ := os.ReadFile(filepath.Join(path, membersFile)) // one that is gone has none
		for word := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil && pid > 0 && pid != but {
				signal(pid, path, sig)
			}
		}
		return nil
	})
}

// signal sends a signal to a process if it is in a cgroup.
func signal(pid int, dir string, sig syscall.Signal) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(pidfd) }()
	// The number may be another process's by now. Who is in the cgroup after the pidfd
	// was opened is who the pidfd is of, or else nobody.
	text, err := os.ReadFile(filepath.Join(dir, membersFile))
	if err == nil && slices.Contains(strings.Fields(string(text)), strconv.Itoa(pid)) {
		_ = unix.PidfdSendSignal(pidfd, sig, nil, 0)
	}
}

// Remove removes the cgroup of a process, if nobody is left in it.
func (t *Tree) Remove(uid UID, key uint32) error { return remove(t.process(uid, key)) }

// RemoveSession removes the cgroup of a session with those of its processes, if
// nobody is left in any. [unix.EBUSY] says that somebody is.
func (t *Tree) RemoveSession(uid UID) error { return remove(t.session(uid)) }

// remove removes a cgroup and all inside.
func remove(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := remove(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// AwaitSession kills all that is in the cgroup of a session and removes it, when
// they are gone. What hangs in the kernel does not die of SIGKILL: after the
// patience given the error is [unix.EBUSY].
func (t *Tree) AwaitSession(uid UID, patience time.Duration) error {
	const look = 50 * time.Millisecond // the kernel tells the last exit, and not that the last zombie has let go
	dir := t.session(uid)
	for until := time.Now().Add(patience); ; {
		if err := kill(dir); err != nil {
			return err
		}
		err := remove(dir)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(until) {
			return err
		}
		if err := awaitEvent(dir, look); err != nil {
			return err
		}
	}
}

// awaitEvent waits until the cgroup has become empty, or full, or for a while.
func awaitEvent(dir string, d time.Duration) error {
	fd, err := unix.Open(filepath.Join(dir, "cgroup.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var text [256]byte
	n, err := unix.Read(fd, text[:])
	if err != nil || strings.Contains(string(text[:max(n, 0)]), "populated 0") {
		d = time.Millisecond
	}
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, int(d.Milliseconds())) //nolint:gosec // a descriptor
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	return err
}

// Sessions returns the sessions that have a cgroup.
func (t *Tree) Sessions() []UID {
	entries, _ := os.ReadDir(t.dir) // one that is gone has none
	var all []UID
	for _, entry := range entries {
		raw, err := hex.DecodeString(strings.ReplaceAll(entry.Name(), "-", ""))
		if err == nil && entry.IsDir() && len(raw) == len(UID{}) {
			all = append(all, UID(raw))
		}
	}
	return all
}

// Leave removes the directory of all sessions, if it is empty.
func (t *Tree) Leave() { _ = unix.Rmdir(t.dir) }
