package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// closedFD tells syscall.ForkExec that the child has no descriptor of a number.
const closedFD = ^uintptr(0)

// spawn makes a child that executes the program. The caller owns the pidfd and
// has to reap the child. It takes no lock of ours, so spawns run side by side.
func spawn(spec Spec) (pid, pidfd int, err error) {
	if spec.Dir == "" {
		spec.Dir = "/"
	}
	if err := check(spec); err != nil {
		return 0, -1, &SpawnError{Step: "check", Path: spec.Path, Err: wrap(ErrInvalid, err)}
	}
	files, null, err := childFiles(spec.Files)
	if err != nil {
		return 0, -1, &SpawnError{Step: "open", Path: os.DevNull, Err: wrap(resource(err), err)}
	}
	if null >= 0 {
		defer func() { _ = unix.Close(null) }()
	}
	// The child inherits the signal mask of this thread.
	unmask, err := emptySignalMask()
	if err != nil {
		return 0, -1, &SpawnError{Step: "fork", Path: spec.Path, Err: err}
	}
	pidfd = -1
	pid, err = syscall.ForkExec(spec.Path, spec.Args, &syscall.ProcAttr{
		Dir:   spec.Dir,
		Env:   spec.Env,
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
	})
	unmask()
	if err != nil {
		return 0, -1, diagnose(spec, err)
	}
	return pid, pidfd, nil
}

// check refuses what would otherwise fail later with an error that does not
// tell what is wrong.
func check(spec Spec) error {
	switch {
	case !filepath.IsAbs(spec.Path):
		return errors.New("the path of the program is not absolute")
	case !filepath.IsAbs(spec.Dir):
		return fmt.Errorf("the working directory %q is not absolute", spec.Dir)
	case len(spec.Args) == 0:
		return errors.New("no arguments, not even the program's name")
	}
	texts := append([]string{spec.Path, spec.Dir}, spec.Args...)
	for _, s := range append(texts, spec.Env...) {
		if strings.IndexByte(s, 0) >= 0 {
			return errors.New("a zero byte in an argument, a path or the environment")
		}
	}
	var seen [MaxFD + 1]bool
	for _, f := range spec.Files {
		switch {
		case f.FD < 0 || f.FD > MaxFD:
			return fmt.Errorf("descriptor number %d is not within 0 and %d", f.FD, MaxFD)
		case seen[f.FD]:
			return fmt.Errorf("descriptor number %d is given twice", f.FD)
		}
		seen[f.FD] = true
		if f.Source < 0 {
			continue
		}
		if _, err := unix.FcntlInt(uintptr(f.Source), unix.F_GETFD, 0); err != nil {
			return fmt.Errorf("descriptor %d for %d: %w", f.Source, f.FD, err)
		}
	}
	return nil
}

// childFiles returns our descriptors in the order of the child's numbers. If
// /dev/null is among them it was opened, and the caller closes it after the
// spawn; otherwise null is negative. ForkExec sorts out numbers that collide
// and clears close-on-exec, also where source and target are the same number.
func childFiles(list []File) (files []uintptr, null int, err error) {
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

// emptySignalMask unblocks all signals of the calling thread and keeps the
// goroutine on it until restore is called.
func emptySignalMask() (restore func(), err error) {
	runtime.LockOSThread()
	var empty, old unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &empty, &old); err != nil {
		runtime.UnlockOSThread()
		return nil, os.NewSyscallError("rt_sigprocmask", err)
	}
	return func() {
		// It cannot fail: the arguments are those that worked before.
		_ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
		runtime.UnlockOSThread()
	}, nil
}

// diagnose turns an error of ForkExec, which does not say which step failed,
// into one that does.
func diagnose(spec Spec, err error) error {
	if sentinel := resource(err); sentinel != nil {
		step := "fork"
		if errors.Is(err, syscall.E2BIG) {
			step = "exec"
		}
		return &SpawnError{Step: step, Path: spec.Path, Err: wrap(sentinel, err)}
	}
	// The sources were open when they were checked, so this is the kernel's
	// refusal to duplicate one to a number at the limit.
	if errors.Is(err, syscall.EBADF) {
		return &SpawnError{Step: "fork", Path: spec.Path, Err: wrap(ErrDescriptors, err)}
	}
	if dirErr := enterable(spec.Dir); dirErr != nil {
		return &SpawnError{Step: "chdir", Path: spec.Dir, Err: wrap(ErrDirectory, dirErr)}
	}
	if missing(err) {
		if _, statErr := os.Stat(spec.Path); statErr == nil {
			err = fmt.Errorf("its interpreter or loader is missing: %w", err)
			return &SpawnError{Step: "exec", Path: spec.Path, Err: wrap(ErrNotExecutable, err)}
		}
		return &SpawnError{Step: "exec", Path: spec.Path, Err: wrap(ErrNotFound, err)}
	}
	if info, statErr := os.Stat(spec.Path); statErr == nil && info.IsDir() {
		err = syscall.EISDIR // the kernel says only EACCES
	}
	return &SpawnError{Step: "exec", Path: spec.Path, Err: wrap(ErrNotExecutable, err)}
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
