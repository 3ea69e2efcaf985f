package session

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/piped-dev/piped/failpoint"
)

// incarnationKey is the name of a pipe or process with its incarnation, which the
// first goes without; no name has a tilde.
func incarnationKey(name string, incarnation uint64) string {
	if incarnation <= 1 {
		return name
	}
	return name + "~" + strconv.FormatUint(incarnation, 10)
}

// A former is an incarnation of a process that has another one after it, with the
// pipes that were made for it.
type former struct {
	proc  *Process
	pipes []*Pipe
}

// everyPipeLocked returns the session's pipes of all incarnations.
func (s *Session) everyPipeLocked() []*Pipe {
	all := slices.Clone(s.pipes)
	for _, f := range s.former {
		all = append(all, f.pipes...)
	}
	return all
}

// everyProcessLocked returns the session's processes of all incarnations.
func (s *Session) everyProcessLocked() []*Process {
	all := slices.Clone(s.procs)
	for _, f := range s.former {
		all = append(all, f.proc)
	}
	return all
}

// EndpointIn is Endpoint for an incarnation of the pipe; 0 is the current one.
func (s *Session) EndpointIn(pipeName string, end int, incarnation uint64) (*Endpoint, error) {
	e, err := s.Endpoint(pipeName, end)
	if err != nil || incarnation == 0 || incarnation == e.pipe.incarnation {
		return e, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.former {
		for _, p := range f.pipes {
			if p.name == e.pipe.name && p.incarnation == incarnation {
				return p.end(end)
			}
		}
	}
	return nil, noIncarnation("pipe", e.pipe.name, s.name, incarnation, e.pipe.incarnation)
}

// ProcessIn is Process for an incarnation; 0 is the current one.
func (s *Session) ProcessIn(name string, incarnation uint64) (*Process, error) {
	p, err := s.Process(name)
	if err != nil || incarnation == 0 || incarnation == p.incarnation {
		return p, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.former {
		if f.proc.name == p.name && f.proc.incarnation == incarnation {
			return f.proc, nil
		}
	}
	return nil, noIncarnation("process", p.name, s.name, incarnation, p.incarnation)
}

func noIncarnation(kind, name, session string, asked, current uint64) error {
	why := "it was dropped"
	if asked > current {
		why = "it is not there yet"
	}
	return fmt.Errorf("%w: %s %q of session %s is in incarnation %d, not %d: %s", ErrIncarnation, kind, name, session, current, asked, why)
}

// Incarnation returns which start of it this is, from 1.
func (p *Process) Incarnation() uint64 { return p.incarnation }

// recordKey is the key of the process's record.
func (p *Process) recordKey() string { return prefixProc + incarnationKey(p.name, p.incarnation) }

// startedBy returns the incarnation that a client's request has started, or nil.
func (s *Session) startedBy(name, request string) *Process {
	if request == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.everyProcessLocked() {
		if p.name == name && p.incarnation > 1 && p.record.Request == request {
			return p
		}
	}
	return nil
}

// replace puts the next incarnation in the place of the one before, with its pipes.
func (s *Session) replace(p *Process, l *launch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh := l.fresh()
	if s.gone {
		return s.refuseLocked(fresh, l.proc)
	}
	f := &former{proc: p}
	for _, q := range fresh {
		if i := slices.IndexFunc(s.pipes, func(o *Pipe) bool { return o.name == q.name }); i >= 0 {
			f.pipes = append(f.pipes, s.pipes[i])
			s.pipes[i] = q
		}
	}
	if i := slices.Index(s.procs, p); i >= 0 {
		s.procs[i] = l.proc
	}
	s.former = append(s.former, f)
	s.ended = time.Time{}
	s.tellAdded(false, fresh, l.proc)
	s.reg.log.Info("process started again", "session", s.name, "process", l.proc.name, "incarnation", l.proc.incarnation, "pid", l.proc.child.Pid())
	s.reg.watch(s, l.proc)
	return nil
}

// retire lets the incarnation before the current one give back what nothing can
// flow through any more, and notes what it had not read; then it drops those that
// are too many. s.starting is held.
func (s *Session) retire(p *Process) {
	s.mu.Lock()
	i := slices.IndexFunc(s.former, func(f *former) bool { return f.proc == p })
	var f *former
	if i >= 0 {
		f = s.former[i]
	}
	s.mu.Unlock()
	if f == nil {
		return
	}
	f.shed()
	unread := f.unreadInput()
	p.mu.Lock()
	p.record.Unread = unread
	p.noteLocked()
	p.mu.Unlock()
	s.dropSurplus(p.name)
}

// unreadInput counts the messages of its input that it has not read, by pipe.
func (f *former) unreadInput() map[string]uint64 {
	unread := make(map[string]uint64)
	for _, p := range f.pipes {
		if n := p.ends[0].unreadInput(); n > 0 {
			unread[p.name] = n
		}
	}
	return unread
}

// unreadInput counts the messages that were sent into the end and that nobody has
// read from the other one, as far as the kernel tells.
func (e *Endpoint) unreadInput() uint64 {
	out, err := e.ep.Outbox()
	if err != nil {
		return 0
	}
	read := out.Read()
	if all, _ := e.ep.AllRead(); all {
		return 0
	}
	accepted := out.Info().Accepted
	n := accepted.Message - min(read.Message, accepted.Message)
	if accepted.Offset > 0 { // an unfinished one
		n++
	}
	return n
}

// dropSurplus drops the oldest incarnations of a process of which there are more
// than are kept. s.starting is held.
func (s *Session) dropSurplus(name string) {
	for {
		s.mu.Lock()
		var of []*former
		for _, f := range s.former {
			if f.proc.name == name {
				of = append(of, f)
			}
		}
		if len(of) <= s.reg.config().IncarnationsKept {
			s.mu.Unlock()
			return
		}
		s.former = slices.DeleteFunc(s.former, func(f *former) bool { return f == of[0] })
		s.mu.Unlock()
		s.drop(of[0])
	}
}

// An Unread is what nobody has read of an incarnation.
type Unread struct {
	// Input counts messages that clients had sent and the process had not read.
	Input uint64
	// Output and OutputBytes are messages that no consumer had acknowledged.
	Output, OutputBytes uint64
}

func (f *former) unread() Unread {
	var u Unread
	for n := range maps.Values(f.unreadInput()) {
		u.Input += n
	}
	for _, p := range f.pipes {
		if in, err := p.ends[0].ep.Inbox(); err == nil {
			info := in.Info()
			u.Output += info.QueuedMessages
			u.OutputBytes += info.QueuedBytes
		}
	}
	return u
}

// drop lets go of an incarnation that the session does not have any more. Its
// record goes before those of its pipes: what is left of these when the daemon is
// killed in the middle belongs to nobody, and goes when the next one comes.
func (s *Session) drop(f *former) {
	unread := f.unread()
	for _, p := range f.pipes {
		p.shut()
	}
	s.strike(f.proc.recordKey())
	failpoint.Hit("session.mid-drop")
	for _, p := range f.pipes {
		s.dropPipe(p)
	}
	for _, e := range f.proc.given {
		e.disinherit(f.proc)
	}
	s.account.Forget(f.proc.key)
	if request := f.proc.record.Request; request != "" && f.proc.incarnation > 1 {
		s.restartRequests.forget(request)
	}
	info := f.proc.brief()
	s.reg.log.Info("incarnation dropped", "session", s.name, "process", f.proc.name, "incarnation", f.proc.incarnation,
		"unread_input", unread.Input, "unread_output", unread.Output, "unread_output_bytes", unread.OutputBytes)
	s.tell(Event{Type: EventIncarnationDropped, Process: &info, Unread: &unread})
}

// dropPipe closes a pipe for good and strikes all that is recorded of it.
func (s *Session) dropPipe(p *Pipe) {
	p.shut()
	p.wait()
	for _, e := range p.ends {
		e.forget()
	}
	s.strike(prefixPipe + p.recordKey())
	s.control.Release(p.ends[0].ep.Slot())
}

// forget strikes the records of the roles on an end that is closed for good.
func (e *Endpoint) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forgotten = true
	for _, l := range []*lease{e.writing, e.consuming} {
		if l != nil {
			e.session.strike(l.key())
		}
	}
	e.session.strike(e.key(prefixSender))
	for _, rec := range e.records {
		e.session.strike(e.writerKey(rec))
	}
}

// disinherit forgets that a process was given a copy, which it has no more.
func (e *Endpoint) disinherit(p *Process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heirs = slices.DeleteFunc(e.heirs, func(o *Process) bool { return o == p })
	e.lent = true
}

// AwaitsRestart returns a *RestartingError while the process that the end leads to
// is being started again, so that what is sent now would not be for the one that
// comes.
func (e *Endpoint) AwaitsRestart() error {
	s := e.session
	s.mu.Lock()
	i := slices.IndexFunc(s.procs, func(p *Process) bool { return p.incarnation == e.pipe.incarnation && p.origin.makes(e.pipe.name) })
	if i < 0 {
		s.mu.Unlock()
		return nil
	}
	p := s.procs[i]
	s.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decideLocked()
	err := &RestartingError{Process: p.name, Ref: e.Ref()}
	switch {
	case p.record.Plan != nil:
		err.Next = p.record.Plan.Due
	case p.launching != nil, p.Running() && p.record.Fate == fateAgain:
	default:
		return nil
	}
	return err
}

// followed adds to an error of an end that is over what comes, or has come, after it.
func (e *Endpoint) followed(err error) error {
	now, lookup := e.session.Endpoint(e.pipe.name, e.num)
	switch {
	case lookup != nil:
		return err
	case now.pipe.incarnation > e.pipe.incarnation:
		return fmt.Errorf("%w: this was incarnation %d of pipe %s, it is in incarnation %d now", err, e.pipe.incarnation, e.pipe.name, now.pipe.incarnation)
	}
	if restarting := e.AwaitsRestart(); restarting != nil {
		return fmt.Errorf("%w: incarnation %d of pipe %s is over: %v", err, e.pipe.incarnation, e.pipe.name, restarting) //nolint:errorlint // it is the first that counts
	}
	return err
}
