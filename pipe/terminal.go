package pipe

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"github.com/piped-dev/piped/failpoint"
	"golang.org/x/sys/unix"
)

// Errors of terminals. They are matched with errors.Is.
var (
	// ErrNoTerminal: the end is not that of a terminal.
	ErrNoTerminal = errors.New("not a terminal")
	// ErrTerminalRaw: the terminal has no end of input now.
	ErrTerminalRaw = errors.New("the terminal is in raw mode")
	// ErrTerminalLine: the terminal would drop the rest of such a line.
	ErrTerminalLine = errors.New("line is too long for the terminal")
)

// A TerminalSpec says how a terminal begins.
type TerminalSpec struct {
	Size WindowSize
	// Raw: bytes pass unchanged both ways. Otherwise the terminal edits lines, and
	// writes a carriage return before each newline.
	Raw bool
	// Echo: what goes in comes out too.
	Echo bool
}

// A WindowSize is the size of a terminal. Pixels are for programs that draw; 0 is
// unknown.
type WindowSize struct {
	Rows, Columns uint16
	Width, Height uint16 // in pixels
}

// A TerminalInfo is a look at a terminal.
type TerminalInfo struct {
	Size WindowSize
	// Canonical: it edits lines, and has an end of input. Echo: what goes in comes
	// out too. The process changes both whenever it likes.
	Canonical, Echo bool
}

// IsTerminal reports whether what comes out of end 1 comes from a terminal.
func (k Kind) IsTerminal() bool { return k == Terminal || k == TerminalOut || k == TerminalOutOnly }

// minTerminalTail is what is retained of what was sent into a terminal: the line
// that the next byte belongs to is found in it.
const minTerminalTail = 8 << 10

// A terminal is the daemon's side of one. No call moves bytes from a terminal into
// a file, only into a pipe. So between the master and the log lies a pipe of ours,
// out of which end 1 reads: each of the two moves is one call of the kernel, and
// what lies between them outlives the process that makes them.
type terminal struct {
	master *descriptor
	// feed is the writing side of the pipe. Nobody else has it, and it is not kept:
	// it is opened again from the other side.
	feed    *descriptor
	pumping sync.WaitGroup

	mu   sync.Mutex
	last TerminalInfo // when the master was open
}

// openTerminal makes a terminal, and the ends of a pipe whose output it is.
func openTerminal(poller *Poller, spec *Spec) (fds [2]ends, t *terminal, err error) {
	t = &terminal{}
	defer func() {
		if err != nil {
			fds[0].close()
			fds[1].close()
			t.close()
		}
	}()
	master, slave, err := openMaster(poller, &spec.Terminal)
	if err != nil {
		return fds, t, err
	}
	t.master = master
	s, err := newDescriptor(slave, false, false, poller)
	if err != nil {
		return fds, t, err
	}
	fds[1].write = s
	if fds[0].read, t.feed, err = openPipe(poller, true, true); err != nil {
		return fds, t, err
	}
	switch spec.Kind {
	case Terminal:
		fds[0].write, fds[1].read = t.master, s
	case TerminalOut:
		fds[1].read, fds[0].write, err = openPipe(poller, false, true)
	default:
	}
	return fds, t, err
}

// openMaster opens a terminal as it is to begin; slave is the process's side.
func openMaster(poller *Poller, spec *TerminalSpec) (master *descriptor, slave int, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, -1, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	slave = -1
	fail := func(call string, err error) (*descriptor, int, error) {
		_ = unix.Close(fd)
		closeFD(&slave, true)
		return nil, -1, os.NewSyscallError(call, err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return fail("unlockpt", err)
	}
	// By the master, not by a name that leads elsewhere in another mount namespace.
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return fail("TIOCGPTPEER", errno)
	}
	slave = int(peer)
	if err := begin(fd, spec); err != nil {
		return fail("tcsetattr", err)
	}
	if master, err = newDescriptor(fd, false, true, poller); err != nil {
		closeFD(&slave, true)
		return nil, -1, err
	}
	master.tty = true
	return master, slave, nil
}

// begin gives a terminal its first size and mode.
func begin(fd int, spec *TerminalSpec) error {
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	mode.Iflag |= unix.IUTF8 // an erased character is all its bytes
	if spec.Raw {
		mode.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
		mode.Oflag &^= unix.OPOST
		mode.Lflag &^= unix.ICANON | unix.ISIG | unix.IEXTEN
		mode.Cc[unix.VMIN], mode.Cc[unix.VTIME] = 1, 0
	}
	if !spec.Echo {
		mode.Lflag &^= unix.ECHO | unix.ECHONL
	}
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, mode); err != nil {
		return err
	}
	return setSize(fd, spec.Size)
}

