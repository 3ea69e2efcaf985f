package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/failpoint"
	"github.com/piped-dev/piped/keeper/wire"
)

// run receives from the keeper, and from the next one when it dies, until the link ends.
func (l *Link) run(s *station) {
	defer l.end()
	for s != nil {
		byOrder := l.receive(s.conn)
		s = l.replace(s, byOrder)
	}
}

// end says that nothing comes any more.
func (l *Link) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.accounts {
		for _, p := range a.processes {
			p.releaseLocked()
		}
	}
	l.info.Pid = 0
	l.setState(stateEnded)
	close(l.ended)
}

// receive takes messages until the connection is lost, and says whether the keeper ends by order.
func (l *Link) receive(conn *wire.Conn) (byOrder bool) {
	for {
		var m wire.Message
		fds, err := conn.Recv(&m)
		if err != nil && !errors.Is(err, wire.ErrDescriptors) {
			return byOrder
		}
		if m.Reply {
			if m.Verb == wire.Finish && m.Code == wire.OK {
				// Known before the connection is lost: no other keeper is wanted then.
				byOrder = true
				l.mu.Lock()
				l.finished = true
				l.mu.Unlock()
			}
			l.answered(&m, fds, err)
			continue
		}
		wire.CloseAll(fds)
		byOrder = l.told(&m) || byOrder
	}
}

// told takes what the keeper tells without having been asked, and says whether it ends by order.
func (l *Link) told(m *wire.Message) (byOrder bool) {
	switch m.Verb {
	case wire.Finish:
		l.log.Warn("the keeper ends by order")
		return true
	case wire.Exit:
		l.exited(m)
	case wire.Hello: // it has executed another program
		l.mu.Lock()
		defer l.mu.Unlock()
		l.info.Version, l.info.Cgroups = m.Text, cgroupsOf(m)
		l.log.Info("the keeper was upgraded", "version", m.Text)
	}
	return false
}

// exited records the exit of a process.
func (l *Link) exited(m *wire.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.accounts[m.UID]; a != nil && a.processes[m.Key] != nil {
		a.processes[m.Key].finishLocked(exitOf(m.Process()))
	}
}

// answered gives a reply to who waits for it. It takes over the descriptors.
func (l *Link) answered(m *wire.Message, fds []int, lost error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.calls[m.ID]
	if c == nil || c.request.Verb != m.Verb {
		wire.CloseAll(fds)
		return
	}
	delete(l.calls, m.ID)
	var r reply
	if lost != nil {
		r.err = fmt.Errorf("%w: %w", ErrDescriptors, lost)
	} else {
		r.body, r.err = result(m, fds)
		r.keys = m.Keys
	}
	// Here, so that what is told next, and the death of the keeper, find it done.
	if m.Verb == wire.Put && r.err == nil {
		c.kept(l.accounts[c.request.UID])
	}
	if m.Verb == wire.Start && m.Code == wire.OK {
		fds = l.started(c.request, m, fds)
		if lost != nil {
			r.err = nil // it runs; what is missing is only needed when the keeper dies
		}
	}
	wire.CloseAll(fds)
	c.answer <- r
}

// kept notes what the keeper has confirmed.
func (c *call) kept(a *Account) {
	if a == nil || a.left {
		return
	}
	for i, key := range c.request.Keys {
		a.items[key] = c.fds[i]
	}
}

// started fills in a process that was started.
func (l *Link) started(request, m *wire.Message, fds []int) []int {
	a := l.accounts[request.UID]
	if a == nil || a.processes[request.Key] == nil {
		return fds
	}
	pidfd := -1
	if len(fds) > 0 {
		pidfd, fds = fds[0], fds[1:]
	}
	a.processes[request.Key].beginLocked(m.Process(), pidfd)
	return fds
}

// result returns what the memfd of a reply holds, or the error that it stands for.
func result(m *wire.Message, fds []int) (body []byte, err error) {
	if m.Verb == wire.Holders || m.Code == wire.Failed {
		if len(fds) == 0 {
			return nil, fmt.Errorf("the keeper answers %v to %v", m.Code, m.Verb)
		}
		if body, err = wire.ReadBlob(fds[len(fds)-1]); err != nil {
			return nil, err
		}
	}
	switch m.Code {
	case wire.OK:
		return body, nil
	case wire.Failed:
		failure, err := wire.DecodeFailure(body)
		if err != nil {
			return nil, err
		}
		return nil, Restore(failure)
	case wire.Exited:
		return nil, ErrExited
	case wire.Scarce:
		return nil, fmt.Errorf("%w: %s", ErrDescriptors, m.Text)
	case wire.Stranger:
		return nil, errStranger
	case wire.Unknown:
		return nil, fmt.Errorf("%w: %s", errUnknown, m.Text)
	case wire.Ending:
		return nil, ErrClosed
	}
	return nil, fmt.Errorf("the keeper answers %v to %v: %s", m.Code, m.Verb, m.Text)
}

