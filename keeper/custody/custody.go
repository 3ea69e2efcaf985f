// Package custody is the keeper: the parent of all processes that sessions
// start, and the holder of a copy of each of their descriptors, for the front
// that comes after one that was killed.
//
// It moves no data. What it is told it writes into a registry, a file, before it
// answers, so that a keeper that comes after it knows what the front may bring.
//
// # Fronts
//
// One process is the front at a time. Another one that connects waits until the
// pidfd of the one before tells that it has exited, whatever its connection
// looks like: then nothing of it can touch the descriptors any more. Each front
// has an epoch.
//
// # Its own death
//
// The front keeps its own descriptors. It starts another keeper, which finds the
// registry and takes from that front what the registry knows, and nothing else.
// When the front is gone too, the new keeper kills the processes in the registry
// and tells the next front which sessions were lost.
package custody

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/failpoint"
	"github.com/piped-dev/piped/keeper/cgroup"
	"github.com/piped-dev/piped/keeper/wire"
)

// options are what a keeper was started with.
type options struct {
	socket    string
	supervise bool
	version   string
	cgroup    string // where cgroups are made: a setting of cgroup.Find
	users     []int  // who else may talk to it
	passed    bool   // the socket was passed by somebody else, who watches over the keeper
	log       *slog.Logger
	program   string   // that an upgrade executes
	args      []string // with these
}

// admits tells whether a user may talk to the keeper.
func (o *options) admits(uid int) bool {
	return uid == os.Geteuid() || uid == 0 || slices.Contains(o.users, uid)
}

// A loss is a session that is lost.
type loss struct {
	uid    [16]byte
	name   string
	reboot bool
	slot   int
}

// custody is the keeper's state.
type custody struct {
	o       options
	log     *slog.Logger
	started time.Time
	watcher *watcher
	starter *starter
	place   *place
	done    chan struct{}  // closed when all is over
	writers sync.WaitGroup // of peers

	notifier *notifier
	tree     *cgroup.Tree // nil: sessions have no cgroups
	noTree   error        // why
	clearing sync.WaitGroup

	mu       sync.Mutex // guards what follows
	reg      *registry
	accounts map[[16]byte]*account
	children map[int]func() // by pid: looks at a child that may have exited
	losses   []*loss
	peers    map[*peer]struct{}

	fresh     bool       // there is no record of an earlier keeper, and no front was here
	front     *frontier  // the front, or the last one; nil if there was none
	waiting   []*peer    // in the order they came
	gone      time.Time  // when the last front was seen to be gone
	again     wire.Front // how to start a front
	revival   revival
	ending    bool
	unadopted bool // what is on record was not yet brought by its front
	deferred  []deferred
	wards     map[int]int // children that belong to no account: pid and pidfd
	pending   int         // requests that are answered later

	standing  int           // peers whose readers stand still
	resumed   chan struct{} // closed when they may go on; nil while nothing is held
	upgrading bool          // an attempt is under way

	starterHeld bool // by an upgrade
}

// A frontier is a process that is the front, or was the last one.
type frontier struct {
	pid   int
	start uint64
	pidfd int // -1 once it is gone
	token int32
	epoch uint64
	peer  *peer // nil when its connection is gone
	left  bool  // in order
	// parting: it has begun to end, and ends: so is the keeper to.
	parting, ends bool
}

// serving returns the front's connection if it is past its recovery.
func (c *custody) serving() *peer {
	if c.front == nil || c.front.peer == nil || c.front.peer.state != peerServe {
		return nil
	}
	return c.front.peer
}

// hello is the first message of a peer.
func (c *custody) hello(p *peer, m *wire.Message, fds []int) {
	defer wire.CloseAll(fds)
	if m.Args[0] > wire.Version {
		p.answer(m, wire.Newer, fmt.Sprintf("this keeper speaks protocol %d, the front %d", wire.Version, m.Args[0]))
		p.close()
		return
	}
	if len(fds) == 1 {
		if data, err := wire.ReadBlob(fds[0]); err == nil {
			if front, err := wire.DecodeFront(data); err == nil {
				p.front = *front
			}
		}
	}
	p.hello, p.state = *m, peerWaiting
	c.waiting = append(c.waiting, p)
	c.settle()
	if p.state == peerWaiting && c.front != nil {
		p.send(wire.Message{Verb: wire.Wait, Args: [8]uint64{uint64(c.front.pid)}}) //nolint:gosec // a process id
		c.log.Info("a front waits for the one before it", "pid", p.pid, "before", c.front.pid)
	}
}

// lost is called when a connection has ended.
func (c *custody) lost(p *peer) {
	p.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.peers, p)
	c.waiting = slices.DeleteFunc(c.waiting, func(other *peer) bool { return other == p })
	c.deferred = slices.DeleteFunc(c.deferred, func(d deferred) bool { return d.p == p })
	if c.front != nil && c.front.peer == p {
		c.front.peer = nil
		c.log.Info("the front's connection has ended", "pid", p.pid, "epoch", c.front.epoch)
	}
	if p.pidfd >= 0 {
		_ = unix.Close(p.pidfd)
		p.pidfd = -1
	}
	c.settle()
}

