package session

import (
	"crypto/rand"
	"crypto/subtle"
	"time"
)

// A Role is the right that a lease gives.
type Role uint8

// The roles on an endpoint.
const (
	RoleWriter Role = iota + 1
	RoleConsumer
)

// generated returns a name for a client that has none.
func (r Role) generated() string {
	if r == RoleConsumer {
		return randomName("reader")
	}
	return randomName("writer")
}

// A Lease is a look at the right to write into an endpoint or to consume from
// it, while somebody has it.
type Lease struct {
	Role   Role
	Holder string
	// Epoch grows by one each time that the lease goes to another holder, or to
	// another life of the same holder.
	Epoch uint64
	// Expires is zero while a stream holds the lease.
	Expires time.Time
}

// A Token proves a lease: whoever has it acts for the holder. It is never
// logged.
type Token [16]byte

func newToken() (t Token) {
	_, _ = rand.Read(t[:]) // it never fails
	return t
}

// A Claim is what a stream brings to get its lease.
type Claim struct {
	// Token proves a lease that the caller has. Without one, a lease that nobody
	// has is taken, and an id that has the lease joins it as another life of the
	// holder: the token of the one before is fenced, unless the lease was acquired
	// or this is a unary call.
	Token []byte
	// Steal takes the lease from whoever has it. A token that proves nothing is
	// refused all the same.
	Steal bool
	// Duration is how long the lease outlives a stream that is cut; at most
	// Config.MaxLeaseDuration. 0: not at all. A lease from
	// [Endpoint.AcquireLease] keeps its own.
	Duration time.Duration
	// Call: the stream is but a unary call, which gives back only what it took
	// itself.
	Call bool
	// Life is a random text of whoever comes back: the same in all streams of one
	// life of a client. Who brings the life that had the lease last is that holder,
	// also without the token, whose answer may have been cut off. Empty: none.
	Life string
}

// maxLife bounds Claim.Life, in bytes.
const maxLife = 64

func (c *Claim) check(longest time.Duration) error {
	if n := len(c.Token); n != 0 && n != len(Token{}) {
		return argument("lease token has %d bytes, want %d", n, len(Token{}))
	}
	if n := len(c.Life); n > maxLife {
		return argument("life has %d bytes, at most %d are allowed", n, maxLife)
	}
	if c.Duration < 0 || c.Duration > longest {
		return argument("lease duration %v: want 0 to %v", c.Duration, longest)
	}
	return nil
}

// A lease is one role on one endpoint, whoever has it. The endpoint's mutex
// guards it, as it guards what the holder appends or acknowledges.
type lease struct {
	e     *Endpoint
	role  Role
	epoch uint64
	// holder is "" while nobody has the lease; named: clients chose that name,
	// so that others of it share the lease.
	holder string
	named  bool
	token  Token
	// life is that of the holder, last that of the one before while nobody has it.
	life, last string
	// duration is how long it outlives its streams; kept: also those that ended
	// cleanly, because it came from AcquireLease.
	duration time.Duration
	kept     bool
	// silent: only a unary call has it, which is not worth an event; or its last
	// event was told.
	silent bool
	// force: its stream shares the end with processes.
	force  bool
	tenure *tenure // the stream that holds it, if any
	// expires and timer are set while no stream holds it; lapse tells a timer
	// that fires late from the one that counts.
	expires time.Time
	timer   *time.Timer
	lapse   uint64
}

// A tenure is a stream's hold of a lease.
type tenure struct {
	lease *lease
	name  string // of the client
	took  bool   // the lease was not the caller's before
	call  bool
	rest  func() // called when the lease is lost; may be nil
	lost  chan struct{}
	why   error // of lost, set before it is closed
}

// held reports whether the stream still has its lease.
func (t *tenure) held() bool { return t.lease.tenure == t }

