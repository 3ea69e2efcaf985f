package custody

import (
	"context"
	"errors"
	"math"
	"os"
	"syscall"

	"github.com/piped-dev/piped/failpoint"
	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/wire"
)

// A deferred request waits for a process that is being started.
type deferred struct {
	p *peer
	m wire.Message
}

// handle handles a request. It takes over the descriptors.
func (c *custody) handle(p *peer, m *wire.Message, fds []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Reply || permits[p.state]&mask(m.Verb) == 0 || p.state > peerWaiting && (c.front == nil || c.front.peer != p) {
		wire.CloseAll(fds)
		c.log.Warn("a request that is not permitted", "verb", m.Verb, "state", p.state, "pid", p.pid)
		p.answer(m, wire.Refused, m.Verb.String()+" is not permitted now")
		return
	}
	switch m.Verb {
	case wire.Hello:
		c.hello(p, m, fds)
	case wire.Put:
		c.handlePut(p, m, fds)
	case wire.Start:
		c.start(p, m, fds)
	case wire.Claim:
		c.claim(p, m, fds)
	case wire.Holders:
		c.holders(p, m, fds)
	default:
		wire.CloseAll(fds)
		c.handlePlain(p, m)
	}
}

// handlePlain handles a request without descriptors.
func (c *custody) handlePlain(p *peer, m *wire.Message) {
	switch m.Verb {
	case wire.Next:
		c.deferred = append(c.deferred, deferred{p, *m})
		c.pump()
	case wire.Adopted:
		c.adopted(p, m)
	case wire.Enter:
		a := c.enter(m.UID, m.Text)
		a.brought = true
		p.answer(m, wire.OK, "")
	case wire.Leave:
		p.state, c.front.left = peerLeft, true
		c.log.Info("the front leaves", "pid", p.pid)
		p.answer(m, wire.OK, "")
	case wire.Part:
		c.front.parting, c.front.ends = true, m.Args[0] == 1
		p.answer(m, wire.OK, "")
	case wire.Finish:
		c.log.Info("the front ends, and so does the keeper", "pid", p.pid)
		p.state = peerLeft
		request := *m
		c.finish(func() { p.answer(&request, wire.OK, "") })
	default:
		c.handleAccount(p, m)
	}
}

// handleAccount handles a request about an account that is there.
func (c *custody) handleAccount(p *peer, m *wire.Message) {
	a := c.accounts[m.UID]
	if a == nil {
		p.answer(m, wire.Unknown, "no such account")
		return
	}
	one := a.processes[m.Key]
	switch m.Verb {
	case wire.Remove:
		for _, key := range m.Keys {
			c.remove(a, key)
		}
		failpoint.Hit("custody.removed")
		p.answer(m, wire.OK, "")
	case wire.Signal:
		code := wire.Unknown
		if one != nil && !one.starting {
			failpoint.Hit("custody.before-signal")
			code = c.signal(one, syscall.Signal(m.Args[0]&math.MaxUint8), m.Args[1])
			failpoint.Hit("custody.after-signal")
		}
		p.answer(m, code, "")
	case wire.Forget:
		if one != nil && one.Exited {
			c.discard(a, m.Key, one, func() {})
		}
		p.answer(m, wire.OK, "")
	case wire.Confine:
		c.confine(p, m)
	case wire.Measure:
		c.measure(p, m)
	case wire.Drop:
		request := *m
		c.pending++
		c.drop(a, func() {
			c.pending--
			p.answer(&request, wire.OK, "")
		})
	}
}

func (c *custody) handlePut(p *peer, m *wire.Message, fds []int) {
	a := c.accounts[m.UID]
	if a == nil || len(fds) != len(m.Keys) || len(fds) == 0 {
		wire.CloseAll(fds)
		p.answer(m, wire.Unknown, "no such account")
		return
	}
	if p.state == peerUpload && c.strange(a, m.Keys, fds) {
		wire.CloseAll(fds)
		c.log.Warn("a descriptor that is not the one on record is refused", "uid", keeper.UID(m.UID), "keys", m.Keys)
		p.answer(m, wire.Stranger, "a descriptor is not the one on record")
		return
	}
	failpoint.Hit("custody.before-put")
	if err := c.put(a, m.Keys, fds); err != nil {
		p.answer(m, wire.Refused, err.Error())
		return
	}
	failpoint.Hit("custody.put")
	p.answer(m, wire.OK, "")
}

// pump answers what asks for parts of the estate, in order, as far as no part is
// a process that is being started.
func (c *custody) pump() {
	for len(c.deferred) > 0 {
		d := c.deferred[0]
		if c.front == nil || c.front.peer != d.p {
			c.deferred = c.deferred[1:]
			d.p.answer(&d.m, wire.Refused, "there is no more")
			continue
		}
		if len(d.p.estate) == 0 { // it has asked ahead
			c.deferred = c.deferred[1:]
			end := wire.Message{Verb: wire.Next, Reply: true, ID: d.m.ID}
			end.Args[0] = wire.PartEnd
			d.p.send(end)
			continue
		}
		part := d.p.estate[0]
		if part.part == wire.PartProcess {
			if one := c.accounts[part.uid].processes[part.keys[0]]; one != nil && one.starting {
				return
			}
		}
		answer := wire.Message{Verb: wire.Next, Reply: true, ID: d.m.ID}
		fds, there, err := c.fill(&part, &answer)
		if !there {
			d.p.estate = d.p.estate[1:]
			continue
		}
		c.deferred = c.deferred[1:]
		if err != nil {
			d.p.answer(&d.m, wire.Scarce, err.Error()) // the part stays
			continue
		}
		d.p.estate = d.p.estate[1:]
		d.p.send(answer, fds...)
		if part.part == wire.PartEnd {
			c.serve(d.p)
		}
	}
}

