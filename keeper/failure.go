package keeper

import (
	"errors"
	"syscall"

	"github.com/piped-dev/piped/keeper/wire"
)

// kinds are the sentinels that travel between processes, by their numbers,
// which never change.
var kinds = []error{nil, ErrNotFound, ErrNotExecutable, ErrDirectory, ErrInvalid, ErrArguments, ErrDescriptors, ErrProcesses, ErrMemory, ErrUncertain, ErrNotPermitted, ErrHung}

// Describe returns what travels to another process in place of err.
func Describe(err error) *wire.Failure {
	f := &wire.Failure{Text: err.Error()}
	if spawn, ok := errors.AsType[*SpawnError](err); ok {
		f.Step, f.Path = spawn.Step, spawn.Path
		err = spawn.Err
		f.Text = err.Error()
	}
	for i, sentinel := range kinds {
		if sentinel != nil && errors.Is(err, sentinel) {
			f.Kind = i
			break
		}
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		f.Errno = int(errno)
	}
	return f
}

// Restore returns the error that f stands for: a *SpawnError that wraps the same
// sentinel and the same error of the system, with the same text.
func Restore(f *wire.Failure) error {
	told := &toldError{text: f.Text}
	if f.Kind > 0 && f.Kind < len(kinds) {
		told.causes = append(told.causes, kinds[f.Kind])
	}
	if f.Errno > 0 {
		told.causes = append(told.causes, syscall.Errno(f.Errno))
	}
	return &SpawnError{Step: f.Step, Path: f.Path, Err: told}
}

// A toldError is an error that another process has told of.
type toldError struct {
	text   string
	causes []error
}

func (e *toldError) Error() string   { return e.text }
func (e *toldError) Unwrap() []error { return e.causes }
