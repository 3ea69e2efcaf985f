// Package keeper starts programs, reaps them, signals them, and finds out who
// holds the ends of their pipes.
//
// A [Keeper] is the parent of all processes that sessions start. It moves no
// data: it duplicates the descriptors it is given into the child and has
// nothing to do with the bytes that flow through them afterwards.
//
// # What a child gets
//
// A child gets exactly the descriptors, the arguments, the environment and the
// directory that its [Spec] lists. It leads a session of its own, has no
// controlling terminal, blocks no signal, and has the default action for every
// signal, even when the daemon itself was started with some of them ignored
// (nohup, a shell's "&") or blocked. Its soft limit of open files is the one
// the daemon was started with, not the one the Go runtime raised it to.
//
// # How it ends
//
// The exit of a process and the end of its pipes are two facts. A process is
// reaped as soon as it exits, whoever still holds its pipes. Its [ExitStatus]
// is state that stays with the [Process], so that nobody has to be listening
// when it happens. Signals go through the pidfd: a number that the system gave
// to another process in the meantime is never signalled.
//
// # Use
//
// One process has one keeper. Everything that it opens must be born
// close-on-exec. It must not call wait for any child (wait4(-1) steals exits),
// and after [New] it must not call [os/signal.Ignore], which children inherit.
// Programs see the end of a pipe only when the last copy of the other end is
// closed, and the caller's copies count: close what only the child should have
// as soon as Start has returned.
package keeper

import (
	"context"
	"syscall"
	"time"
)

// MaxFD is the highest descriptor number that a child can be given. Programs
// that use select(2) can do nothing with a higher one, and each number below
// costs a system call while the child is being made.
const MaxFD = 1023

// A Keeper starts processes and knows who holds what. All methods may be called
// concurrently.
type Keeper interface {
	// Start starts a program and returns once it has been executed. The
	// descriptors of spec are duplicated into the child; the caller keeps its
	// own, must leave them open until Start returns, and closes them.
	//
	// The context bounds starting only: a process outlives the call that made
	// it, and once the fork is under way the start is finished.
	//
	// A program that cannot be started leaves nothing behind; the error is a
	// *SpawnError, which tells by [errors.Is] what was wrong. Other errors are
	// the context's and, after Close, [ErrClosed].
	Start(ctx context.Context, spec Spec) (Process, error)

	// Holders returns, for each end in the order given, the processes in the
	// whole system that have it open, lowest process id first. Processes that
	// the keeper may not look into (those of other users, unless it runs as
	// root) are left out, and so are copies that are in flight inside a socket.
	Holders(ctx context.Context, ends []End) ([][]Holder, error)

	// Close releases what the keeper holds and returns when its goroutines
	// have ended. Running processes go on, but are no longer reaped: their
	// Done never closes, and Signal returns [ErrClosed]. Close is idempotent.
	Close() error
}

// A Spec says what to start.
type Spec struct {
	// Path is the absolute path of the program; see [LookPath].
	Path string
	// Args is the whole argument vector, the program's own name first.
	Args []string
	// Env is the whole environment, "KEY=value" each. Nothing is added.
	Env []string
	// Dir is the absolute working directory. Empty means "/".
	Dir string
	// Files are the descriptors of the child. It has no others; a standard
	// stream that is not among them is closed.
	Files []File
}

// A File is a descriptor that a child gets.
type File struct {
	// FD is the number in the child, at most [MaxFD].
	FD int
	// Source is our descriptor, of which the child gets a duplicate. The
	// keeper changes neither its flags nor those of its open file description.
	// Negative means /dev/null, open for reading and writing.
	Source int
}

// A Process is a child that was started. All methods may be called
// concurrently.
type Process interface {
	// Pid returns the process id. It is information: after the exit the system
	// may give the number to another process.
	Pid() int
	// Signal sends a signal to the process, not to its descendants. After the
	// exit it returns [ErrExited].
	Signal(sig syscall.Signal) error
	// Done returns a channel that is closed when the process has exited and
	// was reaped. By then the keeper has let go of everything it held for it.
	Done() <-chan struct{}
	// Exit returns how the process exited, and the zero value before Done is
	// closed.
	Exit() ExitStatus
}

// An ExitStatus is how a process ended: by returning a code or by a signal.
type ExitStatus struct {
	// Code is what the process returned, 0 to 255, or -1 when it was ended by
	// a signal. It is also -1, with no signal, when the status is lost because
	// something else in the keeper's process has waited for the child.
	Code int
	// Signal is what ended the process; 0 if it returned.
	Signal syscall.Signal
	// CoreDumped says that the signal left a core dump.
	CoreDumped bool
	// Time is when the keeper saw the exit.
	Time time.Time
}
