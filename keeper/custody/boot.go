package custody

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper/wire"
)

// load takes over what an earlier keeper has left in the registry. Descriptors
// are on record only: the front has them.
func (c *custody) load(held *contents) {
	c.accounts[own] = newAccount(own)
	var front *record
	for slot, r := range held.records {
		switch r.kind {
		case recordFront:
			front = &r
		case recordLost:
			c.losses = append(c.losses, &loss{uid: r.uid, name: r.text, reboot: r.reboot, slot: slot})
		case recordSession:
			a := newAccount(r.uid)
			a.name, a.slot = r.text, slot
			c.accounts[r.uid] = a
		}
	}
	for slot, r := range held.records {
		if r.kind != recordFile && r.kind != recordProcess {
			continue
		}
		a := c.accounts[r.uid]
		// Its start was under way: its spawner kills it, and so do we.
		unsettled := r.kind == recordProcess && (r.process.Pid == 0 || r.unsettled)
		if a == nil || unsettled {
			if unsettled && !held.reboot {
				killOnRecord(&r.process)
				if c.tree != nil && r.process.Confined {
					_ = c.tree.Kill(r.uid, r.key) // what it has started; clearLeft or the session's end removes it
				}
			}
			c.reg.drop(slot)
			continue
		}
		if r.kind == recordFile {
			a.files[r.key] = &file{fd: -1, id: r.id, slot: slot}
			continue
		}
		a.processes[r.key] = c.find(&r, slot, held.reboot)
	}
	c.fresh = len(c.accounts) == 1 && front == nil
	c.unadopted = !c.fresh
	if front == nil || held.reboot {
		c.lose(held.reboot)
		return
	}
	f := &frontier{pid: front.process.Pid, start: front.process.Start, epoch: front.epoch}
	c.front = f
	var err error
	if f.pidfd, err = openProcess(f.pid, f.start); err != nil {
		f.pidfd = -1
		c.gone = time.Now()
		c.lose(false)
		return
	}
	c.log.Info("the front is expected to bring what it has", "pid", f.pid, "epoch", f.epoch, "sessions", len(c.accounts)-1)
	c.watchFront(f)
}

// killOnRecord kills a process on record, if it is there.
func killOnRecord(p *wire.Process) {
	pidfd, err := openProcess(p.Pid, p.Start)
	if err != nil {
		return
	}
	_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	_ = unix.Close(pidfd)
}

// find looks for a process on record.
func (c *custody) find(r *record, slot int, reboot bool) *process {
	one := &process{Process: r.process, uid: r.uid, key: r.key, slot: slot, pidfd: -1}
	if one.Exited || reboot {
		return one
	}
	pidfd, err := openProcess(one.Pid, one.Start)
	if err != nil {
		return one // the front may have a pidfd that can tell
	}
	one.pidfd = pidfd
	if err := c.watch(one); err != nil {
		c.log.Error("a process cannot be watched", "pid", one.Pid, "error", err)
	}
	return one
}

// finish ends the keeper: everything that runs is killed. done, which may be
// nil, is called when the socket and the registry are gone.
func (c *custody) finish(done func()) {
	if c.ending {
		if done != nil {
			done()
		}
		return
	}
	c.ending = true
	c.settle()
	c.clearLeft()
	left := 1
	over := false
	conclude := func() {
		if over {
			return
		}
		over = true
		c.conclude(done)
	}
	one := func() {
		if left--; left == 0 {
			conclude()
		}
	}
	for _, uid := range c.uids() {
		left++
		c.drop(c.accounts[uid], one)
	}
	// What does not die of SIGKILL hangs in the kernel, and would for ever.
	time.AfterFunc(strangerPatience, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		conclude()
	})
	one()
}

// conclude is the end of the end.
func (c *custody) conclude(done func()) {
	c.reg.remove()
	c.place.leave(c.o.passed)
	if done != nil {
		done()
	}
	c.log.Info("the keeper ends")
	for p := range c.peers {
		_ = p.conn.SetWriteDeadline(time.Now().Add(time.Second))
		p.close()
	}
	go func() {
		c.writers.Wait()
		c.clearing.Wait()
		if c.tree != nil {
			c.tree.Leave()
		}
		c.starter.hold() // and never again
		c.starter.bury()
		close(c.done)
	}()
}

// order ends the keeper because somebody has told it to: its front is told.
func (c *custody) order() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.serving(); p != nil {
		p.send(wire.Message{Verb: wire.Finish})
	}
	c.finish(nil)
}

// tend looks once a second whether the keeper is still wanted, while nobody is
// connected.
func (c *custody) tend() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.done:
			return
		}
		c.mu.Lock()
		if alone := len(c.peers) == 0 && (c.front == nil || c.front.pidfd < 0); alone && !c.ending {
			switch {
			case !c.place.intact():
				c.log.Warn("the keeper's socket is gone: nobody can find it any more")
				c.finish(nil)
			case c.fresh && !c.o.passed && time.Since(c.started) > lonely:
				c.log.Info("no front has come")
				c.finish(nil)
			}
		}
		c.mu.Unlock()
	}
}

// lonely is how long a keeper that somebody has started waits for the first
// front.
const lonely = 30 * time.Second

// accept takes connections until the listener is closed.
func (c *custody) accept() {
	fds := []unix.PollFd{{Fd: int32(c.place.listener), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	for {
		if _, err := unix.Poll(fds, -1); err != nil {
			continue
		}
		fd, _, err := unix.Accept4(c.place.listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != nil {
			c.mu.Lock()
			ending := c.ending
			c.mu.Unlock()
			if ending {
				return
			}
			if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ECONNABORTED) {
				c.log.Warn("a connection cannot be accepted", "error", err)
				_, _ = unix.Poll(nil, 100) // no descriptor is free: that takes a while
			}
			continue
		}
		p, err := c.newPeer(fd)
		if err != nil {
			c.log.Warn("a connection is refused", "error", err)
			continue
		}
		c.adopt(p)
	}
}

// adopt serves a new connection.
func (c *custody) adopt(p *peer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peers[p] = struct{}{}
	if c.resumed != nil {
		_ = p.conn.SetReadDeadline(time.Unix(1, 0))
	}
	c.writers.Go(p.write)
	go p.read()
}
