// Package cgroup gives each session a cgroup of its own, and each process of a
// session one inside that: version 2, cgroups(7).
//
// Whoever is born in a cgroup cannot leave it by forking, so a cgroup names all
// descendants of a process, wherever they have been reparented to and whatever
// session or process group they have made for themselves. [Tree.Kill] reaches all of
// them in one step. Limits are those of the session, and so its processes share
// them; where the kernel runs out of memory for a session it kills one process of it
// with all its descendants.
//
// # Where
//
//	BASE                        the cgroup of the keeper, or the one around it
//	BASE/keeper                 the keeper itself, where controllers are enabled
//	BASE/piped-XXXXXXXX         one keeper's sessions: the digits are of its socket
//	  UID                       a session: limits
//	    KEY                     a process and its descendants
//
// BASE has to be the keeper's to divide. Under systemd it is where the unit has
// Delegate=yes; a cgroup that systemd manages itself is left alone. Elsewhere it is
// where the keeper may make directories. The names are a function of what the
// keeper's registry knows, so a keeper finds again what the one before it has made.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Settings of [Find] beside the path of a cgroup.
const (
	// Auto looks for a cgroup.
	Auto = "auto"
	// Off uses none.
	Off = "off"
)

// Why there are no cgroups.
var (
	// ErrOff: they are not wanted.
	ErrOff = errors.New("cgroups are turned off")
	// ErrNone: cgroup v2 is not mounted, or the keeper's own cgroup is not in it.
	ErrNone = errors.New("cgroup v2 is not mounted")
	// ErrNotDelegated: the cgroup belongs to systemd, which has not delegated it.
	ErrNotDelegated = errors.New("systemd has not delegated the keeper's cgroup: its unit needs Delegate=yes")
	// ErrDenied: the keeper may not make cgroups there.
	ErrDenied = errors.New("the keeper may not make cgroups")
	// ErrOld: the kernel cannot kill a whole cgroup (Linux 5.14 can), or something in
	// front of it does not let a process be born in one (clone3).
	ErrOld = errors.New("the kernel is older than 5.14, or clone3 is filtered")
)

const (
	// leafName is the cgroup of the keeper itself.
	leafName = "keeper"
	// killFile ends all that is in a cgroup.
	killFile = "cgroup.kill"
	// enabledFile says which controllers the cgroups inside have.
	enabledFile = "cgroup.subtree_control"
	membersFile = "cgroup.procs"
)

// A Controller is a resource controller.
type Controller string

// The controllers that are used where they are there.
const (
	Memory Controller = "memory"
	CPU    Controller = "cpu"
	Pids   Controller = "pids"
	IO     Controller = "io"
)

// Controllers are all that are used, in a fixed order.
var Controllers = []Controller{Memory, CPU, Pids, IO}

// A Tree is where a keeper makes cgroups. Its methods may be called concurrently,
// those about one session one after the other.
type Tree struct {
	dir     string
	enabled []Controller
}

// Find returns the tree of the keeper that serves at a socket, and makes it. The
// setting is [Auto], [Off], or the path of a cgroup in which nobody is. The error
// says why there is none.
func Find(setting, socket string) (*Tree, error) {
	base, self, err := findBase(setting)
	if err != nil {
		return nil, err
	}
	t := &Tree{dir: filepath.Join(base, fmt.Sprintf("piped-%08x", crc32.ChecksumIEEE([]byte(socket))))}
	if err := makeDir(t.dir); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDenied, err)
	}
	if err := unix.Access(filepath.Join(t.dir, killFile), unix.W_OK); err != nil {
		_ = os.Remove(t.dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, ErrOld
		}
		return nil, fmt.Errorf("%w: %s: %w", ErrDenied, t.dir, err)
	}
	if !canClone3() {
		_ = os.Remove(t.dir)
		return nil, ErrOld
	}
	t.enable(base, self)
	return t, nil
}

// canClone3 reports whether the system call is there: a filter of system calls may
// say that it is not.
func canClone3() bool {
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0) // EINVAL: no arguments are that short
	return errno == unix.EINVAL
}

