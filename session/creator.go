package session

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrSessionLease is that the creator's lease of a session is not what the caller
// takes it for.
var ErrSessionLease = errors.New("lease of the session")

// LeaseFault is why a lease of a session was refused.
type LeaseFault string

// The faults. Clients are told these texts.
const (
	// LeaseNone: the session was created without one, or its creator has given it up.
	LeaseNone LeaseFault = "NONE"
	// LeaseToken: the token is that of no lease, or of another session.
	LeaseToken LeaseFault = "TOKEN"
	// LeaseOver: it was not renewed in time.
	LeaseOver LeaseFault = "OVER"
)

// A CreatorError says why a lease of a session was refused. It is
// ErrSessionLease.
type CreatorError struct {
	Session string
	Fault   LeaseFault
	Ended   time.Time // of LeaseOver
}

// Error says what is wrong with it.
func (e *CreatorError) Error() string {
	switch e.Fault {
	case LeaseNone:
		return fmt.Sprintf("%v %s: its creator has none", ErrSessionLease, e.Session)
	case LeaseToken:
		return fmt.Sprintf("%v %s: the token is not that of its creator", ErrSessionLease, e.Session)
	case LeaseOver:
	}
	return fmt.Sprintf("%v %s: it has ended at %s, because it was not renewed in time", ErrSessionLease, e.Session, e.Ended.Format(time.RFC3339))
}

// Unwrap returns the sentinel.
func (e *CreatorError) Unwrap() error { return ErrSessionLease }

// A CreatorLease binds a session to whoever created it: when it is not renewed for
// so long, the processes of the session are stopped, as their policies say.
type CreatorLease struct {
	// Duration is at most Config.MaxLeaseDuration.
	Duration time.Duration
}

func (l *CreatorLease) check(longest time.Duration) error {
	if l != nil && (l.Duration <= 0 || l.Duration > longest) {
		return argument("lease duration %v of a session: want more than 0, up to %v", l.Duration, longest)
	}
	return nil
}

// A creatorRecord is what outlives the daemon of a creator's lease. When it would
// end does not: while no daemon runs nobody can renew it.
type creatorRecord struct {
	Token    []byte        `json:"token"`
	Duration time.Duration `json:"duration"`
	// Ended is when it was not renewed in time.
	Ended time.Time `json:"ended,omitzero"`
}

// A creator is the creator's lease of a session; nil where there is none. The
// session's mutex guards it.
type creator struct {
	creatorRecord
	expires time.Time // zero while it does not run
	timer   *time.Timer
	// run tells a timer that fires late from the one that counts.
	run uint64
}

func newCreator(spec *CreatorLease) *creator {
	if spec == nil {
		return nil
	}
	token := newToken()
	return &creator{creatorRecord: creatorRecord{Token: token[:], Duration: spec.Duration}}
}

// recordLocked returns what is written down; nil for none.
func (c *creator) recordLocked() *creatorRecord {
	if c == nil {
		return nil
	}
	kept := c.creatorRecord
	return &kept
}

// A CreatorLeaseInfo is a look at the creator's lease.
type CreatorLeaseInfo struct {
	Duration time.Duration
	Expires  time.Time // when it ends unless it is renewed; zero once it has
	Ended    time.Time // when it was not renewed in time; zero as long as it was
}

func (c *creator) lookLocked() *CreatorLeaseInfo {
	if c == nil {
		return nil
	}
	return &CreatorLeaseInfo{Duration: c.Duration, Expires: c.expires, Ended: c.Ended}
}

// LeaseToken returns what proves the creator's lease; nil where there is none. Only
// the creator is told.
func (s *Session) LeaseToken() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.creator == nil {
		return nil
	}
	return slices.Clone(s.creator.Token)
}

// beginLeaseLocked lets the time of the creator's lease run, from now.
func (s *Session) beginLeaseLocked() {
	c := s.creator
	if c == nil || !c.Ended.IsZero() {
		return
	}
	s.pauseLeaseLocked()
	run := c.run
	c.expires = time.Now().Add(c.Duration)
	c.timer = time.AfterFunc(c.Duration, func() {
		// Joined with the registry, after which nothing is stopped any more: then
		// the next daemon gives the lease its whole time again.
		s.reg.background(func(context.Context) { s.leaseOver(run) })
	})
}