// settle does what follows from who is gone and who waits.
func (c *custody) settle() {
	if c.ending {
		for _, p := range c.waiting {
			p.answer(&p.hello, wire.Ending, "the keeper ends")
			p.close()
		}
		c.waiting = nil
		return
	}
	for _, p := range c.waiting {
		if c.resumes(p) {
			c.unqueue(p)
			c.resume(p)
			return
		}
	}
	for _, p := range c.waiting {
		if p.hello.Args[1]&wire.Resume != 0 && !c.fresh {
			c.unqueue(p)
			p.answer(&p.hello, wire.Superseded, "this keeper has had another front since")
			p.close()
		}
	}
	if len(c.waiting) == 0 {
		c.revive()
		return
	}
	p := c.waiting[0]
	if f := c.front; f != nil && f.pidfd >= 0 {
		if f.peer != nil || f.pid != p.pid || f.start != p.start {
			return // it may still be at work
		}
		c.buried(f) // it is this very process, that has let go of its link
	}
	c.unqueue(p)
	c.inherit(p)
}

func (c *custody) unqueue(p *peer) {
	c.waiting = slices.DeleteFunc(c.waiting, func(other *peer) bool { return other == p })
}

// resumes tells whether p is the front, come back.
func (c *custody) resumes(p *peer) bool {
	if p.hello.Args[1]&wire.Resume == 0 {
		return false
	}
	f := c.front
	return c.fresh && f == nil || f != nil && f.peer == nil && f.pid == p.pid && f.start == p.start && f.epoch == p.hello.Args[2]
}

// resume has a front bring what it has.
func (c *custody) resume(p *peer) {
	for _, a := range c.accounts {
		a.brought = a.uid == own
		for _, one := range a.processes {
			one.claimed = false
		}
	}
	if c.front == nil {
		c.install(p, p.hello.Args[2])
	} else {
		c.front.peer, c.again = p, p.front
	}
	p.state = peerUpload
	c.log.Info("a front brings what it has", "pid", p.pid, "epoch", c.front.epoch)
	c.welcome(p, wire.Upload)
}

// inherit gives a new front what there is.
func (c *custody) inherit(p *peer) {
	var epoch uint64 = 1
	if c.front != nil {
		epoch = c.front.epoch + 1
	}
	c.fresh = false
	c.clearLeft()
	c.install(p, epoch)
	p.state, p.estate = peerInherit, c.inventory()
	c.log.Info("a new front", "pid", p.pid, "epoch", epoch, "version", p.hello.Text, "sessions", len(c.accounts)-1, "lost", len(c.losses))
	c.welcome(p, wire.Inherit)
}

// install makes p the front.
func (c *custody) install(p *peer, epoch uint64) {
	f := &frontier{pid: p.pid, start: p.start, pidfd: p.pidfd, epoch: epoch, peer: p}
	p.pidfd = -1
	c.front, c.again = f, p.front
	failpoint.Hit("custody.before-front")
	c.reg.set(frontSlot, &record{kind: recordFront, process: wire.Process{Pid: f.pid, Start: f.start}, epoch: epoch})
	c.watchFront(f)
}

// watchFront waits for the front's death.
func (c *custody) watchFront(f *frontier) {
	var err error
	f.token, err = c.watcher.add(f.pidfd, unix.EPOLLIN, func(uint32) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.front == f && f.pidfd >= 0 {
			c.buried(f)
			c.settle()
		}
	})
	if err != nil {
		c.log.Error("the front cannot be watched", "pid", f.pid, "error", err)
	}
}

// buried is called when a front is gone for good.
func (c *custody) buried(f *frontier) {
	failpoint.Hit("custody.front-gone")
	c.watcher.forget(f.token)
	_ = unix.Close(f.pidfd)
	f.pidfd = -1
	c.gone = time.Now()
	if f.peer != nil {
		f.peer.close()
		_ = f.peer.conn.Close() // what it still has to say does not count any more
		f.peer = nil
	}
	c.revival.died(f)
	c.log.Info("the front is gone", "pid", f.pid, "epoch", f.epoch, "left", f.left)
	if c.unadopted {
		c.lose(false)
	}
	if f.parting && !f.left {
		f.left = true
		if f.ends && !c.ending {
			c.finish(nil)
		}
	}
}

// welcome answers a hello.
func (c *custody) welcome(p *peer, mode uint64) {
	m := wire.Message{Verb: wire.Hello, Reply: true, ID: p.hello.ID, Text: c.o.version}
	//nolint:gosec // process ids and times
	m.Args = [8]uint64{c.front.epoch, uint64(os.Getpid()), uint64(c.started.UnixNano()), 0, mode, wire.Version}
	if !c.gone.IsZero() {
		m.Args[3] = uint64(c.gone.UnixNano())
	}
	m.Args[6], m.Args[7] = c.told()
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		p.answer(&p.hello, wire.Scarce, err.Error())
		p.close()
		return
	}
	p.send(m, self)
	c.status()
}

// lose gives up what is on record and nobody has: its processes are killed.
func (c *custody) lose(reboot bool) {
	c.unadopted = false
	for _, uid := range c.uids() {
		a := c.accounts[uid]
		if uid != own {
			l := &loss{uid: uid, name: a.name, reboot: reboot, slot: a.slot}
			c.losses = append(c.losses, l)
			c.reg.set(l.slot, &record{kind: recordLost, uid: uid, text: a.name, reboot: reboot})
			a.slot = 0
			c.log.Warn("a session is lost", "uid", fmt.Sprintf("%x", uid), "session", a.name, "reboot", reboot)
		}
		c.drop(a, nil)
	}
}
