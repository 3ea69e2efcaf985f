package spawner

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/wire"
)

// StageFlag is the first argument of a stage; what follows is for [Stage].
const StageFlag = "--stage"

// throughStage has this program executed in the new process first, which gives
// itself what a fork cannot, and becomes the program then. It has said why not, or
// it is the program, when this returns.
func throughStage(spec keeper.Spec, blob, group int) (pid, pidfd int, err error) {
	var status [2]int
	if err := unix.Pipe2(status[:], unix.O_CLOEXEC); err != nil {
		return 0, -1, &keeper.SpawnError{Step: "fork", Path: spec.Path, Err: wrap(keeper.Exhausted(err), err)}
	}
	reader := os.NewFile(uintptr(status[0]), "status")
	defer func() { _ = reader.Close() }()

	taken := make(map[int]bool, len(spec.Files))
	for _, f := range spec.Files {
		taken[f.FD] = true
	}
	files := slices.Clone(spec.Files)
	args := []string{"piped-stage", StageFlag}
	for _, own := range []int{blob, status[1]} {
		fd := 3 // behind the standard streams, which may be closed
		for taken[fd] {
			fd++
		}
		taken[fd] = true
		files = append(files, keeper.File{FD: fd, Source: own})
		args = append(args, strconv.Itoa(fd))
	}
	pid, pidfd, err = fork(keeper.Spec{Path: "/proc/self/exe", Args: args, Dir: "/", Files: files,
		Attributes: keeper.Attributes{Terminal: spec.Attributes.Terminal}}, group) // before the stage could: its session is made with it
	_ = unix.Close(status[1])
	if err != nil {
		if failed, ok := errors.AsType[*keeper.SpawnError](err); ok {
			failed.Path = spec.Path // nobody has asked for the stage
		}
		return 0, -1, err
	}
	told, err := io.ReadAll(reader)
	if err == nil && len(told) == 0 {
		return pid, pidfd, nil
	}
	// It exits; its parent reaps what has exited when it hears of the failure.
	_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	awaitExit(pidfd)
	_ = unix.Close(pidfd)
	failure, decoding := wire.DecodeFailure(told)
	if err := errors.Join(err, decoding); err != nil {
		return 0, -1, &keeper.SpawnError{Step: "fork", Path: spec.Path, Err: err}
	}
	return 0, -1, keeper.Restore(failure)
}

// awaitExit waits until a process that is about to exit has.
func awaitExit(pidfd int) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1) //nolint:gosec // a descriptor
		if n == 1 || err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// Stage is what throughStage has executed: args are the numbers of the descriptors
// of the blob with the spec and of the pipe for what goes wrong. It does not return
// where nothing does.
func Stage(args []string) error {
	if len(args) != 2 {
		return errors.New("--stage is internal: it wants two descriptors")
	}
	blob, blobErr := strconv.Atoi(args[0])
	status, statusErr := strconv.Atoi(args[1])
	if err := errors.Join(blobErr, statusErr); err != nil {
		return err
	}
	for _, fd := range []int{blob, status} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	why := become(blob)
	_, err := unix.Write(status, keeper.Describe(why).Encode()) // in one piece, a pipe takes 4 KiB so
	return errors.Join(why, err)
}

// become makes the program of this process. It returns only why it cannot.
func become(blob int) error {
	data, err := wire.ReadBlob(blob)
	if err != nil {
		return err
	}
	told, err := wire.DecodeSpec(data)
	if err != nil {
		return err
	}
	told.Files = nil // we have them
	spec, err := keeper.SpecOf(told, nil)
	if err != nil {
		return err
	}
	if spec.Dir == "" {
		spec.Dir = "/"
	}
	// Some of it is the thread's, and it is the thread's that a program gets. Another
	// thread might not be possible any more under the new limits.
	runtime.LockOSThread()
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	if err := attributes(spec.Path, &spec.Attributes); err != nil {
		return err
	}
	if err := unix.Chdir(spec.Dir); err != nil {
		return &keeper.SpawnError{Step: "chdir", Path: spec.Dir, Err: wrap(keeper.ErrDirectory, err)}
	}
	if err := limit(spec.Path, spec.Attributes.Limits); err != nil {
		return err
	}
	return diagnose(spec, syscall.Exec(spec.Path, spec.Args, spec.Env))
}

