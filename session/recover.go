package session

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/piped-dev/piped/failpoint"
	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
)

// errNeverWas: nobody was ever told of the session; errGone: its deletion had begun.
var (
	errNeverWas = errors.New("its creation was cut off")
	errGone     = errors.New("its deletion was cut off")
)

// Recovered says what became of the sessions of the daemon before.
type Recovered struct {
	Sessions int // that go on
	Lost     int
}

// recover makes the sessions again that the daemon before has left. What was begun
// is finished or undone. The error means that nothing was touched: the records are
// of a later version.
func (r *Registry) recover(estate *keeper.Estate) (Recovered, error) {
	var done Recovered
	for _, l := range estate.Lost {
		why := LostBoth
		if l.Reboot {
			why = LostReboot
		}
		r.lose(l.Name, l.UID, why, nil)
		done.Lost++
	}
	heirlooms := make([]*heirloom, len(estate.Sessions))
	for i, left := range estate.Sessions {
		heirlooms[i] = &heirloom{reg: r, left: left}
	}
	// Versions first: nothing is touched if there is one that is not known. The
	// descriptors end with the process, which cannot go on.
	for _, h := range heirlooms {
		if h.err = h.read(); errors.Is(h.err, pipe.ErrVersion) {
			return done, fmt.Errorf("session %s: %w", h.left.Name, h.err)
		}
	}
	var wg sync.WaitGroup
	turns := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, h := range heirlooms {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			if h.err == nil {
				h.err = h.recover()
			}
		})
	}
	wg.Wait()
	for _, h := range heirlooms {
		switch {
		case h.err == nil:
			r.adopt(h)
			done.Sessions++
		case errors.Is(h.err, errNeverWas), errors.Is(h.err, errGone):
			r.log.Info("session removed", "session", h.left.Name, "reason", h.err)
			h.drop()
		case h.sign != "": // lost before
			r.sign(h.left.Account, h.left.Name, h.sign) // what a new keeper is brought must be open
			h.close()
			r.mourn(&lost{LostError{Name: h.left.Name, Why: h.sign}, uuid.UUID(h.left.UID).String(), time.Now(), h.left.Account})
		default:
			h.drop()
			why := LostCorrupt
			if lost := new(LostError); errors.As(h.err, &lost) {
				why = lost.Why
			}
			r.lose(h.left.Name, h.left.UID, why, h.err)
			done.Lost++
		}
	}
	// The daemon before was killed as it forgot them, see Create.
	r.forgetLost(func(l *lost) bool { return r.byName[l.Name] != nil })
	return done, nil
}

// adopt makes a recovered session one of ours.
func (r *Registry) adopt(h *heirloom) {
	s := h.s
	r.mu.Lock()
	r.byName[s.name], r.byUID[s.uid] = s, s
	r.mu.Unlock()
	r.requests.recall(s.request, digest(h.record.Digest), s)
	for name, p := range h.pipes {
		s.pipeRequests.recall(h.pipeRecords[name].Request, digestIn(h.pipeRecords[name].Digest), p)
	}
	for _, f := range s.former {
		h.recall(f.proc)
		r.background(f.proc.giveUp)
	}
	for _, p := range s.procs {
		h.recall(p)
		if p.Running() {
			r.watch(s, p)
		} else {
			p.proceed()
			r.background(p.giveUp) // it may have come to nothing
		}
	}
	s.resumeLease()
	s.Ended()
	h.dropSurplus()
}

// recall enters the request that has started a process.
func (h *heirloom) recall(p *Process) {
	rec := &p.record
	switch {
	case p.incarnation > 1:
		h.s.restartRequests.recall(rec.Request, digestIn(rec.Digest), p)
	case p.origin == nil: // of a daemon before there were any
		h.s.processRequests.recall(rec.Request, digestIn(rec.Digest), p)
	}
	if o := p.origin; o != nil && slices.Contains(h.s.procs, p) {
		h.s.processRequests.recall(o.Request, digestIn(o.Digest), p)
	}
}

