package keeper

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// What can be wrong when a program is looked up, started or signalled. The
// errors returned wrap one of these; those of Start are a *SpawnError.
var (
	// ErrNotFound: there is no such program (a shell says 127).
	ErrNotFound = errors.New("program not found")
	// ErrNotExecutable: the program is there but cannot be executed: no
	// permission, a directory, an unknown format, a missing interpreter (a
	// shell says 126).
	ErrNotExecutable = errors.New("program cannot be executed")
	// ErrDirectory: the working directory is missing or may not be entered.
	ErrDirectory = errors.New("working directory cannot be entered")
	// ErrInvalid: the Spec itself makes no sense.
	ErrInvalid = errors.New("invalid spec")
	// ErrArguments: arguments and environment are larger than the kernel takes.
	ErrArguments = errors.New("arguments and environment too large")
	// ErrNotPermitted: the keeper, or the kernel, does not allow it: another user, a
	// higher limit, a lower nice value.
	ErrNotPermitted = errors.New("not permitted")
	// ErrHung: the file system of the program or of the working directory does not
	// answer. The attempt was given up and killed.
	ErrHung = errors.New("the file system does not answer")
	// ErrDescriptors: this process or the system can open no more descriptors.
	ErrDescriptors = errors.New("out of descriptors")
	// ErrProcesses: the user, the cgroup or the system can have no more
	// processes.
	ErrProcesses = errors.New("out of processes")
	// ErrMemory: the kernel has no memory for another process.
	ErrMemory = errors.New("out of memory")
	// ErrClosed: the keeper was closed.
	ErrClosed = errors.New("keeper closed")
	// ErrAway: no keeper answers. What was asked for was not done.
	ErrAway = errors.New("no keeper answers")
	// ErrUncertain: the keeper died in the middle. What was asked for may have
	// been done, and doing it again might do it twice.
	ErrUncertain = errors.New("the keeper died in the middle; what was asked for may have been done")
	// ErrExited: the process has exited. It is [os.ErrProcessDone].
	ErrExited = os.ErrProcessDone
)

// A SpawnError says why a program could not be started.
type SpawnError struct {
	// Step is what went wrong: "lookup" (LookPath), "check" (the Spec), "open" (/dev/null), "fork",
	// "cgroup", "umask", "nice", "limit", "user", "privileges" (no new ones), "terminal", "chdir", "exec" or "watch" (the new process could not be watched and was
	// killed).
	Step string
	// Path is the file concerned: the directory for "chdir", what could not
	// be opened for "open", otherwise the program.
	Path string
	// Err wraps one of this package's errors and, where there is one, the
	// system's own.
	Err error
}

// Error returns step, path and cause.
func (e *SpawnError) Error() string {
	return fmt.Sprintf("%s %s: %v", e.Step, e.Path, e.Err)
}

// Unwrap returns the cause.
func (e *SpawnError) Unwrap() error { return e.Err }

// Exhausted returns this package's error for one of the system that means that
// something has run out, or nil.
func Exhausted(err error) error { return resource(err) }

func resource(err error) error {
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return ErrDescriptors
	case errors.Is(err, syscall.EAGAIN):
		return ErrProcesses
	case errors.Is(err, syscall.ENOMEM):
		return ErrMemory
	case errors.Is(err, syscall.E2BIG):
		return ErrArguments
	}
	return nil
}

// wrap puts a sentinel in front of the system's error. Without a sentinel the
// error stays as it is.
func wrap(sentinel, err error) error {
	if sentinel == nil {
		return err
	}
	return fmt.Errorf("%w: %w", sentinel, err)
}
