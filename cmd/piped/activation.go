package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// firstActivated is the first descriptor that systemd passes; the others follow.
const firstActivated = 3

// activatedNames are the names of sockets for clients.
var activatedNames = []string{"piped", "piped.socket", "unknown", ""}

// activated returns the listening sockets that systemd passed to this process,
// in place of the addresses of the configuration; none where it passed none. It
// takes what announces them out of the environment, so it tells them once.
//
// A socket is known by its name, which is FileDescriptorName=piped of the
// socket unit, or piped.socket where that says nothing; systemd-socket-activate
// gives none. Anything else is refused, because it would be a socket that nobody
// serves.
//
// Closing a listener leaves its socket where it is: it is systemd's, which keeps
// it listening for the next daemon.
func activated() ([]net.Listener, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(name) // fails for names with "=" only
	}
	if pid != strconv.Itoa(os.Getpid()) || count == "" {
		return nil, nil // meant for a process before this one, which forgot to say so
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 {
		return nil, fmt.Errorf("systemd passes LISTEN_FDS=%q: want a number", count)
	}
	named := strings.Split(names, ":")
	var listeners []net.Listener
	var errs []error
	for i := range n {
		var name string
		if i < len(named) {
			name = named[i]
		}
		lis, err := adopt(firstActivated+i, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		listeners = append(listeners, lis)
	}
	if len(errs) > 0 {
		for _, lis := range listeners {
			errs = append(errs, lis.Close())
		}
		return nil, errors.Join(errs...)
	}
	return listeners, nil
}

// adopt makes a listener of a descriptor, which it closes.
func adopt(fd int, name string) (net.Listener, error) {
	// net.FileListener makes a copy, close-on-exec and non-blocking.
	file := os.NewFile(uintptr(fd), name)
	if file == nil {
		return nil, fmt.Errorf("systemd passes descriptor %d, which is none", fd)
	}
	defer func() { _ = file.Close() }() // nothing was written
	if !slices.Contains(activatedNames, name) {
		return nil, fmt.Errorf("systemd passes descriptor %d named %q: want FileDescriptorName=piped in the socket unit", fd, name)
	}
	if err := checkActivated(fd); err != nil {
		return nil, fmt.Errorf("systemd passes descriptor %d: %w", fd, err)
	}
	lis, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("systemd passes descriptor %d: %w", fd, err)
	}
	if l, ok := lis.(*net.UnixListener); ok {
		l.SetUnlinkOnClose(false) // as it is for a listener of a descriptor; here it matters
	}
	return lis, nil
}

// checkActivated refuses what is not a stream socket that listens at a path.
func checkActivated(fd int) error {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	address, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	at, isUnix := address.(*unix.SockaddrUnix)
	if !isUnix || !strings.HasPrefix(at.Name, "/") || kind != unix.SOCK_STREAM || listens == 0 {
		return errors.New("want ListenStream=/PATH with Accept=no in the socket unit")
	}
	return nil
}

// addresses returns where clients reach the listeners.
func addresses(listeners []net.Listener) []string {
	all := make([]string, len(listeners))
	for i, lis := range listeners {
		all[i] = "unix://" + lis.Addr().String()
	}
	return all
}