// attributes gives this thread what it is to have: first what may need the
// privileges that the user does not have.
func attributes(path string, a *keeper.Attributes) error {
	fail := func(step string, err error) error {
		if errors.Is(err, os.ErrPermission) {
			err = wrap(keeper.ErrNotPermitted, err)
		}
		return &keeper.SpawnError{Step: step, Path: path, Err: err}
	}
	if a.Umask != nil {
		unix.Umask(*a.Umask)
	}
	if a.Nice != nil {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, *a.Nice); err != nil {
			return fail("nice", fmt.Errorf("nice value %d: %w", *a.Nice, err))
		}
	}
	if err := raise(a.Limits); err != nil {
		return fail("limit", err)
	}
	if a.Credential != nil {
		if err := assume(a.Credential); err != nil {
			return fail("user", err)
		}
	}
	if a.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fail("privileges", err)
		}
	}
	return nil
}

// raise sets hard limits that only the privileged may set, with what is as it was
// otherwise: a limit below what this program needs comes last.
func raise(limits []keeper.Limit) error {
	for _, l := range limits {
		n, known := l.Number()
		if !known {
			return errors.New("a limit without a resource")
		}
		var now unix.Rlimit
		if err := unix.Getrlimit(n, &now); err != nil {
			return fmt.Errorf("limit of %s: %w", l.Resource, err)
		}
		if l.Hard <= now.Max {
			continue
		}
		if err := setrlimit(n, unix.Rlimit{Cur: now.Cur, Max: l.Hard}); err != nil {
			return fmt.Errorf("hard limit of %s, which is %d now: %w", l.Resource, now.Max, err)
		}
	}
	return nil
}

// limit sets the limits.
func limit(path string, limits []keeper.Limit) error {
	for _, l := range limits {
		n, _ := l.Number()
		if err := setrlimit(n, unix.Rlimit{Cur: l.Soft, Max: l.Hard}); err != nil {
			return &keeper.SpawnError{Step: "limit", Path: path, Err: fmt.Errorf("limit of %s: %w", l.Resource, err)}
		}
	}
	return nil
}

// setrlimit tells package syscall where it is about descriptors: it would set the
// limit back that was there before it had raised it.
func setrlimit(resource int, limit unix.Rlimit) error {
	if resource == unix.RLIMIT_NOFILE {
		return syscall.Setrlimit(resource, &syscall.Rlimit{Cur: limit.Cur, Max: limit.Max})
	}
	return unix.Prlimit(0, resource, &limit, nil)
}

// assume makes this process one of another user, and looks that it is.
func assume(c *keeper.Credential) error {
	if !isOurs(c) {
		groups := make([]int, len(c.Groups))
		for i, g := range c.Groups {
			groups[i] = int(g)
		}
		gid, uid := int(c.GID), int(c.UID)
		if err := errors.Join(syscall.Setgroups(groups), syscall.Setresgid(gid, gid, gid), syscall.Setresuid(uid, uid, uid)); err != nil {
			return fmt.Errorf("the keeper runs as user %d and cannot start a program as user %d with group %d: %w", os.Geteuid(), c.UID, c.GID, err)
		}
	}
	if r, e, s := unix.Getresuid(); uint32(r) != c.UID || uint32(e) != c.UID || uint32(s) != c.UID { //nolint:gosec // the same bits
		return fmt.Errorf("the user is %d, %d, %d, not %d", r, e, s, c.UID)
	}
	if r, e, s := unix.Getresgid(); uint32(r) != c.GID || uint32(e) != c.GID || uint32(s) != c.GID { //nolint:gosec // the same bits
		return fmt.Errorf("the group is %d, %d, %d, not %d", r, e, s, c.GID)
	}
	return nil
}

// isOurs says that a process has this user and these groups by itself, so that
// nobody needs the privilege to change them.
func isOurs(c *keeper.Credential) bool {
	if os.Geteuid() != int(c.UID) || os.Getegid() != int(c.GID) {
		return false
	}
	groups, err := unix.Getgroups()
	if err != nil {
		return false
	}
	ours := map[uint32]bool{c.GID: true}
	for _, g := range groups {
		ours[uint32(g)] = true //nolint:gosec // the same bits
	}
	theirs := map[uint32]bool{c.GID: true}
	for _, g := range c.Groups {
		if theirs[g] = true; !ours[g] {
			return false
		}
	}
	return len(ours) == len(theirs)
}
