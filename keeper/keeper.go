// Package keeper is how a front, the process that moves bytes, has programs
// started, reaped and signalled, and its descriptors kept, by its keeper: a
// process of its own that outlives it.
//
// The keeper is the parent of all processes that sessions start, and holds a copy
// of each descriptor of theirs. It moves no data. When the front is killed, the
// next one gets everything from it; when the keeper is killed, the front gives
// everything to a new one. [Connect] does the first, a [Link] the second by
// itself. The keeper's own side is package custody.
//
// # What a child gets
//
// A child gets exactly the descriptors, the arguments, the environment and the
// directory that its [Spec] lists. It leads a session of its own, has no
// controlling terminal, blocks no signal, and has the default action for every
// signal, even when the keeper itself was started with some of them ignored
// (nohup, a shell's "&") or blocked. Its soft limit of open files is the one
// the keeper was started with, not the one the Go runtime raised it to.
//
// # How it ends
//
// The exit of a process and the end of its pipes are two facts. A process is
// reaped as soon as it exits, whoever still holds its pipes. Its [ExitStatus]
// is state that stays with the [Process], so that nobody has to be listening
// when it happens, and with the keeper until [Account.Forget]. Signals go through
// the pidfd: a number that the system gave to another process in the meantime is
// never signalled.
//
// # Use
//
// One process has one link. Everything that it opens must be born
// close-on-exec. It must not call wait for any child (wait4(-1) steals exits).
// Programs see the end of a pipe only when the last copy of the other end is
// closed, and the keeper's copies and the caller's count: close what only the child
// should have as soon as Start has returned.
package keeper

import (
	"syscall"
	"time"
)

// MaxFD is the highest descriptor number that a child can be given. Programs
// that use select(2) can do nothing with a higher one, and each number below
// costs a system call while the child is being made.
const MaxFD = 1023

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
	// Attributes are what else it is given.
	Attributes Attributes
	// Sweep has what is left of its tree killed when it exits: see [Process.SignalGroup].
	Sweep bool
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
	// exit it returns [ErrExited]. While the keeper is away it waits for a new one,
	// up to 10 s, then the error is [ErrAway]. When the keeper dies in the middle,
	// signals that do twice what they do once (0, KILL, TERM, CONT, STOP, WINCH) are
	// sent again; for others the error is [ErrUncertain].
	Signal(sig syscall.Signal) error
	// SignalGroup is Signal for the process and all its descendants where it is
	// Confined; otherwise for the process group that it leads: it and those of its
	// descendants that have not left the group, and for KILL also those that have, if
	// all their parents are still there. With sweep what is left of the cgroup, or the
	// group, is killed when the process exits; signal 0 asks for no more than that. A keeper that
	// does not know groups yet reaches the process alone.
	SignalGroup(sig syscall.Signal, sweep bool) error
	// Confined says that the process was born in a cgroup of its own, which none of
	// its descendants can leave by forking.
	Confined() bool
	// Done returns a channel that is closed when the process has exited and
	// was reaped. By then all descriptors that stood for it are closed.
	Done() <-chan struct{}
	// Exit returns how the process exited, and the zero value before Done is
	// closed.
	Exit() ExitStatus
}

// An ExitStatus is how a process ended: by returning a code or by a signal.
type ExitStatus struct {
	// Code is what the process returned, 0 to 255, or -1 when it was ended by
	// a signal or Unknown is set.
	Code int
	// Signal is what ended the process; 0 if it returned.
	Signal syscall.Signal
	// CoreDumped says that the signal left a core dump.
	CoreDumped bool
	// Unknown says that nobody could tell how the process ended: its keeper had
	// died. Code is -1 then, and Signal 0.
	Unknown bool
	// OutOfMemory says that the kernel killed the process because its session had no
	// memory left: its limit, or the whole machine. Signal is KILL then.
	OutOfMemory bool
	// Time is when the keeper saw the exit.
	Time time.Time
	// Usage is what the process has used; nil where nobody can tell, because the
	// keeper that saw the exit was not the one that had started it, or Unknown is
	// set.
	Usage *Usage
}

// A Usage is what a process has used: all its threads, and those of its
// descendants that it, or they one of the other, have waited for, as getrusage(2)
// tells of RUSAGE_SELF and RUSAGE_CHILDREN together. Descendants that nobody waited
// for, and those that run on, are not in it.
type Usage struct {
	// User and System are CPU time, added up, as finely as the kernel counts
	// (microseconds).
	User, System time.Duration
	// Peak is the most memory that was resident at a time, in bytes: that of the
	// largest of these processes, not their sum. What the process was before it
	// executed its program, a copy of the keeper's spawner with some MiB, counts.
	Peak int64
}
