package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/client"
	"github.com/piped-dev/piped/keeper"
)

// sockets are the listeners of one daemon, with the lock of each address.
type sockets struct {
	addresses []string
	listeners []net.Listener
	locks     []*os.File
	paths     []string // of sockets that are ours to remove
	kept      []int    // copies of the listeners, for the vault
	vault     socketVault
	left      bool // to the next daemon
}

// A socketVault keeps copies of listening sockets for the next daemon, so that
// whoever connects in between waits and is not refused. It is the keeper's account
// of the daemon itself.
type socketVault interface {
	Put(items ...keeper.Item) error
	Remove(keys ...uint32)
}

// lockAddresses locks every address, all of which are valid. The lock of the
// first is what makes this daemon the instance of that address; the others keep
// two daemons from taking a socket from each other. The caller closes the result.
func lockAddresses(addresses []string) (*sockets, error) {
	s := &sockets{addresses: addresses}
	for _, address := range addresses {
		if err := s.lock(address); err != nil {
			return nil, errors.Join(fmt.Errorf("listen at %s: %w", address, err), s.Close())
		}
	}
	return s, nil
}

func (s *sockets) lock(address string) error {
	path, err := parseAddress(address)
	if err != nil {
		return err
	}
	if err := prepareDirectory(filepath.Dir(path)); err != nil {
		return err
	}
	// Clients are stricter about the directory that anybody could have made.
	if err := client.CheckSocketDirectory(path); err != nil {
		return err
	}
	lock, err := lockSocket(path)
	if err != nil {
		return err
	}
	s.locks = append(s.locks, lock)
	s.paths = append(s.paths, path)
	return nil
}

// listen opens every address that was locked. What the daemon before has left,
// which it takes over, it goes on with; vault, which may be nil, gets a copy of
// each socket. It changes the umask of the process for a moment: nothing else may
// create files meanwhile.
func (s *sockets) listen(left map[uint32]int, vault socketVault) error {
	s.vault = vault
	before, err := s.adoptAll(left)
	if err != nil {
		return err
	}
	for i, path := range s.paths {
		lis, err := s.open(path, before)
		if err != nil {
			return fmt.Errorf("listen at %s: %w", s.addresses[i], err)
		}
		s.listeners = append(s.listeners, lis)
		if err := s.keep(lis); err != nil {
			return fmt.Errorf("listen at %s: %w", s.addresses[i], err)
		}
	}
	// Only now, so that somebody is behind each socket all the time.
	for path, lis := range before {
		_ = lis.Close()
		if !slices.Contains(s.paths, path) {
			_ = os.Remove(path) // it is not an address any more
		}
	}
	for key := range left {
		if int(key) > len(s.paths) && vault != nil {
			vault.Remove(key)
		}
	}
	return nil
}

// adoptAll makes listeners of the sockets that the daemon before has left, by
// their path.
func (s *sockets) adoptAll(left map[uint32]int) (map[string]*net.UnixListener, error) {
	found := make(map[string]*net.UnixListener)
	var errs []error
	for _, fd := range left {
		file := os.NewFile(uintptr(fd), "socket")
		lis, err := net.FileListener(file) // has a copy
		errs = append(errs, file.Close())
		if err != nil {
			continue // no socket of ours; it is replaced
		}
		if unixLis, ok := lis.(*net.UnixListener); ok {
			unixLis.SetUnlinkOnClose(false)
			found[lis.Addr().String()] = unixLis
		}
	}
	return found, errors.Join(errs...)
}

