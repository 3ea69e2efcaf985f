package custody

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A watcher tells when pidfds become readable. All are in one epoll, which is
// itself in Go's poller: thousands of children take no goroutine each.
type watcher struct {
	file *os.File

	mu    sync.Mutex // guards what follows
	next  int32
	calls map[int32]func(events uint32)
}

func newWatcher() (*watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &watcher{file: os.NewFile(uintptr(fd), "epoll"), calls: make(map[int32]func(uint32))}, nil
}

// control runs f on the epoll's descriptor.
func (w *watcher) control(f func(epfd int) error) error {
	conn, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// add has call called, once and on the watcher's goroutine, when one of events
// is there for fd or it hangs up. Closing fd does away with it, but for a call
// that is under way; forget does away with the rest.
func (w *watcher) add(fd int, events uint32, call func(events uint32)) (token int32, err error) {
	w.mu.Lock()
	w.next++
	token = w.next
	w.calls[token] = call
	w.mu.Unlock()
	event := unix.EpollEvent{Events: events | unix.EPOLLONESHOT, Fd: token}
	err = w.control(func(epfd int) error { return unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, fd, &event) })
	if err != nil {
		w.forget(token)
	}
	return token, os.NewSyscallError("epoll_ctl", err)
}

// again asks for another call.
func (w *watcher) again(fd int, token int32, events uint32) {
	event := unix.EpollEvent{Events: events | unix.EPOLLONESHOT, Fd: token}
	_ = w.control(func(epfd int) error { return unix.EpollCtl(epfd, unix.EPOLL_CTL_MOD, fd, &event) })
}

// forget drops a call.
func (w *watcher) forget(token int32) {
	w.mu.Lock()
	delete(w.calls, token)
	w.mu.Unlock()
}

// run makes the calls until close.
func (w *watcher) run() error {
	conn, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	events := make([]unix.EpollEvent, 256)
	for {
		var n int
		var waitErr error
		err := conn.Read(func(fd uintptr) bool {
			n, waitErr = unix.EpollWait(int(fd), events, 0)
			return n > 0 || waitErr != nil && !errors.Is(waitErr, syscall.EINTR)
		})
		if err != nil {
			return nil // closed
		}
		if waitErr != nil {
			return os.NewSyscallError("epoll_wait", waitErr)
		}
		for _, event := range events[:max(n, 0)] {
			w.mu.Lock()
			call := w.calls[event.Fd]
			w.mu.Unlock()
			if call != nil {
				call(event.Events)
			}
		}
	}
}

func (w *watcher) close() { _ = w.file.Close() }
