package keeper

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// An End identifies one end of a pipe or a socket, across all processes that
// have it open. Ends are comparable.
type End struct {
	// Device and Inode identify the kernel's object. Each end of a socketpair
	// has an inode of its own; the two ends of a pipe share one.
	Device, Inode uint64
	// Kind is what it is, and which end.
	Kind EndKind
}

// EndKind is what an [End] is the end of.
type EndKind uint8

// The kinds of ends.
const (
	// Socket is a socket.
	Socket EndKind = iota + 1
	// PipeReader is the end of a pipe that is read.
	PipeReader
	// PipeWriter is the end of a pipe that is written.
	PipeWriter
	// PipeBoth is a pipe opened for reading and writing, as through
	// /proc/PID/fd; it holds both ends.
	PipeBoth
	// TerminalSide is the process's side of a terminal.
	TerminalSide
)

// firstTerminalMajor to lastTerminalMajor are the device numbers of terminals that a master opens,
// UNIX98_PTY_SLAVE_MAJOR and the seven behind it.
const firstTerminalMajor, lastTerminalMajor = 136, 143

// firstTerminal is the inode of /dev/pts/0 in its filesystem.
const firstTerminal = 3

// EndOf returns the identity of the pipe, the socket or the process's side of a
// terminal that fd is open on. Anything else is refused with [ErrInvalid]; so is the
// master of a terminal, because the kernel does not tell one from another.
func EndOf(fd int) (End, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return End{}, os.NewSyscallError("fstat", err)
	}
	end := End{Device: stat.Dev, Inode: stat.Ino}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		end.Kind = Socket
		return end, nil
	case unix.S_IFIFO:
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil {
			return End{}, os.NewSyscallError("fcntl", err)
		}
		end.Kind = pipeKind(flags)
		return end, nil
	}
	if major := unix.Major(stat.Rdev); stat.Mode&unix.S_IFMT == unix.S_IFCHR && major >= firstTerminalMajor && major <= lastTerminalMajor {
		end.Kind = TerminalSide
		return end, nil
	}
	return End{}, fmt.Errorf("%w: descriptor %d is neither a pipe nor a socket nor a process's side of a terminal", ErrInvalid, fd)
}

// pipeKind returns which end a pipe that was opened with flags is.
func pipeKind(flags int) EndKind {
	switch flags & unix.O_ACCMODE {
	case unix.O_RDONLY:
		return PipeReader
	case unix.O_WRONLY:
		return PipeWriter
	}
	return PipeBoth
}

// matches tells whether a descriptor of kind k holds an end of kind want.
func (k EndKind) matches(want EndKind) bool {
	return k == want || k != Socket && want != Socket && k != TerminalSide && want != TerminalSide && (k == PipeBoth || want == PipeBoth)
}

// link returns what /proc/PID/fd/N says of the object. The name is the
// filesystem's, so a file cannot pass itself off as one (its name starts with a
// slash). Of a terminal it is a name, which in another filesystem of terminals may
// be that of another one.
func (e End) link() string {
	switch e.Kind {
	case Socket:
		return fmt.Sprintf("socket:[%d]", e.Inode)
	case TerminalSide:
		return fmt.Sprintf("/dev/pts/%d", e.Inode-firstTerminal)
	}
	return fmt.Sprintf("pipe:[%d]", e.Inode)
}