// findBase returns the cgroup to divide, and whether this process is in it.
func findBase(setting string) (base string, self bool, err error) {
	switch setting {
	case Off:
		return "", false, ErrOff
	case Auto:
	default:
		if _, err := os.Stat(filepath.Join(setting, membersFile)); err != nil {
			return "", false, fmt.Errorf("%w: %s is no cgroup: %w", ErrNone, setting, err)
		}
		return filepath.Clean(setting), false, nil
	}
	mount, own, err := find()
	if err != nil {
		return "", false, err
	}
	base, self = filepath.Join(mount, own), true
	if filepath.Base(base) == leafName {
		base, self = filepath.Dir(base), false
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil && !delegated(base) {
		return "", false, ErrNotDelegated
	}
	return base, self, nil
}

// find returns where cgroup v2 is mounted, and this process's cgroup below that.
func find() (mount, own string, err error) {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrNone, err)
	}
	defer func() { _ = mounts.Close() }()
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		// 36 35 98:0 ROOT MOUNT rw,noatime … - TYPE SOURCE OPTIONS, proc(5).
		before, after, _ := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(before); len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") && fields[3] == "/" {
			mount = fields[4]
			break
		}
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrNone, err)
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok && mount != "" && !strings.Contains(path, "..") {
			return mount, path, nil
		}
	}
	return "", "", ErrNone
}

// delegated reports whether systemd has marked a cgroup as delegated. Only root reads
// the first name, and versions of systemd before 251 have only that: there a service
// of the system that runs as a user owns its cgroup if it was delegated. All cgroups
// below a user's own manager are the user's, and so that says nothing there.
func delegated(dir string) bool {
	if os.Geteuid() != 0 && !strings.Contains(dir, "/user@") && unix.Access(filepath.Join(dir, membersFile), unix.W_OK) == nil {
		return true
	}
	for _, name := range []string{"trusted.delegate", "user.delegate"} {
		var value [1]byte
		if n, err := unix.Getxattr(dir, name, value[:]); err == nil && n == 1 && value[0] == '1' {
			return true
		}
	}
	return false
}

// enable gives the sessions what controllers there are. A cgroup of which the
// cgroups inside have controllers can have no processes of its own, but for the
// root, so the keeper moves into one of its own where it is alone.
func (t *Tree) enable(base string, self bool) {
	there, _ := os.ReadFile(filepath.Join(base, "cgroup.controllers"))
	available := strings.Fields(string(there))
	for _, c := range Controllers {
		if !slices.Contains(available, string(c)) {
			continue
		}
		err := enable(base, c)
		if errors.Is(err, unix.EBUSY) && self && alone(base) && moveTo(filepath.Join(base, leafName)) == nil {
			self = false
			err = enable(base, c)
		}
		if err == nil && enable(t.dir, c) == nil {
			t.enabled = append(t.enabled, c)
		}
	}
}

func enable(dir string, c Controller) error {
	return write(filepath.Join(dir, enabledFile), "+"+string(c))
}

// alone reports whether this process is the only one in a cgroup.
func alone(dir string) bool {
	members, err := os.ReadFile(filepath.Join(dir, membersFile))
	return err == nil && strings.TrimSpace(string(members)) == strconv.Itoa(os.Getpid())
}

// moveTo moves this process into a cgroup, which it makes.
func moveTo(dir string) error {
	if err := makeDir(dir); err != nil {
		return err
	}
	return write(filepath.Join(dir, membersFile), strconv.Itoa(os.Getpid()))
}

// makeDir makes a cgroup, if it is not there. Everybody may look into it, as into all.
func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o755) //nolint:gosec // as said
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// write writes a file of a cgroup, which takes one write.
func write(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return &fs.PathError{Op: "write " + text, Path: path, Err: err}
	}
	return nil
}

// Controllers returns the controllers that limits of sessions can use.
func (t *Tree) Controllers() []Controller { return slices.Clone(t.enabled) }

// Dir returns the directory of all sessions.
func (t *Tree) Dir() string { return t.dir }