// An heirloom is a session that is being recovered.
type heirloom struct {
	reg  *Registry
	left *keeper.Remains
	err  error
	sign string // why it was lost before this daemon, or the one before it

	s              *Session
	control        *pipe.Control
	record         sessionRecord
	pipeRecords    map[string]*pipeRecord
	processRecords map[string]*processRecord
	leases         map[string]*leaseRecord
	origins        map[string]*origin
	senders        map[string]*writerState
	writers        map[string]*writerState
	pipes          map[string]*Pipe
}

// take takes a descriptor over; -1 where there is none.
func (h *heirloom) take(key pipe.Key) int {
	fd, ok := h.left.Files[uint32(key)]
	if !ok {
		return -1
	}
	delete(h.left.Files, uint32(key))
	return fd
}

// close closes what nobody has taken over.
func (h *heirloom) close() {
	for _, fd := range h.left.Files {
		_ = syscall.Close(fd)
	}
	clear(h.left.Files)
	if h.control != nil {
		h.control.Close()
	}
}

// drop lets go of a session that cannot be recovered: its processes are killed.
func (h *heirloom) drop() {
	for _, p := range h.pipes {
		p.close()
		p.wait()
	}
	h.close()
	h.left.Account.Leave()
}

// read reads the records. It changes nothing.
func (h *heirloom) read() error {
	if why, ok := signOf(h.left.Files); ok {
		h.sign = why
		return &LostError{Name: h.left.Name, Why: why}
	}
	fd := h.take(pipe.ControlKey)
	if fd < 0 {
		if _, ok := h.left.Files[memoryKey]; ok {
			return &LostError{Name: h.left.Name, Why: LostMemory}
		}
		return errNeverWas
	}
	control, err := pipe.OpenControl(fd, vault{h.left.Account})
	if err != nil {
		return err
	}
	h.control = control
	all := control.Journal().All()
	text, ok := all[keySession]
	if !ok {
		return errNeverWas
	}
	if err := decode(text, &h.record); err != nil {
		return err
	}
	if v := h.record.Version; v > recordVersion {
		return fmt.Errorf("%w: the records of session %s have version %d, this program knows %d", pipe.ErrVersion, h.record.Name, v, recordVersion)
	}
	switch {
	case h.record.Gone:
		return errGone
	case len(h.record.Digest) != len(digest{}):
		return fmt.Errorf("%w: a digest of %d bytes", pipe.ErrCorrupt, len(h.record.Digest))
	case h.record.Shed:
		return &LostError{Name: h.left.Name, Why: LostMemory}
	}
	var errs [6]error
	h.pipeRecords, errs[0] = decodeAll[pipeRecord](all, prefixPipe)
	h.processRecords, errs[1] = decodeAll[processRecord](all, prefixProc)
	h.leases, errs[2] = decodeAll[leaseRecord](all, prefixLease)
	h.senders, errs[3] = decodeAll[writerState](all, prefixSender)
	h.writers, errs[4] = decodeAll[writerState](all, prefixWriter)
	h.origins, errs[5] = decodeAll[origin](all, prefixOrigin)
	return errors.Join(errs[:]...)
}

// recover makes the session again.
func (h *heirloom) recover() error {
	h.s = &Session{reg: h.reg, name: h.record.Name, uid: h.record.UID, labels: h.record.Labels, created: h.record.Created,
		request: h.record.Request, digest: h.record.Digest, account: h.left.Account, control: h.control, resources: h.record.Resources}
	if kept := h.record.Lease; kept != nil {
		h.s.creator = &creator{creatorRecord: *kept}
	}
	h.unstarted()
	if !h.record.Ready && len(h.processRecords) == 0 {
		return errNeverWas
	}
	if err := h.recoverPipes(); err != nil {
		return err
	}
	for key := range h.left.Files { // of what never came to be, or was just being dropped
		h.s.account.Remove(key)
	}
	for _, fd := range h.left.Files {
		_ = syscall.Close(fd)
	}
	clear(h.left.Files)
	if err := h.s.confine(); err != nil { // so that the keepers that come are told; this one knows
		h.reg.log.Error("a session has no limits any more", "session", h.s.name, "uid", h.s.uid, "error", err)
	}
	if err := h.recoverProcesses(); err != nil {
		return err
	}
	if err := h.recoverRoles(); err != nil {
		return err
	}
	h.silence()
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	h.s.ready = true
	if _, over := h.s.endedLocked(); over && !h.record.Ended.IsZero() {
		h.s.ended = h.record.Ended
	}
	failpoint.Hit("session.before-recovered")
	return h.s.put(keySession, h.s.recordLocked())
}

