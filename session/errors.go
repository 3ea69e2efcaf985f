package session

import (
	"errors"
	"fmt"
	"time"

	"github.com/piped-dev/piped/pipe"
)

// What can be wrong with a request. Errors returned wrap one of these, one of
// package pipe or one of package keeper.
var (
	// ErrArgument: the request makes no sense in itself.
	ErrArgument = errors.New("invalid argument")
	// ErrSessionNotFound, ErrPipeNotFound, ErrProcessNotFound: no such name.
	ErrSessionNotFound = errors.New("no such session")
	ErrPipeNotFound    = errors.New("no such pipe")
	ErrProcessNotFound = errors.New("no such process")
	// ErrSessionExists, ErrPipeExists, ErrProcessExists: the name is taken.
	ErrSessionExists = errors.New("session exists")
	ErrPipeExists    = errors.New("pipe exists")
	ErrProcessExists = errors.New("process exists")
	// ErrRequestReused: a request id came again with other content.
	ErrRequestReused = errors.New("request id was used for another request")
	// ErrIncarnation: the pipe or process has no such incarnation, or has it no more.
	ErrIncarnation = errors.New("no such incarnation")
	// ErrNotRestartable: nobody knows, or can make, what the process was started from.
	ErrNotRestartable = errors.New("process cannot be started again")
	// ErrRestarting: the process that reads is about to be started again; a
	// *RestartingError says when.
	ErrRestarting = errors.New("process is being started again")
	// ErrActive: the session has not ended.
	ErrActive = errors.New("session has not ended")
	// ErrExited: the process has exited.
	ErrExited = errors.New("process has exited")
	// ErrBusyReader, ErrBusyWriter: somebody else reads or writes the end.
	ErrBusyReader = errors.New("endpoint has a reader")
	ErrBusyWriter = errors.New("endpoint has a writer")
	// ErrFenced: the lease was stolen, was given back or ran out, or a newer epoch
	// of the same writer exists.
	ErrFenced = errors.New("fenced off")
	// ErrSuperseded: a newer stream of the same writer or consumer took over.
	ErrSuperseded = errors.New("a newer stream took over")
	// ErrSealed: no process can inherit the end.
	ErrSealed = errors.New("endpoint is sealed")
	// ErrUnreadBuffered: the daemon holds bytes of the end that a process
	// would miss.
	ErrUnreadBuffered = errors.New("endpoint holds unread messages")
	// ErrUnsentBuffered: the kernel does not take what was accepted for the
	// end.
	ErrUnsentBuffered = errors.New("endpoint holds messages that are not handed over")
	// ErrDescriptors: no descriptors are left for this.
	ErrDescriptors = errors.New("descriptor limit")
	// ErrShutdown: the daemon is ending.
	ErrShutdown = errors.New("daemon is shutting down")
)

// An EnvironmentError refuses a variable that a request sets and the daemon's
// configuration denies.
type EnvironmentError struct {
	Name    string // of the variable
	Pattern string // that denies it
}

// Error says which variable it is, and why.
func (e *EnvironmentError) Error() string {
	return fmt.Sprintf("environment: %s may not be set: environment.deny of this daemon has %q", e.Name, e.Pattern)
}

// A SequenceGapError refuses a message because messages before it are missing.
type SequenceGapError struct{ Got, Expected pipe.Position }

// Error says what was expected.
func (e *SequenceGapError) Error() string {
	return fmt.Sprintf("sequence gap: got message %v, expected %v", e.Got, e.Expected)
}

// A BusyError names who reads or writes an end. It is ErrBusyReader or
// ErrBusyWriter.
type BusyError struct {
	Err    error
	Client string // id of the reader or writer, or "pid N (command)"
	// Expires is when the client's lease ends by itself; zero while a stream holds
	// it.
	Expires time.Time
}

// Error says who it is.
func (e *BusyError) Error() string { return fmt.Sprintf("%v: %s", e.Err, e.Client) }

// Unwrap returns the sentinel.
func (e *BusyError) Unwrap() error { return e.Err }

// A FencedError says who has the right instead. It is ErrFenced.
type FencedError struct {
	By string // the holder now; empty when nobody has it
	// Epoch of the lease, or the newest one of the writer.
	Epoch uint64
}

// Error says who it is.
func (e *FencedError) Error() string {
	if e.By == "" {
		return fmt.Sprintf("%v: the lease has ended", ErrFenced)
	}
	return fmt.Sprintf("%v: %s goes on, in epoch %d", ErrFenced, e.By, e.Epoch)
}

// Unwrap returns the sentinel.
func (e *FencedError) Unwrap() error { return ErrFenced }

// A RestartingError refuses what is meant for the next incarnation of a process,
// which is not there yet. It is ErrRestarting.
type RestartingError struct {
	Process string
	Ref     string    // of the endpoint
	Next    time.Time // when it is started; zero: as soon as it is stopped
}

// Error says which process it is, and until when.
func (e *RestartingError) Error() string {
	text := fmt.Sprintf("%v: %s reads %s", ErrRestarting, e.Process, e.Ref)
	if !e.Next.IsZero() {
		text += ", next at " + e.Next.UTC().Format(time.RFC3339Nano)
	}
	return text
}

// Unwrap returns the sentinel.
func (e *RestartingError) Unwrap() error { return ErrRestarting }

func argument(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrArgument}, args...)...)
}