func setSize(fd int, s WindowSize) error {
	return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: s.Rows, Col: s.Columns, Xpixel: s.Width, Ypixel: s.Height})
}

// recoverTerminal makes the daemon's side again from the ends that were kept; nil
// where nothing comes out of it any more.
func recoverTerminal(poller *Poller, master, read *descriptor) (*terminal, error) {
	if master == nil || master.isClosed() || read.isClosed() {
		return nil, nil
	}
	master.tty = true
	t := &terminal{master: master}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(read.fd()), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the pipe behind a terminal: %w", err)
	}
	t.feed, err = newDescriptor(fd, false, true, poller)
	return t, err
}

// deposited notes that a copy of the master is in a vault, where it is not that of
// end 1 anyway.
func (t *terminal) deposited(vault Vault, slot int, write *descriptor) {
	if t != nil && vault != nil && t.master != write {
		t.master.kept = deposit{vault, masterKey(slot)}
	}
}

// start begins to move what comes out of the terminal.
func (t *terminal) start() { t.pumping.Go(t.pump) }

// pump moves what the terminal has into the pipe, until nobody holds the process's
// side any more and all that was written there has come: then the pipe ends. What
// nobody wants any more it throws away, so that the process does not wait for us
// while we wait for it.
func (t *terminal) pump() {
	defer t.feed.close()
	move := t.splice
	for {
		if err := t.awaitRoom(); err != nil {
			return
		}
		switch err := t.master.whenReadable(move); {
		case err == nil:
		case errors.Is(err, unix.EPIPE):
			move = t.drop
		default: // EIO is a hangup; or we are to stop
			return
		}
	}
}

// awaitRoom waits until the pipe takes more, or nobody reads it.
func (t *terminal) awaitRoom() error {
	_, err := t.feed.whenWritable(func() (int, error) {
		if t.feed.ready(unix.POLLOUT) == 0 {
			return 0, unix.EAGAIN
		}
		return 0, nil
	})
	return err
}

func (t *terminal) splice() error {
	_, err := ignoringEINTR(func() (int, error) {
		n, err := unix.Splice(t.master.fd(), nil, t.feed.fd(), nil, maxStep, unix.SPLICE_F_NONBLOCK)
		if n == 0 && err == nil { // a terminal has no end of file
			err = unix.EIO
		}
		return int(n), err
	})
	if err == nil {
		failpoint.Hit("terminal.after-splice")
	}
	return err
}

func (t *terminal) drop() error {
	b := consumed.Get().(*[]byte)
	defer consumed.Put(b)
	_, err := ignoringEINTR(func() (int, error) { return unix.Read(t.master.fd(), *b) })
	return err
}

// close stops the pump and closes the master, which hangs up on the process.
func (t *terminal) close() {
	if t == nil {
		return
	}
	t.look() // for the last time
	if t.master != nil {
		t.master.interruptRead()
	}
	if t.feed != nil {
		t.feed.interruptWrite()
		t.pumping.Wait()
		t.feed.close()
	}
	if t.master != nil {
		t.master.close()
	}
}

// look returns what the terminal is now, or was when it was closed.
func (t *terminal) look() TerminalInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.master == nil || t.master.isClosed() {
		return t.last
	}
	if size, err := unix.IoctlGetWinsize(t.master.fd(), unix.TIOCGWINSZ); err == nil {
		t.last.Size = WindowSize{Rows: size.Row, Columns: size.Col, Width: size.Xpixel, Height: size.Ypixel}
	}
	if mode, err := t.master.mode(); err == nil {
		t.last.Canonical, t.last.Echo = mode.Lflag&unix.ICANON != 0, mode.Lflag&unix.ECHO != 0
	}
	return t.last
}

// mode returns the mode that the process's side of a terminal has now.
func (d *descriptor) mode() (*unix.Termios, error) { return unix.IoctlGetTermios(d.fd(), unix.TCGETS) }

// Terminal returns a look at the terminal of the end, and whether it has one. Of
// one that was closed before this process began nothing is known.
func (e *Endpoint) Terminal() (info TerminalInfo, ok bool) {
	if e.terminal == nil {
		return TerminalInfo{}, false
	}
	return e.terminal.look(), true
}

// Resize gives the terminal of the end another size; the processes in its
// foreground hear of it by SIGWINCH. It returns ErrNoTerminal where there is none, and
// ErrClosed where there is none any more.
func (e *Endpoint) Resize(s WindowSize) error {
	if e.terminal == nil {
		return ErrNoTerminal
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing || e.retired || e.terminal.master.isClosed() {
		return ErrClosed
	}
	return os.NewSyscallError("TIOCSWINSZ", setSize(e.terminal.master.fd(), s))
}