// unstarted forgets processes that were to be started and were not, and the pipes
// that were made for them.
func (h *heirloom) unstarted() {
	for name, p := range h.processRecords {
		if _, there := h.left.Processes[p.Key]; !p.Started && !there {
			delete(h.processRecords, name)
			h.s.strike(prefixProc + name)
		}
	}
	for name, p := range h.pipeRecords {
		if _, there := h.processRecords[incarnationKey(p.For, p.Incarnation)]; p.For != "" && !there {
			delete(h.pipeRecords, name)
			h.s.strike(prefixPipe + name)
		}
	}
	for name := range h.origins {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(h.processRecords)), func(key string) bool { return nameIn(key) == name }) {
			delete(h.origins, name)
			h.s.strike(prefixOrigin + name)
		}
	}
}

func (h *heirloom) recoverPipes() error {
	h.pipes = make(map[string]*Pipe)
	order := slices.SortedFunc(maps.Keys(h.pipeRecords), func(a, b string) int { return cmp.Compare(h.pipeRecords[a].Order, h.pipeRecords[b].Order) })
	used := make(map[int]bool)
	for _, key := range order {
		rec := h.pipeRecords[key]
		name, incarnation := nameIn(key), max(rec.Incarnation, 1)
		used[rec.Slot] = true
		kept := pipe.Kept{Control: h.control, Slot: rec.Slot, Vault: vault{h.s.account}}
		for i := range kept.Ends {
			key := func(part pipe.KeyPart) pipe.Key { return pipe.KeyOf(rec.Slot, i+1, part) }
			kept.Ends[i] = pipe.KeptEnd{Read: h.take(key(pipe.PartRead)), Write: h.take(key(pipe.PartWrite)),
				Inbox: h.take(key(pipe.PartInbox)), Outbox: h.take(key(pipe.PartOutbox))}
			if rec.Kind == pipe.Duplex || rec.Kind == pipe.Terminal && i == 1 {
				kept.Ends[i].Write = kept.Ends[i].Read
			}
		}
		s := h.s
		one, two, err := pipe.Recover(h.reg.poller, kept, func(end int, sent bool) { s.directionEnded(name, incarnation, end, sent) })
		if err != nil {
			return fmt.Errorf("pipe %s: %w", key, err)
		}
		p := &Pipe{name: name, kind: rec.Kind, in: rec.In, out: rec.Out, incarnation: incarnation, order: rec.Order}
		for i, ep := range []*pipe.Endpoint{one, two} {
			p.ends[i] = &Endpoint{session: s, pipe: p, num: i + 1, ep: ep, ids: rec.Ends[i]}
		}
		h.pipes[key] = p
		s.countOrder(rec.Order)
		if h.currentPipe(name) == key {
			s.pipes = append(s.pipes, p)
		}
	}
	h.control.ReleaseAllBut(used)
	return nil
}

// countOrder keeps next from giving a number twice.
func (s *Session) countOrder(order int) { s.serial = max(s.serial, order-createdWith) }

func (h *heirloom) end(r endRecord) (*Endpoint, error) {
	p := h.pipes[incarnationKey(r.Pipe, r.Incarnation)]
	if p == nil {
		return nil, fmt.Errorf("%w: a process has an end of pipe %q, which is not there", pipe.ErrCorrupt, r.Pipe)
	}
	return p.end(r.End)
}

