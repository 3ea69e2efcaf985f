package session

import (
	"slices"
	"time"
)

// This file tells the events of a session. Each is told after what it says can
// be seen, so that a snapshot and the events after it leave nothing out.

// tell adds an event of the session, in the state that it is in unless the event
// says otherwise. The deletion is the last that is told of it.
func (s *Session) tell(e Event) {
	s.telling.Lock()
	defer s.telling.Unlock()
	if s.toldDeleted {
		return
	}
	s.toldDeleted = e.Type == EventSessionDeleted
	state := s.toldState()
	if e.Was == 0 {
		e.Was = state
	}
	if e.Is == 0 {
		e.Is = state
	}
	e.Session, e.UID, e.Labels = s.name, s.uid, s.labels
	s.reg.events.add(e)
}

func (s *Session) toldState() State {
	if s.toldEnded.Load() {
		return Ended
	}
	return Active
}

// tellAdded tells what became part of the session; s.mu is held.
func (s *Session) tellAdded(first bool, pipes []*Pipe, proc *Process) {
	was := s.toldState()
	s.toldEnded.Store(false)
	if first {
		s.tell(Event{Type: EventSessionCreated})
	}
	for _, p := range pipes {
		if !first {
			s.tell(Event{Type: EventPipeCreated, Was: was, Pipe: p.name, Incarnation: p.incarnation})
		}
	}
	if proc != nil {
		info := proc.brief()
		info.Running, info.Finals = true, nil // it may have exited just now
		info.Next = time.Time{}
		s.tell(Event{Type: EventProcessStarted, Was: was, Process: &info})
	}
	for _, p := range pipes {
		p.announce()
	}
}

// tellEnded tells that the session has ended, after what ended in it; s.mu is
// held.
func (s *Session) tellEnded() {
	if !s.ready || s.toldEnded.Load() {
		return
	}
	for _, p := range s.procs {
		s.tellExit(p)
	}
	for _, p := range s.everyPipeLocked() {
		p.tellFinals()
	}
	if !s.toldEnded.Swap(true) {
		s.tell(Event{Type: EventSessionEnded, Was: Active, Is: Ended})
	}
}

// tellExit tells, once, that a process has exited.
func (s *Session) tellExit(p *Process) {
	p.exited.Do(func() {
		info := p.brief()
		info.Next = time.Time{} // what comes of it is told next
		s.tell(Event{Type: EventProcessExited, Process: &info})
	})
}

// tellRestarting tells that the process is started again, and what it has left of
// its input.
func (p *Process) tellRestarting() {
	s := p.session
	info := p.brief()
	f := former{proc: p}
	s.mu.Lock()
	for _, q := range s.pipes {
		if q.incarnation == p.incarnation && p.origin.makes(q.name) {
			f.pipes = append(f.pipes, q)
		}
	}
	s.mu.Unlock()
	unread := f.unread()
	unread.Output, unread.OutputBytes = 0, 0 // they can be received still
	s.tell(Event{Type: EventProcessRestarting, Process: &info, Unread: &unread})
}

// tellGaveUp tells that the process is not started again.
func (p *Process) tellGaveUp() {
	info := p.brief()
	p.session.reg.log.Warn("process is not started again", "session", p.session.name, "process", p.name, "reason", info.Failure)
	p.session.tell(Event{Type: EventProcessGaveUp, Process: &info, Detail: info.Failure})
}

// tellLast tells what is left to be told of a session that is being deleted, of
// which everything has ended.
func (s *Session) tellLast(pipes []*Pipe, procs []*Process) {
	for _, p := range pipes {
		p.tellFinals()
	}
	for _, p := range pipes {
		for _, e := range p.ends {
			e.farewell()
		}
	}
	for _, p := range procs {
		s.tellExit(p)
	}
	s.Ended()
}

// maxArgs bounds the arguments that are kept with an event, in bytes.
const maxArgs = 4 << 10

// brief is Info for an event: with no more arguments than it should keep in
// memory, and with last words that stay true.
func (p *Process) brief() ProcessInfo {
	info := p.Info()
	if !info.Running {
		info.Finals = p.finals((*Endpoint).lasting)
	}
	size := 0
	for i, a := range info.Args {
		if size += len(a); size > maxArgs {
			info.Args = slices.Clone(info.Args[:i]) // or all would stay in memory
			break
		}
	}
	return info
}

// shut closes the pipe for good: nothing of it can be leased any more.
func (p *Pipe) shut() {
	p.close()
	for _, e := range p.ends {
		e.endLeases()
	}
}