// serve lets a front serve.
func (c *custody) serve(p *peer) {
	failpoint.Hit("custody.before-serve")
	p.state = peerServe
	c.revival.served()
	for _, l := range c.losses {
		c.reg.drop(l.slot)
	}
	c.losses = nil
	for _, a := range c.accounts {
		for _, one := range a.processes {
			if one.Exited {
				c.tell(one)
			}
		}
	}
	c.status()
}

// claim takes a process that a front brings.
func (c *custody) claim(p *peer, m *wire.Message, fds []int) {
	a := c.accounts[m.UID]
	told := m.Process()
	if a == nil {
		wire.CloseAll(fds)
		p.answer(m, wire.Unknown, "no such account")
		return
	}
	one := a.processes[m.Key]
	if told.Pid == 0 { // its start is under way
		wire.CloseAll(fds)
		if one == nil {
			p.answer(m, wire.Unknown, "there is no such process on record")
			return
		}
		one.claimed = true
		p.answer(m, wire.OK, "")
		return
	}
	if one == nil && c.fresh {
		one = &process{uid: m.UID, key: m.Key, pidfd: -1, Process: wire.Process{Pid: told.Pid, Start: told.Start, Confined: told.Confined, Sweep: told.Sweep}}
		one.slot = c.reg.add(one.record())
		a.processes[m.Key] = one
	}
	if one == nil || one.Pid != told.Pid || told.Start != 0 && one.Start != told.Start {
		wire.CloseAll(fds)
		c.log.Warn("a process that is not the one on record is refused", "uid", keeper.UID(m.UID), "key", m.Key, "pid", told.Pid)
		p.answer(m, wire.Stranger, "the process is not the one on record")
		return
	}
	one.claimed, one.asked, one.told = true, true, told.Exited
	switch {
	case one.Exited || one.pidfd >= 0:
		wire.CloseAll(fds)
	case told.Exited:
		wire.CloseAll(fds)
		one.Process = told
		c.reg.set(one.slot, one.record())
	case len(fds) != 1:
		wire.CloseAll(fds)
		unknownExit(&one.Process)
		c.reg.set(one.slot, one.record())
	default:
		one.pidfd = fds[0]
		if err := c.watch(one); err != nil {
			c.log.Error("a process cannot be watched", "pid", one.Pid, "error", err)
		}
	}
	p.answer(m, wire.OK, "")
}

// adopted ends an upload.
func (c *custody) adopted(p *peer, m *wire.Message) {
	for _, uid := range c.uids() {
		a := c.accounts[uid]
		if !a.brought {
			c.log.Info("a session on record was not brought and is dropped", "uid", keeper.UID(uid), "session", a.name)
			c.drop(a, nil)
			continue
		}
		for key, f := range a.files {
			if f.fd < 0 {
				c.remove(a, key)
			}
		}
		for key, one := range a.processes {
			switch {
			case !one.claimed:
				c.log.Info("a process on record is not known to its front and is killed", "pid", one.Pid)
				c.discard(a, key, one, func() {})
			case one.pidfd < 0 && !one.Exited:
				unknownExit(&one.Process)
				c.reg.set(one.slot, one.record())
			}
		}
	}
	c.fresh, c.unadopted = false, false
	c.clearLeft()
	c.log.Info("the front has brought what it had", "pid", p.pid, "epoch", c.front.epoch, "sessions", len(c.accounts)-1)
	p.answer(m, wire.OK, "")
	c.serve(p)
}

// holders looks who holds ends, beside everything else.
func (c *custody) holders(p *peer, m *wire.Message, fds []int) {
	request := *m
	c.pending++
	go func() {
		defer func() {
			wire.CloseAll(fds)
			c.mu.Lock()
			c.pending--
			c.mu.Unlock()
		}()
		blob, err := lookForHolders(fds)
		if err != nil {
			code := wire.Refused
			if errors.Is(err, keeper.ErrDescriptors) || errors.Is(err, keeper.ErrMemory) {
				code = wire.Scarce
			}
			p.answer(&request, code, err.Error())
			return
		}
		p.send(wire.Message{Verb: wire.Holders, Reply: true, ID: request.ID}, blob)
	}()
}

// lookForHolders returns the blob that answers the one among fds.
func lookForHolders(fds []int) (int, error) {
	if len(fds) != 1 {
		return -1, errors.New("a request without a blob")
	}
	data, err := wire.ReadBlob(fds[0])
	if err != nil {
		return -1, err
	}
	told, err := wire.DecodeEnds(data)
	if err != nil {
		return -1, err
	}
	ends := make([]keeper.End, len(told))
	for i, e := range told {
		ends[i] = keeper.End{Device: e.Device, Inode: e.Inode, Kind: keeper.EndKind(e.Kind)}
	}
	found, err := keeper.ScanHolders(context.Background(), ends, os.Getpid())
	if err != nil {
		return -1, err
	}
	all := make([][]wire.Holder, len(found))
	for i, list := range found {
		for _, h := range list {
			all[i] = append(all[i], wire.Holder{Pid: h.Pid, Command: h.Command, FDs: h.FDs})
		}
	}
	return wire.NewBlob(wire.EncodeHolders(all))
}