func (h *heirloom) recoverProcesses() error {
	order := slices.SortedFunc(maps.Keys(h.processRecords), func(a, b string) int {
		return cmp.Compare(h.processRecords[a].Order, h.processRecords[b].Order)
	})
	for _, key := range order {
		rec, name := h.processRecords[key], nameIn(key)
		p := &Process{session: h.s, name: name, incarnation: max(rec.Incarnation, 1), origin: h.origins[name],
			toldFailure: rec.Failure != "", key: rec.Key, order: rec.Order, args: rec.Args, started: rec.Created,
			inherits: rec.Inherits, child: h.left.Processes[rec.Key]}
		if p.child == nil {
			p.child = forgotten{}
		}
		for _, in := range rec.Inputs {
			e, err := h.end(in)
			if err != nil {
				return err
			}
			p.inputs = append(p.inputs, e)
		}
		for _, given := range rec.Given {
			e, err := h.end(given)
			if err != nil {
				return err
			}
			p.given = append(p.given, e)
			e.inherited(p)
			if given.HandOver {
				e.handedTo = p.name
				e.ep.Close(false)
			}
		}
		h.s.countOrder(rec.Order)
		h.s.countOrder(int(rec.Key))
		if !rec.Started {
			rec.Started = true
			h.s.note(prefixProc+key, *rec)
		}
		p.record = *rec
		h.place(p)
		if rec.Ladder != nil {
			l := *rec.Ladder
			p.ladder = &l
		}
	}
	return nil
}

// recoverRoles makes leases and the memory of writers again.
func (h *heirloom) recoverRoles() error {
	for _, p := range h.pipes {
		for _, e := range p.ends {
			e.mu.Lock()
			err := h.recoverEndpoint(e)
			e.mu.Unlock()
			if err != nil {
				return fmt.Errorf("%s: %w", e.Ref(), err)
			}
		}
	}
	return nil
}

func (h *heirloom) recoverEndpoint(e *Endpoint) error {
	ref := strings.TrimPrefix(e.key(prefixSender), prefixSender)
	var writers []*writerState
	for key, w := range h.writers {
		if strings.HasPrefix(key, ref+"/") {
			writers = append(writers, w)
		}
	}
	e.restoreWriters(writers, h.senders[ref])
	for _, role := range []Role{RoleWriter, RoleConsumer} {
		rec := h.leases[fmt.Sprintf("%s/%d", ref, role)]
		if rec == nil {
			continue
		}
		if err := e.leaseLocked(role).restore(rec); err != nil {
			return err
		}
	}
	return nil
}

// silence lets nothing be told of what has happened before: who watches begins
// with a look at what is there.
func (h *heirloom) silence() {
	for _, p := range h.pipes {
		for _, e := range p.ends {
			sent, received := e.final(true) != nil, e.final(false) != nil
			e.mu.Lock()
			e.announced, e.toldSent, e.toldReceived = true, sent, received
			e.mu.Unlock()
		}
	}
	for _, p := range h.s.procs {
		if !p.Running() {
			p.exited.Do(func() {})
		}
	}
	for _, f := range h.s.former {
		f.proc.exited.Do(func() {})
	}
	h.s.toldEnded.Store(!h.record.Ended.IsZero())
}

// forgotten is a process of which nobody knows any more how it ended.
type forgotten struct{}

func (forgotten) Pid() int                               { return 0 }
func (forgotten) Signal(syscall.Signal) error            { return keeper.ErrExited }
func (forgotten) SignalGroup(syscall.Signal, bool) error { return keeper.ErrExited }
func (forgotten) Confined() bool                         { return false }
func (forgotten) Exit() keeper.ExitStatus                { return keeper.ExitStatus{Code: -1, Unknown: true} }
func (forgotten) Done() <-chan struct{}                  { return closedChannel }

var closedChannel = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func digestIn(b []byte) (d digest) {
	copy(d[:], b)
	return d
}
