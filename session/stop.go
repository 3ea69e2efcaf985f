package session

import (
	"context"
	"slices"
	"time"
)

// Stop ends a process step by step, as the policy says. It goes on when the
// caller's context ends, whose error is returned then; otherwise it returns when
// the process has exited, or when no step is left.
func (p *Process) Stop(ctx context.Context, policy StopPolicy) error {
	policy, err := p.stopPolicy(policy)
	if err != nil {
		return err
	}
	p = p.stop(CauseStopped, policy)
	p.climb()
	return p.waitStopped(ctx)
}

// stop begins a ladder of the process, or of the incarnation of it that is there
// once a start that is under way is done; it returns which. A start takes seconds
// at most.
func (p *Process) stop(cause Cause, policy StopPolicy) *Process {
	for {
		busy := p.begin(cause, policy)
		if busy == nil {
			return p
		}
		<-busy
		p = p.latest()
	}
}

// stopPolicy completes a policy, or refuses it.
func (p *Process) stopPolicy(policy StopPolicy) (StopPolicy, error) {
	cfg := p.session.reg.config()
	if err := policy.check(cfg.MaxStopGrace); err != nil {
		return policy, err
	}
	policy = policy.over(p.record.Stop).over(cfg.stopDefaults())
	return policy, policy.checkSteps()
}

// waitStopped waits until the process has exited or its ladder is over.
func (p *Process) waitStopped(ctx context.Context) error {
	for {
		p.mu.Lock()
		over := p.record.Ladder == nil || p.record.Ladder.Step == StepOver
		moved := p.movedLocked()
		p.mu.Unlock()
		if over {
			return nil
		}
		select {
		case <-p.child.Done():
			return nil
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Stop is [Process.Stop] for all processes of the session at once.
func (s *Session) Stop(ctx context.Context, policy StopPolicy) error {
	s.mu.Lock()
	procs := slices.Clone(s.procs)
	s.mu.Unlock()
	policies := make([]StopPolicy, len(procs))
	for i, p := range procs {
		var err error
		if policies[i], err = p.stopPolicy(policy); err != nil {
			return err
		}
	}
	// All are begun before one moves: an input that several read is closed when all of
	// them are being stopped.
	for i, p := range procs {
		procs[i] = p.stop(CauseStopped, policies[i])
	}
	for _, p := range procs {
		p.climb()
	}
	for _, p := range procs {
		if err := p.waitStopped(ctx); err != nil {
			return err
		}
	}
	return nil
}

// stopDeleted ends the processes of a session that is being deleted as far as one
// of them is to be stopped for that: the others are killed.
func (s *Session) stopDeleted(ctx context.Context) {
	s.mu.Lock()
	procs := slices.Clone(s.procs)
	s.mu.Unlock()
	gentle := func(p *Process) bool { return isSet(p.record.Stop.OnDelete) }
	if !slices.ContainsFunc(procs, gentle) {
		return
	}
	for i, p := range procs {
		if gentle(p) {
			procs[i] = p.stop(CauseDeleted, p.record.Stop.over(s.reg.config().stopDefaults()))
		} else {
			p.condemn()
			_ = p.send(killSignal) // end does it again
		}
	}
	for _, p := range procs {
		p.climb()
	}
	for _, p := range procs {
		if gentle(p) && p.waitStopped(ctx) != nil {
			return
		}
	}
}

// expire stops the process when its time is over.
func (p *Process) expire(ctx context.Context) {
	if p.waitFor(ctx, p.record.Deadline, nil) {
		p.begin(CauseTimeout, p.record.Stop.over(p.session.reg.config().stopDefaults()))
		p.climb()
	}
}

// guard lets the time of a running process run, and a ladder go on that an earlier
// daemon began.
func (p *Process) guard() {
	p.mu.Lock()
	expires := !p.record.Deadline.IsZero() && (p.ladder == nil || p.ladder.Cause != CauseTimeout)
	p.mu.Unlock()
	if expires {
		p.session.reg.background(p.expire)
	}
	p.climb()
}

// A Stopping is how far a ladder has come.
type Stopping struct {
	Step  Step // the last one that was taken; 0: none
	Taken time.Time
	Next  time.Time // when the next one comes; zero: there is none
	Cause Cause
}

// stoppingLocked returns how far the ladder has come; nil if there was none. While
// the process runs that is what is recorded, so that it stays true. It may exit
// before the step that ended it is.
func (p *Process) stoppingLocked() *Stopping {
	l := p.record.Ladder
	if l == nil {
		return nil
	}
	if !p.Running() {
		return &Stopping{Step: p.ladder.Step, Taken: p.ladder.Taken, Cause: p.ladder.Cause}
	}
	_, next, _ := l.next()
	return &Stopping{Step: l.Step, Taken: l.Taken, Next: next, Cause: l.Cause}
}
