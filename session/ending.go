package session

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/piped-dev/piped/failpoint"
)

// State is where a session is.
type State uint8

// The states of a session.
const (
	Active State = iota + 1
	Ended
)

// State returns where the session is.
func (s *Session) State() State {
	if _, ended := s.Ended(); ended {
		return Ended
	}
	return Active
}

// Ended reports whether all processes have exited and nothing can flow any
// more, and since when.
func (s *Session) Ended() (since time.Time, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endedLocked()
}

func (s *Session) endedLocked() (since time.Time, ended bool) {
	flows := func(p *Pipe) bool { return !p.over() }
	if slices.ContainsFunc(s.procs, (*Process).lives) || slices.ContainsFunc(s.pipes, flows) ||
		slices.ContainsFunc(s.former, func(f *former) bool { return slices.ContainsFunc(f.pipes, flows) }) {
		s.ended = time.Time{}
		return time.Time{}, false
	}
	if s.ended.IsZero() {
		s.ended = time.Now()
		if s.ready && !s.gone {
			s.note(keySession, s.recordLocked())
		}
		s.tellEnded()
	}
	return s.ended, true
}

// shed gives the descriptors of an ended session back; what came out of its
// pipes stays.
func (s *Session) shed() {
	if !s.starting.TryLock() {
		return // something is being added; the next sweep comes
	}
	defer s.starting.Unlock()
	s.mu.Lock()
	pipes := s.everyPipeLocked()
	s.mu.Unlock()
	for _, p := range pipes {
		p.shed()
	}
}

// shedFormer gives the descriptors of incarnations that are over back.
func (s *Session) shedFormer() {
	s.mu.Lock()
	kept := slices.Clone(s.former)
	s.mu.Unlock()
	for _, f := range kept {
		f.shed()
	}
}

// shed is Session.shed for one incarnation.
func (f *former) shed() {
	for _, p := range f.pipes {
		p.shed()
	}
}

// shed gives the descriptors back of those ends at which nothing can flow any more.
func (p *Pipe) shed() {
	for _, e := range p.ends {
		if e.ep.HungUp() && !e.ep.Closing() {
			e.ep.Retire()
		}
	}
}

// shedLogs gives the descriptors of the logs of ended sessions back, when there are
// too few: what is unread stays, and does not outlive the daemon. It reports
// whether there were any.
func (r *Registry) shedLogs() (some bool) {
	for _, s := range r.List(Filter{}) {
		if _, ended := s.Ended(); !ended {
			continue
		}
		s.shed()
		s.mu.Lock()
		if !s.shedLogs {
			s.shedLogs, some = true, true
			s.note(keySession, s.recordLocked())
			for _, p := range s.everyPipeLocked() {
				for _, e := range p.ends {
					e.ep.RetireLogs()
				}
			}
		}
		s.mu.Unlock()
	}
	return some
}

// withdraw lets nothing be added any more, if the session has ended or with force.
func (s *Session) withdraw(force bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ended := s.endedLocked(); !ended && !force {
		return false
	}
	s.gone = true
	s.note(keySession, s.recordLocked())
	return true
}

// end kills what runs, closes what is open, and waits for both; the context
// bounds the waiting.
func (s *Session) end(ctx context.Context) error {
	s.mu.Lock()
	s.gone = true
	s.note(keySession, s.recordLocked())
	pipes, procs := s.everyPipeLocked(), slices.Clone(s.procs)
	s.mu.Unlock()
	failpoint.Hit("session.mid-end")
	defer s.leave()
	var errs []error
	for _, p := range procs {
		p.condemn()
		if err := p.send(killSignal); err != nil && !errors.Is(err, ErrExited) {
			errs = append(errs, err)
		}
	}
	for _, p := range pipes {
		p.shut()
	}
	for _, p := range procs {
		if err := p.Wait(ctx); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	for _, p := range pipes {
		p.wait()
	}
	s.tellLast(pipes, procs)
	return errors.Join(errs...)
}
