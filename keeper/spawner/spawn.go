package spawner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
)

// closedFD tells syscall.ForkExec that the child has no descriptor of a number.
const closedFD = ^uintptr(0)

// spawn makes a process that executes the program, a child of our own parent.
// The caller owns the pidfd. The parent has to reap it, and also what is left of
// an attempt that failed: syscall.ForkExec tries to and finds no child of ours.
// The blob is what the spec was told in; group, if it is not negative, is the cgroup
// in which the process is born.
func spawn(spec keeper.Spec, blob, group int) (pid, pidfd int, err error) {
	if spec.Dir == "" {
		spec.Dir = "/"
	}
	if err := spec.Check(); err != nil {
		return 0, -1, err
	}
	if err := own(&spec); err != nil {
		return 0, -1, err
	}
	if spec.Attributes.Staged() {
		return throughStage(spec, blob, group)
	}
	pid, pidfd, err = fork(spec, group)
	// The fork does not tell whether it was the user, the directory or the program
	// that was wrong, and we are somebody else. The stage does.
	if err != nil && spec.Attributes.Credential != nil && errors.Is(err, fs.ErrPermission) {
		return throughStage(spec, blob, group)
	}
	return pid, pidfd, err
}

// fork makes a process of a spec that needs no stage.
func fork(spec keeper.Spec, group int) (pid, pidfd int, err error) {
	files, null, err := childFiles(spec.Files)
	if err != nil {
		return 0, -1, &keeper.SpawnError{Step: "open", Path: os.DevNull, Err: wrap(keeper.Exhausted(err), err)}
	}
	if null >= 0 {
		defer func() { _ = unix.Close(null) }()
	}
	pidfd = -1
	sys := &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd, Cloneflags: syscall.CLONE_PARENT}
	if c := spec.Attributes.Credential; c != nil {
		sys.Credential = &syscall.Credential{Uid: c.UID, Gid: c.GID, Groups: c.Groups, NoSetGroups: isOurs(c)}
	}
	if t := spec.Attributes.Terminal; t != nil && t.Controlling {
		sys.Setctty, sys.Ctty = true, t.FD
	}
	if group >= 0 {
		pid, pidfd, err = forkPlaced(&newborn{path: spec.Path, args: spec.Args, env: spec.Env, dir: spec.Dir, files: files, sys: sys, group: group})
		if err != nil {
			return 0, -1, diagnose(spec, err)
		}
		return pid, pidfd, nil
	}
	pid, err = syscall.ForkExec(spec.Path, spec.Args, &syscall.ProcAttr{Dir: spec.Dir, Env: spec.Env, Files: files, Sys: sys})
	if err != nil {
		return 0, -1, diagnose(spec, err)
	}
	return pid, pidfd, nil
}

// childFiles returns our descriptors in the order of the child's numbers. If
// /dev/null is among them it was opened, and the caller closes it after the
// spawn; otherwise null is negative. ForkExec sorts out numbers that collide
// and clears close-on-exec, also where source and target are the same number.
func childFiles(list []keeper.File) (files []uintptr, null int, err error) {
	null = -1
	for _, f := range list {
		source := f.Source
		if source < 0 {
			if null < 0 {
				if null, err = unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
					return nil, -1, err
				}
			}
			source = null
		}
		for len(files) <= f.FD {
			files = append(files, closedFD)
		}
		files[f.FD] = uintptr(source)
	}
	return files, null, nil
}

// diagnose turns an error of ForkExec, which does not say which step failed,
// into one that does.
func diagnose(spec keeper.Spec, err error) error {
	if sentinel := keeper.Exhausted(err); sentinel != nil {
		step := "fork"
		if errors.Is(err, syscall.E2BIG) {
			step = "exec"
		}
		return &keeper.SpawnError{Step: step, Path: spec.Path, Err: wrap(sentinel, err)}
	}
	// The sources were open when they were checked, so this is the kernel's
	// refusal to duplicate one to a number at the limit.
	if errors.Is(err, syscall.EBADF) {
		return &keeper.SpawnError{Step: "fork", Path: spec.Path, Err: wrap(keeper.ErrDescriptors, err)}
	}
	if dirErr := enterable(spec.Dir); dirErr != nil {
		return &keeper.SpawnError{Step: "chdir", Path: spec.Dir, Err: wrap(keeper.ErrDirectory, dirErr)}
	}
	if missing(err) {
		if _, statErr := os.Stat(spec.Path); statErr == nil {
			err = fmt.Errorf("its interpreter or loader is missing: %w", err)
			return &keeper.SpawnError{Step: "exec", Path: spec.Path, Err: wrap(keeper.ErrNotExecutable, err)}
		}
		return &keeper.SpawnError{Step: "exec", Path: spec.Path, Err: wrap(keeper.ErrNotFound, err)}
	}
	if info, statErr := os.Stat(spec.Path); statErr == nil && info.IsDir() {
		err = syscall.EISDIR // the kernel says only EACCES
	}
	return &keeper.SpawnError{Step: "exec", Path: spec.Path, Err: wrap(keeper.ErrNotExecutable, err)}
}

// missing tells whether err says that a file is not there.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// enterable returns why dir cannot be a working directory, or nil.
func enterable(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return errors.Unwrap(err)
	case !info.IsDir():
		return syscall.ENOTDIR
	}
	return unix.Faccessat(unix.AT_FDCWD, dir, unix.X_OK, unix.AT_EACCESS)
}

// wrap puts a sentinel in front of the system's error. Without a sentinel the
// error stays as it is.
func wrap(sentinel, err error) error {
	if sentinel == nil {
		return err
	}
	return fmt.Errorf("%w: %w", sentinel, err)
}
