package custody

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/cgroup"
	"github.com/piped-dev/piped/keeper/spawner"
	"github.com/piped-dev/piped/keeper/wire"
)

// Each process has a cgroup of its own, inside that of its session, where the keeper
// may make some: see package cgroup. A process that has none is marked so on record.

// openTree finds out where cgroups can be made.
func (c *custody) openTree() {
	if !spawner.Places {
		c.noTree = cgroup.ErrOld
		return
	}
	c.tree, c.noTree = cgroup.Find(c.o.cgroup, c.o.socket)
	if c.tree != nil {
		c.log.Info("sessions have cgroups", "cgroup", c.tree.Dir(), "controllers", c.tree.Controllers())
		return
	}
	c.log.Info("sessions have no cgroups", "why", c.noTree)
}

// told returns what a front is told about cgroups.
func (c *custody) told() (flags, why uint64) {
	if c.tree == nil {
		for i, e := range []error{cgroup.ErrOff, cgroup.ErrNone, cgroup.ErrNotDelegated, cgroup.ErrDenied, cgroup.ErrOld} {
			if errors.Is(c.noTree, e) {
				return 0, uint64(i + wire.CgroupsOff)
			}
		}
		return 0, wire.CgroupsNone
	}
	flags = wire.Cgroups
	for _, controller := range c.tree.Controllers() {
		flags |= wire.CgroupControllers[string(controller)]
	}
	return flags, 0
}

// groupOf returns what makes the cgroup in which a process is to be born; nil if it
// is to have none.
func (c *custody) groupOf(one *process) func() (fd int, err error) {
	if !one.Confined {
		return nil
	}
	return func() (int, error) { return c.tree.Make(one.uid, one.key) }
}

// confined reports whether a process has a cgroup that this keeper can use.
func (c *custody) confined(p *process) bool { return p.Confined && c.tree != nil }

// killTree kills a process and all descendants that are known to be its own. Who may
// can have moved himself into another cgroup, so that its own is not all.
func (c *custody) killTree(p *process) error {
	if c.confined(p) {
		if err := c.tree.Kill(p.uid, p.key); err != nil {
			c.log.Error("a cgroup cannot be killed", "uid", keeper.UID(p.uid), "key", p.key, "error", err)
		}
	}
	return p.killDescent()
}

// signalTree sends a signal to a process and its descendants.
func (c *custody) signalTree(p *process, sig syscall.Signal) error {
	switch {
	case sig == unix.SIGKILL:
		return c.killTree(p)
	case !c.confined(p) || sig == 0:
		return p.signalGroup(sig)
	}
	// The process itself first: it may be about to tell the others.
	err := unix.PidfdSendSignal(p.pidfd, sig, nil, 0)
	if err == nil {
		c.tree.Signal(p.uid, p.key, sig, p.Pid)
	}
	return err
}

// leaveGroup lets go of the cgroup of a process that is gone, if nobody is left in
// it. Otherwise it stays until the session is dropped.
func (c *custody) leaveGroup(p *process) {
	if !c.confined(p) {
		return
	}
	if err := c.tree.Remove(p.uid, p.key); err != nil && !errors.Is(err, unix.EBUSY) {
		c.log.Warn("a cgroup cannot be removed", "uid", keeper.UID(p.uid), "key", p.key, "error", err)
	}
}

// clear ends whoever is left in the cgroup of a session that is dropped, and calls
// done, with the lock held, when nobody is.
func (c *custody) clear(uid [16]byte, done func()) {
	if c.tree == nil || uid == own || c.tree.RemoveSession(uid) == nil {
		done()
		return
	}
	tree := c.tree
	c.pending++
	c.clearing.Go(func() {
		err := tree.AwaitSession(uid, strangerPatience)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pending--
		if err != nil {
			c.log.Error("a cgroup cannot be removed; the next keeper tries again", "uid", keeper.UID(uid), "error", err)
		}
		done()
	})
}

// killGroup kills whoever is in the cgroup of a session.
func (c *custody) killGroup(uid [16]byte) {
	if c.tree == nil || uid == own {
		return
	}
	if err := c.tree.KillSession(uid); err != nil {
		c.log.Error("a cgroup cannot be killed", "uid", keeper.UID(uid), "error", err)
	}
}

// clearLeft ends what is left of sessions that nobody knows. It is called when nobody
// can bring any more: a front may know sessions of which there is no record.
func (c *custody) clearLeft() {
	if c.tree == nil {
		return
	}
	for _, uid := range c.tree.Sessions() {
		if c.accounts[uid] == nil {
			c.clear(uid, func() {})
		}
	}
}

// confine gives a session limits.
func (c *custody) confine(p *peer, m *wire.Message) {
	if c.tree == nil {
		p.answer(m, wire.Refused, c.noTree.Error())
		return
	}
	limits := make([]cgroup.Limit, 0, len(m.Args))
	for i, value := range m.Args {
		if value > 0 {
			limits = append(limits, cgroup.Limit{Resource: cgroup.Resource(i + 1), Value: value})
		}
	}
	if err := c.tree.Confine(m.UID, limits); err != nil {
		c.log.Warn("a session cannot be limited", "uid", keeper.UID(m.UID), "error", err)
		p.answer(m, wire.Refused, err.Error())
		return
	}
	p.answer(m, wire.OK, "")
}

// measure tells what a session uses.
func (c *custody) measure(p *peer, m *wire.Message) {
	if c.tree == nil {
		p.answer(m, wire.Unknown, c.noTree.Error())
		return
	}
	used, err := c.tree.Measure(m.UID)
	switch {
	case err != nil:
		p.answer(m, wire.Refused, err.Error())
	case used == nil:
		p.answer(m, wire.Unknown, "no cgroup")
	default:
		told := wire.Measured{Memory: used.Memory, MemoryPeak: used.MemoryPeak, CPU: used.CPU, Throttled: used.Throttled,
			Processes: used.Processes, OutOfMemory: used.OutOfMemory}
		p.send(wire.Message{Verb: m.Verb, Reply: true, ID: m.ID, UID: m.UID, Keys: told.Words()})
	}
}