// reason returns why the lease is not the stream's any more; ErrSuperseded also
// for one that gave it back. The endpoint's mutex is held.
func (t *tenure) reason() error {
	if t.why == nil {
		return ErrSuperseded
	}
	return t.why
}

// check returns why the lease was lost, or nil.
func (t *tenure) check() error {
	select {
	case <-t.lost:
		return t.why
	default:
		return nil
	}
}

// leaseLocked returns the lease of a role, which is made when it is first asked
// for.
func (e *Endpoint) leaseLocked(role Role) *lease {
	l := &e.writing
	if role == RoleConsumer {
		l = &e.consuming
	}
	if *l == nil {
		*l = &lease{e: e, role: role}
	}
	return *l
}

// leaseOf returns the lease that a stream holds, and what proves it; nil when it
// was lost.
func (e *Endpoint) leaseOf(t *tenure) (Token, *Lease) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !t.held() {
		return Token{}, nil
	}
	return t.lease.token, t.lease.look()
}

// taken reports whether somebody has the lease. It may be nil.
func (l *lease) taken() bool { return l != nil && l.holder != "" }

// look returns what others may know of the lease, nil when nobody has it. It may
// be nil.
func (l *lease) look() *Lease {
	if !l.taken() {
		return nil
	}
	return &Lease{Role: l.role, Holder: l.holder, Epoch: l.epoch, Expires: l.expires}
}

// client returns the name of the client whose stream holds the lease, or "". It
// may be nil.
func (l *lease) client() string {
	if !l.taken() || l.tenure == nil {
		return ""
	}
	return l.tenure.name
}

// proves reports whether the token is that of the lease.
func (l *lease) proves(token []byte) bool {
	return l.taken() && subtle.ConstantTimeCompare(l.token[:], token) == 1
}

// sameLife reports whether the caller has the lease, or had it last, and has only
// not heard of it.
func (l *lease) sameLife(c *Claim) bool {
	had := l.last
	if l.taken() {
		had = l.life
	}
	return c.Life != "" && c.Life == had
}

// owns reports whether the lease is that of the caller already.
func (l *lease) owns(id string, c *Claim) bool {
	return l.taken() && (l.proves(c.Token) || id != "" && l.named && l.holder == id || l.sameLife(c))
}

// joins reports whether the caller is another life of the holder: it has the id,
// and not what proves the lease.
func (l *lease) joins(id string, c *Claim) bool {
	return l.owns(id, c) && !l.proves(c.Token) && !l.sameLife(c)
}

// admit refuses a caller that may not have the lease.
func (l *lease) admit(id string, c *Claim) error {
	switch {
	case len(c.Token) > 0 && !l.proves(c.Token) && !l.sameLife(c):
		return &FencedError{By: l.holder, Epoch: l.epoch}
	case !l.taken(), c.Steal, l.owns(id, c):
		return nil
	}
	return l.busy()
}

func (l *lease) busy() error {
	err := &BusyError{Err: ErrBusyWriter, Client: l.holder, Expires: l.expires}
	if l.role == RoleConsumer {
		err.Err = ErrBusyReader
	}
	return err
}

// grant makes the caller, who was admitted, the holder; it reports whether that
// is a change.
func (l *lease) grant(id string, c *Claim) (fresh bool) {
	if l.owns(id, c) {
		return false
	}
	again := !l.taken() && l.sameLife(c)
	name := id
	if name == "" {
		name = l.role.generated()
	}
	if old := l.look(); old != nil {
		l.evict(&FencedError{By: name, Epoch: l.epoch + 1})
		l.pause()
		if !l.silent {
			l.tell(EventLeaseLost, *old, name)
		}
	}
	if !again {
		l.epoch++
	}
	l.holder, l.named, l.token = name, id != "", newToken()
	l.life, l.last = c.Life, ""
	l.duration, l.kept, l.silent, l.force = 0, false, true, false
	return true
}

