package custody

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/failpoint"
	"github.com/piped-dev/piped/keeper/wire"
)

// checkState tells whether this program understands the state in a descriptor.
func checkState(fd int) error {
	data, err := wire.ReadBlob(fd)
	if err != nil {
		return err
	}
	_, err = decodeSnapshot(data)
	return err
}

// resume goes on where another program, in this process, has stopped.
func resume(o *options, fd int) (*custody, error) {
	data, err := wire.ReadBlob(fd)
	_ = unix.Close(fd)
	if err != nil {
		return nil, err
	}
	s, err := decodeSnapshot(data)
	if err != nil {
		return nil, err
	}
	failpoint.Hit("custody.after-exec")
	o.passed = s.passed
	place, err := s.place(o.socket)
	if err != nil {
		return nil, err
	}
	reg, held, err := resumeRegistry(registryPath(o.socket), s.registry, o.log)
	if err != nil {
		return nil, err
	}
	s.recall(held)
	c, err := newCustody(o, place, reg)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.take(s)
	return c, nil
}

// place returns the place, which is still ours.
func (s *snapshot) place(socket string) (*place, error) {
	p := &place{socket: socket, lock: os.NewFile(uintptr(s.lock), lockPath(socket)), listener: s.listener}
	var stat unix.Stat_t
	if err := unix.Lstat(socket, &stat); err != nil {
		return nil, &os.PathError{Op: "lstat", Path: socket, Err: err}
	}
	p.device, p.inode = stat.Dev, stat.Ino
	return p, nil
}

// recall takes from the registry what exited processes have used. The state does
// not say it, so that an earlier version understands the state too, and leaves the
// registry for the next one that knows.
func (s *snapshot) recall(held *contents) {
	for _, a := range s.accounts {
		for _, p := range a.processes {
			r, there := held.records[p.slot]
			if p.Exited && there && r.kind == recordProcess && r.uid == p.uid && r.key == p.key {
				p.Used = r.process.Used
			}
		}
	}
}

// take takes over what a snapshot says.
func (c *custody) take(s *snapshot) {
	c.started, c.gone, c.again = s.started, s.gone, s.again
	c.fresh, c.unadopted, c.losses = s.fresh, s.unadopted, s.losses
	for _, a := range s.accounts {
		c.accounts[a.uid] = a
		for _, one := range a.processes {
			if one.pidfd < 0 {
				continue
			}
			if err := c.watch(one); err != nil {
				c.log.Error("a process cannot be watched", "pid", one.Pid, "error", err)
			}
		}
	}
	for _, w := range s.wards {
		c.watchFrontChild(w.pid, w.pidfd)
		if s.front != nil && s.front.pidfd < 0 {
			c.revival.pending, c.revival.pid = true, w.pid
		}
	}
	c.front = s.front
	for _, one := range s.peers {
		c.takePeer(s, one)
	}
	if c.front != nil && c.front.pidfd >= 0 {
		c.watchFront(c.front)
	}
	if p := c.serving(); p != nil {
		c.revival.served()
		flags, why := c.told()
		//nolint:gosec // a process id and a time
		args := [8]uint64{1: uint64(os.Getpid()), 2: uint64(c.started.UnixNano()), 6: flags, 7: why}
		p.send(wire.Message{Verb: wire.Hello, Text: c.o.version, Args: args})
	}
	c.settle()
}

// takePeer takes over a connection.
func (c *custody) takePeer(s *snapshot, one peerSnapshot) {
	conn, err := wire.NewConn(one.conn)
	if err != nil {
		c.log.Error("a connection is lost", "pid", one.pid, "error", err)
		if one.pidfd >= 0 {
			_ = unix.Close(one.pidfd)
		}
		return
	}
	p := &peer{c: c, conn: conn, pid: one.pid, start: one.start, pidfd: one.pidfd, state: one.state, front: one.front,
		more: make(chan struct{}, 1), less: make(chan struct{}, 1)}
	p.hello = wire.Message{Verb: wire.Hello, ID: one.id, Args: [8]uint64{wire.Version, one.flags, one.epoch}, Text: one.version}
	switch {
	case p.state == peerWaiting:
		c.waiting = append(c.waiting, p)
	case p.state > peerWaiting && s.connected && c.front.pid == p.pid && c.front.start == p.start:
		c.front.peer = p
	}
	c.peers[p] = struct{}{}
	c.writers.Go(p.write)
	go p.read()
}
