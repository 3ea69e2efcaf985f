package custody

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// errTaken says that another keeper is at the place.
var errTaken = errors.New("another keeper is there")

// A place is where a keeper is found: its socket, and the lock that says who is
// there.
type place struct {
	socket   string
	lock     *os.File
	listener int
	device   uint64 // of the socket's file
	inode    uint64
}

func lockPath(socket string) string     { return socket + ".lock" }
func registryPath(socket string) string { return socket + ".registry" }

// takePlace locks the place and listens there. A listener that was passed is
// used as it is; -1 makes one.
func takePlace(socket string, listener int) (*place, error) {
	lock, err := takeLock(lockPath(socket))
	if err != nil {
		return nil, err
	}
	p := &place{socket: socket, lock: lock, listener: listener}
	if listener < 0 {
		if err := p.listen(); err != nil {
			_ = lock.Close()
			return nil, err
		}
	}
	var stat unix.Stat_t
	if err := unix.Lstat(socket, &stat); err != nil {
		_ = lock.Close()
		return nil, &os.PathError{Op: "lstat", Path: socket, Err: err}
	}
	p.device, p.inode = stat.Dev, stat.Ino
	return p, nil
}

// takeLock opens and locks the file. It is removed by whoever gives the place
// up, so what was opened may not be what is there any more.
func takeLock(path string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			_ = file.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, errTaken
			}
			return nil, &os.PathError{Op: "flock", Path: path, Err: err}
		}
		opened, err := file.Stat()
		if err != nil {
			_ = file.Close()
			return nil, err
		}
		if there, err := os.Stat(path); err == nil && os.SameFile(opened, there) {
			// Who it is, for people and tests. It has one width, so that it is whole at any time.
			_, _ = file.WriteAt(fmt.Appendf(nil, "%-10d\n", os.Getpid()), 0)
			return file, nil
		}
		_ = file.Close()
	}
}

// listen makes the socket. What is in its place was left by a keeper that is
// gone: we have the lock.
func (p *place) listen() error {
	if err := unix.Unlink(p.socket); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "unlink", Path: p.socket, Err: err}
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	address, done, err := shortPath(p.socket)
	if err == nil {
		defer done()
		mask := unix.Umask(0o177)
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: address})
		unix.Umask(mask)
	}
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("listen at %s: %w", p.socket, err)
	}
	p.listener = fd
	return nil
}

// shortPath returns a path that fits into the address of a socket.
func shortPath(path string) (address string, done func(), err error) {
	if len(path) < 108 {
		return path, func() {}, nil
	}
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, err
	}
	return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + filepath.Base(path), func() { _ = unix.Close(dir) }, nil
}

// intact tells whether the socket is still found where it was made.
func (p *place) intact() bool {
	var stat unix.Stat_t
	return unix.Lstat(p.socket, &stat) == nil && stat.Dev == p.device && stat.Ino == p.inode
}

// leave gives the place up. A socket that was passed is its owner's.
func (p *place) leave(passed bool) {
	if !passed && p.intact() {
		_ = unix.Unlink(p.socket)
	}
	_ = unix.Close(p.listener)
	unlinkOwn(lockPath(p.socket), p.lock)
	_ = p.lock.Close()
}

// unlinkOwn removes the file at path if it is the one that is open: where the
// directory was wiped another keeper may be at the place by now.
func unlinkOwn(path string, file *os.File) {
	opened, err := file.Stat()
	if err != nil {
		return
	}
	if there, err := os.Lstat(path); err == nil && os.SameFile(opened, there) {
		_ = unix.Unlink(path)
	}
}
