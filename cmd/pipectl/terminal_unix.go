//go:build linux || darwin

package main

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"golang.org/x/sys/unix"
)

// A terminal is the local terminal in the mode that attach needs: lines are still
// edited and echoed by the kernel, but the detach keys come through at once.
// Restore it on every way out. Its methods are safe for concurrent use.
type terminal struct {
	fd           int
	before, mode unix.Termios

	// mu guards restored.
	mu       sync.Mutex
	restored bool
}

// newTerminal sets the mode. Reading the last of the keys ends a line, as Enter
// does; a key loses every other meaning that it has.
func newTerminal(file *os.File, keys []byte) (*terminal, error) {
	fd := int(file.Fd())
	before, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return nil, os.NewSyscallError("tcgetattr", err)
	}
	t := &terminal{fd: fd, before: *before, mode: *before}
	t.mode.Iflag &^= unix.IXON // ctrl-q and ctrl-s would stay in the kernel
	functions := [...]int{
		unix.VINTR, unix.VQUIT, unix.VSUSP, unix.VEOF, unix.VERASE, unix.VKILL,
		unix.VWERASE, unix.VLNEXT, unix.VREPRINT, unix.VDISCARD, unix.VEOL2,
	}
	for _, key := range keys {
		for _, function := range functions {
			if t.mode.Cc[function] == key {
				t.mode.Cc[function] = noKey
			}
		}
	}
	// The others wait in the line for the last.
	t.mode.Cc[unix.VEOL] = keys[len(keys)-1]
	return t, t.set(&t.mode)
}

func (t *terminal) set(mode *unix.Termios) error {
	return os.NewSyscallError("tcsetattr", unix.IoctlSetTermios(t.fd, setTermios, mode))
}

// restore sets the mode that was there before, for good.
func (t *terminal) restore() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.restored = true
	return t.set(&t.before)
}

// suspend stops this process, as the kernel would have done for ctrl-z, with the
// terminal as it was before; it returns when the process goes on.
func (t *terminal) suspend() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	session, err := unix.Getsid(0)
	if err != nil || session == syscall.Getpgrp() || t.restored {
		return err // without a shell nobody would continue us, and the kernel too stops nobody
	}
	if err := t.set(&t.before); err != nil {
		return err
	}
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, syscall.SIGCONT)
	defer signal.Stop(continued)
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGSTOP); err != nil {
		return err
	}
	// This thread may run on for a moment before it stops.
	<-continued
	return t.set(&t.mode)
}

// suspendSignal is what ctrl-z sends.
const suspendSignal = syscall.SIGTSTP

// newRawTerminal sets the mode in which every key comes through at once and means
// nothing here: the terminal at the other side has its own. What is shown is shown as
// it comes.
func newRawTerminal(file *os.File) (*terminal, error) {
	fd := int(file.Fd())
	before, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return nil, os.NewSyscallError("tcgetattr", err)
	}
	t := &terminal{fd: fd, before: *before, mode: *before}
	t.mode.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.mode.Oflag &^= unix.OPOST
	t.mode.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.mode.Cflag = t.mode.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.mode.Cc[unix.VMIN], t.mode.Cc[unix.VTIME] = 1, 0
	return t, t.set(&t.mode)
}

// windowSize is the size of a terminal.
func windowSize(file *os.File) (*pipedv1.TerminalSize, error) {
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return nil, os.NewSyscallError("TIOCGWINSZ", err)
	}
	return &pipedv1.TerminalSize{Rows: uint32(size.Row), Columns: uint32(size.Col), Width: uint32(size.Xpixel), Height: uint32(size.Ypixel)}, nil
}

// resizeSignal says that the size has changed.
const resizeSignal = syscall.SIGWINCH
