package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper/wire"
)

// launches is how often a keeper is started before it counts as one that cannot be: it may have been killed.
const launches = 3

// Pauses between two attempts to reach the keeper.
const (
	firstPause = time.Millisecond
	lastPause  = 50 * time.Millisecond
)

// Connect finds or starts the keeper and returns once this process is its only front: the front before is provably gone. While
// that takes, onWait (may be nil) is told the process id of the one waited for.
//
// The context bounds all of that. Other errors say that there can be no keeper, or one that speaks a newer protocol.
func Connect(ctx context.Context, o Options, onWait func(pid int)) (*Link, *Estate, error) {
	path, err := filepath.Abs(o.Socket)
	if err != nil {
		return nil, nil, err
	}
	o.Socket = path
	l := newLink(o)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		s, err := l.dial(ctx)
		if err != nil {
			l.cancel()
			return nil, nil, err
		}
		estate, err := l.inherit(ctx, s, onWait)
		if err == nil {
			l.running.Go(func() { l.run(s) })
			return l, estate, nil
		}
		s.close()
		if !errors.Is(err, errDown) || ctx.Err() != nil {
			l.cancel()
			return nil, nil, errors.Join(ctx.Err(), err)
		}
		// The keeper died in the middle.
		if err := rest(ctx, pause); err != nil {
			l.cancel()
			return nil, nil, err
		}
	}
}

// A station is a connection to a keeper that has taken this front in.
type station struct {
	conn  *wire.Conn
	pidfd *os.File // the keeper's; nil until it is known
}

func (s *station) close() {
	_ = s.conn.Close()
	if s.pidfd != nil {
		_ = s.pidfd.Close()
	}
}

// dial connects to a keeper, and starts one if there is none.
func (l *Link) dial(ctx context.Context) (*station, error) {
	failed := 0
	for pause, launched := firstPause, false; ; pause = min(2*pause, lastPause) {
		conn, err := connect(l.options.Socket)
		switch {
		case err == nil:
			return &station{conn: conn}, nil
		case errors.Is(err, syscall.EAGAIN): // too many connect at once
		case !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ECONNREFUSED):
			return nil, fmt.Errorf("connect to the keeper at %s: %w", l.options.Socket, err)
		case l.options.Program != "" && !launched:
			launched = true // another one only after a pause
			err := launch(ctx, &l.options)
			if err == nil {
				continue
			}
			if failed++; failed == launches || ctx.Err() != nil {
				return nil, err
			}
			l.log.Warn("a keeper did not start", "error", err)
		default:
			launched = false
		}
		if err := rest(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// rest waits.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// maxAddress is the length of the longest path in the address of a socket.
const maxAddress = 107

// connect connects to the socket at path, also where the path is too long for an address.
func connect(path string) (*wire.Conn, error) {
	if len(path) > maxAddress {
		dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer func() { _ = unix.Close(dir) }()
		path = "/proc/self/fd/" + strconv.Itoa(dir) + "/" + filepath.Base(path)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return wire.NewConn(fd)
}

// launcherName is what the program is called while it starts a keeper.
const launcherName = "piped-launcher"

// launch has the program start a keeper, which belongs to nobody, and returns when one answers at the socket.
func launch(ctx context.Context, o *Options) error {
	program, args := o.Program, []string{launcherName, "--detach", "--socket", o.Socket}
	if o.Cgroup != "" && o.Cgroup != "auto" { // an older keeper does not know it
		args = append(args, "--cgroup", o.Cgroup)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = null.Close() }()
	pidfd := -1
	pid, err := syscall.ForkExec(program, args, &syscall.ProcAttr{
		Dir:   "/",
		Env:   os.Environ(),
		Files: []uintptr{null.Fd(), null.Fd(), 2},
		Sys:   &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
	})
	if err != nil {
		return fmt.Errorf("start the keeper %s: %w", program, err)
	}
	defer func() { _ = unix.Close(pidfd) }()
	stop := context.AfterFunc(ctx, func() { _ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0) })
	var status syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(pid, &status, 0, nil); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if !stop() {
		return ctx.Err()
	}
	if err != nil || status != 0 {
		return fmt.Errorf("the keeper %s does not start (status %#x); it says why", program, int(status))
	}
	return nil
}

// watchable makes a pidfd one that can be waited for. It takes it over, also when it fails.
func watchable(pidfd int) (*os.File, error) {
	if err := unix.SetNonblock(pidfd, true); err != nil {
		_ = unix.Close(pidfd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(pidfd), "pidfd")
	// A file that the poller did not take has no deadlines.
	if err := file.SetReadDeadline(time.Time{}); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("poll a pidfd: %w", err)
	}
	return file, nil
}

// untilGone returns nil when the process of a pidfd is gone.
func untilGone(ctx context.Context, pidfd *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
		n, err := unix.Poll(poll, 0)
		return n == 1 && err == nil
	})
}