// replace waits until the keeper is gone, with all its copies, and gives everything to the next one. It returns nil when the link has ended.
func (l *Link) replace(s *station, byOrder bool) *station {
	l.mu.Lock()
	l.conn = nil
	for _, c := range l.calls {
		close(c.answer)
	}
	l.calls = nil
	if l.ctx.Err() == nil && !byOrder {
		l.info.Pid, l.info.Away = 0, time.Now()
		l.info.Restarts++
		l.log.Warn("the keeper is gone", "restarts", l.info.Restarts)
	}
	finished := l.finished
	l.setState(stateLosing)
	l.mu.Unlock()
	_ = s.conn.Close()
	defer func() { _ = s.pidfd.Close() }()

	failpoint.Hit("keeper.after-loss")
	if finished {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := untilGone(ctx, s.pidfd); err != nil {
			l.log.Error("the keeper said that it ends, and does not", "pid", l.Info().Pid)
		}
	}
	if l.ctx.Err() != nil || byOrder {
		return nil
	}
	l.mourn(s)
	return l.resume()
}

// mourn waits until a keeper is gone, and with it its copies. One that lives on has only dropped the connection; it will be told that what it has is
// not the truth.
func (l *Link) mourn(s *station) {
	ctx, cancel := context.WithTimeout(l.ctx, patience)
	defer cancel()
	if err := untilGone(ctx, s.pidfd); err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setState(stateAway)
}

// resume finds or starts a keeper and tells it everything, until that works or the link has ended.
func (l *Link) resume() *station {
	for pause := firstPause; ; pause = min(2*pause, time.Second) {
		s, err := l.dial(l.ctx)
		if err == nil {
			if err = l.adopted(s); err == nil {
				return s
			}
		}
		if l.ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errSuperseded) {
			l.log.Error("another front has taken over; this one keeps nothing any more", "error", err)
			return nil
		}
		if !errors.Is(err, errDown) {
			l.log.Error("no keeper", "error", err)
		}
		if rest(l.ctx, pause) != nil {
			return nil
		}
	}
}

// adopted tells a new keeper everything. If that fails, the state is what it was, or that keeper is mourned, too.
func (l *Link) adopted(s *station) error {
	l.mu.Lock()
	before := l.state
	l.setState(stateAdopting)
	l.mu.Unlock()
	err := l.upload(s)
	if err == nil {
		return nil
	}
	_ = s.conn.Close()
	l.mu.Lock()
	if s.pidfd == nil {
		l.setState(before)
		l.mu.Unlock()
		return err
	}
	l.setState(stateLosing)
	l.mu.Unlock()
	l.mourn(s)
	_ = s.pidfd.Close()
	return err
}

// An upload is what a new keeper is told, message by message.
type upload struct {
	link    *Link
	conn    *wire.Conn
	waiting []*offer // in the order sent
	refused []*offer
}

// An offer is one message of an upload.
type offer struct {
	m       *wire.Message
	fds     []int
	account *Account
	process *process // of a claim
}

// upload introduces this front to a new keeper and tells it everything.
func (l *Link) upload(s *station) error {
	stop := context.AfterFunc(l.ctx, func() { _ = s.conn.Close() })
	defer stop()
	welcome, err := l.introduce(s, wire.Resume, nil)
	if err != nil {
		return err
	}
	if welcome.Args[4] != wire.Upload {
		return fmt.Errorf("the keeper does not want to be told (mode %d)", welcome.Args[4])
	}
	u := &upload{link: l, conn: s.conn}
	failpoint.Hit("keeper.before-upload")
	for _, o := range l.offers() {
		if err := u.send(o); err != nil {
			return err
		}
	}
	failpoint.Hit("keeper.mid-upload")
	if err := u.drain(0); err != nil {
		return err
	}
	if err := l.settle(u); err != nil {
		return err
	}
	if err := u.send(&offer{m: &wire.Message{Verb: wire.Adopted}}); err != nil {
		return err
	}
	if err := u.drain(0); err != nil {
		return err
	}
	failpoint.Hit("keeper.after-upload")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log.Info("a new keeper has everything", "pid", l.info.Pid, "away", time.Since(l.info.Away))
	l.attach(s)
	return nil
}

