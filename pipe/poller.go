package pipe

import (
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Poller waits for readiness of descriptors whose descriptions must stay
// blocking because a process may hold copies of them: Go's own poller takes
// only non-blocking ones. It is an epoll descriptor that itself lives in Go's
// poller, so waiting costs no thread. One Poller serves a whole daemon.
type Poller struct {
	file *os.File
	conn interface {
		Read(func(fd uintptr) bool) error
	}
	epfd int
	// scratch serves the shared ends that are pipes.
	scratch *scratch
	news    *announcer
	done    chan struct{}

	// unmade counts the logs that may yet need a descriptor.
	unmade atomic.Int64

	mu   sync.Mutex
	wait map[int][]waiter // by descriptor; present as long as it is registered
}

// A waiter is woken by a closed channel, or by a call.
type waiter struct {
	events uint32
	ready  chan struct{}
	call   func()
}

// NewPoller starts a poller. Close ends it.
func NewPoller() (*Poller, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(epfd, true); err != nil {
		_ = unix.Close(epfd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(epfd), "epoll")
	conn, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	scratch, err := newScratch()
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	p := &Poller{file: file, conn: conn, epfd: epfd, scratch: scratch, news: newAnnouncer(), done: make(chan struct{}), wait: make(map[int][]waiter)}
	go p.dispatch()
	return p, nil
}

// Unmade returns how many descriptors the logs of open ends may yet need: they
// are made when the first byte comes.
func (p *Poller) Unmade() int { return int(p.unmade.Load()) }

// Close ends the poller. All ends that were opened with it must be closed.
func (p *Poller) Close() error {
	err := p.file.Close()
	<-p.done
	p.scratch.close()
	p.news.close()
	return err
}

// dispatch wakes waiters until the epoll descriptor is closed.
func (p *Poller) dispatch() {
	defer close(p.done)
	events := make([]unix.EpollEvent, 64)
	for {
		n := 0
		err := p.conn.Read(func(fd uintptr) bool {
			var err error
			n, err = ignoringEINTR(func() (int, error) { return unix.EpollWait(int(fd), events, 0) })
			return n > 0 || err != nil
		})
		if err != nil || n < 0 {
			return
		}
		p.mu.Lock()
		for _, ev := range events[:n] {
			p.wakeLocked(int(ev.Fd), ev.Events)
		}
		p.mu.Unlock()
	}
}

// wakeLocked releases those who wait for any of the events and arms the
// descriptor again for the others.
func (p *Poller) wakeLocked(fd int, events uint32) {
	waiters, ok := p.wait[fd]
	if !ok {
		return
	}
	rest := waiters[:0]
	for _, w := range waiters {
		if events&(w.events|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			p.rouse(w)
		} else {
			rest = append(rest, w)
		}
	}
	p.wait[fd] = rest
	if len(rest) > 0 {
		_ = p.armLocked(fd, unix.EPOLL_CTL_MOD)
	}
}

func (p *Poller) armLocked(fd, op int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLONESHOT, Fd: int32(fd)} //nolint:gosec // a descriptor
	for _, w := range p.wait[fd] {
		ev.Events |= w.events
	}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.epfd, op, fd, &ev))
}

// Wait blocks until one of the events (EPOLLIN, EPOLLOUT, EPOLLRDHUP), a hangup
// or an error is there, or one of the channels is closed. It consumes nothing,
// and others may wait for the same descriptor at the same time.
func (p *Poller) Wait(fd int, events uint32, stop, stopToo <-chan struct{}) error {
	w := waiter{events: events, ready: make(chan struct{})}
	p.mu.Lock()
	err := p.addLocked(fd, w)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-w.ready:
		return nil
	case <-stop:
	case <-stopToo:
	}
	p.mu.Lock()
	p.removeLocked(fd, w)
	p.mu.Unlock()
	return errStopped
}

// OnHangup calls f, once and with no lock held, when there is a hangup or an error
// at the descriptor: nobody is left at the other side. [Poller.Forget] takes it
// back.
func (p *Poller) OnHangup(fd int, f func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addLocked(fd, waiter{call: f})
}

func (p *Poller) addLocked(fd int, w waiter) error {
	_, known := p.wait[fd]
	p.wait[fd] = append(p.wait[fd], w)
	op := unix.EPOLL_CTL_MOD
	if !known {
		op = unix.EPOLL_CTL_ADD
	}
	err := p.armLocked(fd, op)
	if err != nil {
		p.wait[fd] = p.wait[fd][:len(p.wait[fd])-1]
		if !known {
			delete(p.wait, fd)
		}
	}
	return err
}

func (p *Poller) rouse(w waiter) {
	if w.call != nil {
		p.news.say(w.call)
		return
	}
	close(w.ready)
}

func (p *Poller) removeLocked(fd int, w waiter) {
	waiters := p.wait[fd]
	for i := range waiters {
		if waiters[i].ready == w.ready {
			p.wait[fd] = append(waiters[:i], waiters[i+1:]...)
			return
		}
	}
}

// Forget must be called before a descriptor is closed: the description may
// live on in a process, and epoll would go on reporting it.
func (p *Poller) Forget(fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.wait[fd]; !ok {
		return
	}
	for _, w := range p.wait[fd] {
		if w.ready != nil {
			close(w.ready)
		}
	}
	delete(p.wait, fd)
	_ = unix.EpollCtl(p.epfd, unix.EPOLL_CTL_DEL, fd, nil)
}