// open takes the listener of a path out of those from before, or makes one.
func (s *sockets) open(path string, before map[string]*net.UnixListener) (net.Listener, error) {
	lis, there := before[path]
	if info, err := os.Lstat(path); there && err == nil && info.Mode().Type() == os.ModeSocket {
		delete(before, path)
		return lis, nil
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	return bind(path)
}

// keep puts a copy of the socket into the vault, under the number of its address
// from 1 on.
func (s *sockets) keep(lis net.Listener) error {
	unixLis, ok := lis.(*net.UnixListener)
	if s.vault == nil || !ok {
		return nil
	}
	// A copy of its own: the vault needs it as long as it may have to be put again,
	// and the server closes the listener. Not by File and Fd, which would make both
	// blocking, so that an accept could not be ended.
	conn, err := unixLis.SyscallConn()
	if err != nil {
		return err
	}
	var fd int
	var dupErr error
	if err := conn.Control(func(own uintptr) { fd, dupErr = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return err
	}
	if dupErr != nil {
		return os.NewSyscallError("fcntl", dupErr)
	}
	s.kept = append(s.kept, fd)
	return s.vault.Put(keeper.Item{Key: uint32(len(s.kept)), FD: fd})
}

// leave lets Close leave the sockets to the next daemon.
func (s *sockets) leave() { s.left = true }

// Close closes the listeners, removes their sockets, and then lets go of the
// locks. It is harmless where a listener is closed already.
func (s *sockets) Close() error {
	var errs []error
	for _, lis := range s.listeners {
		if err := lis.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	for i, path := range s.paths[:min(len(s.paths), len(s.listeners))] {
		if s.left {
			break
		}
		if s.vault != nil {
			s.vault.Remove(uint32(i) + 1)
		}
		if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, fd := range s.kept {
		errs = append(errs, os.NewSyscallError("close", unix.Close(fd)))
	}
	for _, lock := range s.locks {
		errs = append(errs, lock.Close())
	}
	return errors.Join(errs...)
}

// prepareDirectory makes the directory of a socket, and refuses one in which
// somebody else could put a socket of the same name.
func prepareDirectory(dir string) error {
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a directory needs x; the umask may have taken it
			return err
		}
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("directory %s does not exist: create it first", filepath.Dir(dir))
	case !errors.Is(err, os.ErrExist):
		return err
	}
	// The name may be a symbolic link: neither it nor what it leads to may be
	// somebody else's.
	for _, stat := range []func(string, *unix.Stat_t) error{unix.Lstat, unix.Stat} {
		var st unix.Stat_t
		if err := stat(dir, &st); err != nil {
			return &os.PathError{Op: "stat", Path: dir, Err: err}
		}
		if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			return fmt.Errorf("directory %s belongs to user %d: want one of your own", dir, st.Uid)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			continue
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return fmt.Errorf("%s is not a directory", dir)
		}
		// A user's own group is as good as the user where umask is 002.
		othersWrite := st.Mode&0o002 != 0 || st.Mode&0o020 != 0 && int(st.Gid) != os.Getegid()
		if othersWrite {
			return fmt.Errorf("directory %s can be written by others (mode %04o): want one that only you can write", dir, st.Mode&0o7777)
		}
	}
	return nil
}

// lockSocket takes the lock beside the socket, which lives as long as the
// returned file is open. The lock file is never removed: a daemon that has
// just opened it would lock a file that nobody else sees.
func lockSocket(path string) (*os.File, error) {
	name := path + ".lock"
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("another piped serves it%s: use that one, end it, or choose another path with --listen", holder(file))
	}
	if err == nil {
		err = writePid(file)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// holder reads who holds the lock. A daemon that locked it a moment ago may
// not have written its pid yet.
func holder(file *os.File) string {
	var pid int
	if _, err := fmt.Fscan(file, &pid); err != nil {
		return ""
	}
	return fmt.Sprintf(", with pid %d", pid)
}

func writePid(file *os.File) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := fmt.Fprintln(file, os.Getpid())
	return err
}

// removeStale removes the socket of a daemon that died. The caller holds the
// lock, so a daemon of our kind is not behind it; anything else that answers
// is left alone, and so is what is not a socket.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s exists and is not a socket: remove it, or choose another path", path)
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		return errors.Join(errors.New("another program serves it, and holds no lock on it"), conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	default:
		return fmt.Errorf("cannot tell whether the socket is in use: %w", err)
	}
}

// bind opens the socket with mode 0600 from its first moment on.
func bind(path string) (net.Listener, error) {
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	lis.SetUnlinkOnClose(false) // a copy may be in the vault
	return lis, nil
}