// offers returns everything.
func (l *Link) offers() []*offer {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []*offer
	for uid, a := range l.accounts {
		if a.left {
			continue
		}
		if a != l.own {
			all = append(all, &offer{m: &wire.Message{Verb: wire.Enter, UID: uid, Text: a.name}})
		}
		if m := a.confinement(); m != nil && l.info.Cgroups.Used { // a keeper without does not know the verb
			all = append(all, &offer{m: m, account: a})
		}
		var keys []uint32
		for key := range a.items {
			keys = append(keys, key)
		}
		for chunk := range slices.Chunk(keys, wire.MaxKeys) {
			o := &offer{m: &wire.Message{Verb: wire.Put, UID: uid, Keys: chunk}, account: a}
			for _, key := range chunk {
				o.fds = append(o.fds, a.items[key])
			}
			all = append(all, o)
		}
		for key, p := range a.processes {
			o := &offer{m: &wire.Message{Verb: wire.Claim, UID: uid, Key: key}, account: a, process: p}
			is := p.wireLocked()
			o.m.SetProcess(&is)
			if p.pidfd >= 0 {
				o.fds = []int{p.pidfd}
			}
			p.recorded = false
			all = append(all, o)
		}
	}
	return all
}

// send sends one message; not too many are under way at once.
func (u *upload) send(o *offer) error {
	if err := u.drain(window - 1); err != nil {
		return err
	}
	o.m.ID = 1
	for {
		err := u.conn.Send(o.m, o.fds...)
		switch {
		case err == nil:
			u.waiting = append(u.waiting, o)
			return nil
		case errors.Is(err, syscall.EBADF) && o.account != nil: // not open any more, and not removed
			u.refused = append(u.refused, o)
			return nil
		case unsentCause(err) == nil || len(u.waiting) == 0:
			return errDown
		}
		if err := u.drain(0); err != nil { // then there is room
			return err
		}
	}
}

// drain receives answers until at most left are missing.
func (u *upload) drain(left int) error {
	for len(u.waiting) > left {
		var m wire.Message
		fds, err := u.conn.Recv(&m)
		wire.CloseAll(fds)
		if err != nil {
			return receiveError(err)
		}
		if !m.Reply {
			u.link.told(&m)
			continue
		}
		o := u.waiting[0]
		u.waiting = u.waiting[1:]
		switch {
		case m.Verb != o.m.Verb:
			return fmt.Errorf("the keeper answers %v to %v", m.Verb, o.m.Verb)
		case m.Code == wire.OK && o.process != nil:
			o.process.setRecorded()
		case m.Code == wire.OK:
		case o.m.Verb == wire.Confine: // the session goes on without
			u.link.log.Error("the keeper cannot limit a session", "account", o.account.name, "error", m.Text)
		case o.m.Verb == wire.Put || o.m.Verb == wire.Claim:
			u.refused = append(u.refused, o)
		default:
			return refusal(&m)
		}
	}
	return nil
}

// settle deals with what the keeper did not take: descriptors are offered one by one, and those that are refused again are not with it.
func (l *Link) settle(u *upload) error {
	refused := u.refused
	u.refused = nil
	for _, o := range refused {
		if o.process != nil {
			l.disown(o.process)
			continue
		}
		for i, key := range o.m.Keys {
			one := &offer{m: &wire.Message{Verb: wire.Put, UID: o.m.UID, Keys: []uint32{key}}, fds: o.fds[i : i+1], account: o.account}
			if err := u.send(one); err != nil {
				return err
			}
		}
	}
	if err := u.drain(0); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range u.refused {
		delete(o.account.items, o.m.Keys[0])
		l.log.Error("the keeper refuses a descriptor", "account", o.account.name, "key", o.m.Keys[0])
	}
	return nil
}

// disown deals with a process that the keeper does not take: the front itself sees its end then, but not how it was. One whose start was under way
// is nobody's.
func (l *Link) disown(p *process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.pidfd < 0 || p.disowned {
		return
	}
	p.disowned = true
	l.log.Error("the keeper refuses a process", "account", p.account.name, "pid", p.pid)
	fd, err := unix.FcntlInt(uintptr(p.pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		l.log.Error("its end is not seen", "pid", p.pid, "error", err)
		return
	}
	l.running.Go(func() {
		file, err := watchable(fd)
		if err != nil {
			return
		}
		defer func() { _ = file.Close() }()
		if untilGone(l.ctx, file) != nil {
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		p.finishLocked(ExitStatus{Code: -1, Unknown: true, Time: time.Now()})
	})
}