// pauseLeaseLocked stops the time of the creator's lease.
func (s *Session) pauseLeaseLocked() {
	c := s.creator
	if c == nil {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.timer, c.expires = nil, time.Time{}
	c.run++
}

// leaseOver ends the creator's lease because it was not renewed.
func (s *Session) leaseOver(run uint64) {
	s.mu.Lock()
	c := s.creator
	if c == nil || c.run != run || s.gone {
		s.mu.Unlock()
		return
	}
	s.pauseLeaseLocked()
	c.Ended = time.Now()
	s.note(keySession, s.recordLocked()) // before anything is stopped for it
	procs := slices.Clone(s.procs)
	s.mu.Unlock()
	s.reg.log.Info("the creator's lease has ended", "session", s.name, "uid", s.uid, "after", c.Duration)
	s.tell(Event{Type: EventCreatorLost, Detail: fmt.Sprintf("it was not renewed for %v", c.Duration)})
	s.stopForLease(procs)
}

// stopForLease stops processes because the creator's lease has ended.
func (s *Session) stopForLease(procs []*Process) {
	for i, p := range procs {
		procs[i] = p.stop(CauseLeaseEnded, p.record.Stop.over(s.reg.config().stopDefaults()))
	}
	for _, p := range procs {
		p.climb()
	}
}

// resumeLease goes on with the lease of a session that an earlier daemon had: its
// whole time runs again, because nobody could renew it. What was to be stopped for
// one that had ended, and is on no ladder yet, is stopped now.
func (s *Session) resumeLease() {
	s.mu.Lock()
	s.beginLeaseLocked()
	ended := s.creator != nil && !s.creator.Ended.IsZero()
	procs := slices.Clone(s.procs)
	s.mu.Unlock()
	if ended {
		// A start may be under way, and is waited for.
		s.reg.background(func(context.Context) { s.stopForLease(slices.DeleteFunc(procs, (*Process).stopping)) })
	}
}

// refuseUnleased refuses to start a process in a session whose creator's lease has
// ended: nobody would stop it.
func (s *Session) refuseUnleased() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refuseUnleasedLocked()
}

func (s *Session) refuseUnleasedLocked() error {
	if c := s.creator; c != nil && !c.Ended.IsZero() {
		return &CreatorError{Session: s.name, Fault: LeaseOver, Ended: c.Ended}
	}
	return nil
}

// proveLocked refuses a caller that is not the creator.
func (s *Session) proveLocked(token []byte) error {
	c := s.creator
	switch {
	case c == nil:
		return &CreatorError{Session: s.name, Fault: LeaseNone}
	case subtle.ConstantTimeCompare(c.Token, token) != 1:
		return &CreatorError{Session: s.name, Fault: LeaseToken}
	}
	return s.refuseUnleasedLocked()
}

// Renew makes the creator's lease, which the token proves, last from now on; for
// another duration if that is not 0. Errors: *CreatorError, ErrArgument.
func (s *Session) Renew(token []byte, duration time.Duration) (CreatorLeaseInfo, error) {
	longest := s.reg.config().MaxLeaseDuration
	if duration < 0 || duration > longest {
		return CreatorLeaseInfo{}, argument("lease duration %v of a session: want 0, which is as before, to %v", duration, longest)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.openableLocked(); err != nil {
		return CreatorLeaseInfo{}, err
	}
	if err := s.proveLocked(token); err != nil {
		return CreatorLeaseInfo{}, err
	}
	if c := s.creator; duration != 0 && duration != c.Duration {
		c.Duration = duration
		s.note(keySession, s.recordLocked())
	}
	s.beginLeaseLocked()
	return *s.creator.lookLocked(), nil
}

// ReleaseLease gives the creator's lease up, which the token proves: the session is
// bound to nobody any more, and nothing is stopped. Where there is none any more
// that is no error, so that it can be repeated.
func (s *Session) ReleaseLease(token []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.creator == nil {
		return nil
	}
	if err := s.proveLocked(token); err != nil {
		return err
	}
	s.pauseLeaseLocked()
	s.creator = nil
	s.note(keySession, s.recordLocked())
	return nil
}