// announce tells, once, that the holder got the lease.
func (l *lease) announce() {
	if l.silent {
		l.silent = false
		l.tell(EventLeaseAcquired, *l.look(), "")
	}
}

// begin makes a stream of the caller, who was admitted, hold the lease. An older
// stream of the same holder is superseded.
func (l *lease) begin(id string, c *Claim, rest func()) *tenure {
	t := &tenure{lease: l, call: c.Call, rest: rest, lost: make(chan struct{})}
	// Two lives of one holder may share what was acquired; the epoch tells them.
	if l.joins(id, c) {
		l.epoch++
		if !l.kept && !c.Call {
			l.token = newToken()
		}
	}
	t.took = l.grant(id, c)
	if !c.Call {
		l.life = c.Life
	}
	l.evict(ErrSuperseded)
	l.pause()
	l.tenure = t
	if t.name = id; id == "" {
		t.name = l.holder
	}
	if !l.kept && (t.took || !c.Call) {
		l.duration = c.Duration
	}
	if !c.Call {
		l.announce()
	}
	l.save()
	return t
}

// evict takes the lease away from the stream that holds it, if any.
func (l *lease) evict(why error) {
	t := l.tenure
	if t == nil {
		return
	}
	l.tenure = nil
	t.why = why
	close(t.lost)
	if t.rest != nil {
		t.rest()
	}
}

// leave ends a stream's hold: cleanly, when the client ended it, else the lease
// waits for the holder to come back.
func (l *lease) leave(t *tenure, cleanly bool) {
	if !t.held() {
		return
	}
	l.tenure = nil
	joined := t.call && !t.took
	defer l.save()
	switch {
	case l.e.ep.Closing():
		l.end(EventLeaseReleased, endpointIsClosed)
	case l.kept, joined && l.duration > 0, !cleanly && l.duration > 0:
		l.wait()
	default:
		l.end(EventLeaseReleased, "")
	}
}

// wait lets the time of the lease run.
func (l *lease) wait() {
	l.pause()
	l.expires = time.Now().Add(l.duration)
	defer l.save()
	lapse := l.lapse
	l.timer = time.AfterFunc(l.duration, func() {
		l.e.mu.Lock()
		defer l.e.mu.Unlock()
		if l.lapse == lapse {
			l.end(EventLeaseLost, "its time ran out")
		}
	})
}

// pause stops the time of the lease.
func (l *lease) pause() {
	if l.timer != nil {
		l.timer.Stop()
	}
	l.timer, l.expires = nil, time.Time{}
	l.lapse++
}

// end leaves the lease to whoever comes next. No stream holds it.
func (l *lease) end(as EventType, detail string) {
	last := *l.look()
	l.pause()
	l.last, l.life = l.life, ""
	l.holder, l.token = "", Token{}
	l.save()
	if !l.silent {
		l.tell(as, last, detail)
	}
}

// endpointIsClosed is why leases end when there is nothing left to be leased.
const endpointIsClosed = "the endpoint is closed"

// farewell tells of the leases that streams hold that they end with the endpoint,
// which is closed, because nothing can be told of its session later.
func (e *Endpoint) farewell() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range []*lease{e.writing, e.consuming} {
		if l.taken() && !l.silent {
			l.tell(EventLeaseReleased, *l.look(), endpointIsClosed)
			l.silent = true
		}
	}
}

// endLeases ends the leases that no stream holds, because the endpoint is
// closing; those of streams end with them.
func (e *Endpoint) endLeases() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range []*lease{e.writing, e.consuming} {
		if l.taken() && l.tenure == nil {
			l.end(EventLeaseReleased, endpointIsClosed)
		}
	}
}

func (l *lease) tell(as EventType, look Lease, detail string) {
	l.e.session.tell(Event{Type: as, Pipe: l.e.pipe.name, Incarnation: l.e.pipe.incarnation, End: l.e.num, Lease: &look, Detail: detail})
}
