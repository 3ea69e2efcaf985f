package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/piped-dev/piped/failpoint"
	"github.com/piped-dev/piped/keeper"
)

// A Process is one incarnation. What follows its exit is decided once, and
// recorded: nothing, or a plan for the next incarnation, which then takes its place
// under the same name. So there is one next incarnation for each exit at most,
// whatever dies when: the plan says when, and the record of the next one, which is
// there before its start, that it was begun.

// again is how long a start waits that could not be made because the keeper was
// away, which is no failure of the program.
const again = time.Second

// decideLocked decides what follows the exit, if it has come and that was not done.
func (p *Process) decideLocked() {
	if p.decided || p.Running() {
		return
	}
	p.decided = true
	r := &p.record
	if p.barred || r.Plan != nil || r.Failure != "" {
		return
	}
	exit := p.child.Exit()
	switch {
	case r.Fate == fateStay:
		return
	case r.Fate == fateAgain:
		r.Plan = &plan{Due: time.Now()}
		if r.Again != nil {
			r.Plan.Request, r.Plan.Digest = r.Again.Request, r.Again.Digest
		}
	case p.policy().wants(exit, p.causeLocked(exit)):
		streak := r.Streak
		if p.policy().healthy(exit.Time.Sub(p.started)) {
			streak = 0
		}
		since := exit.Time
		if since.IsZero() { // nobody knows
			since = time.Now()
		}
		p.planLocked(streak+1, since, "")
	default:
		return
	}
	p.noteLocked()
}

// policy returns when it is started again; it may be nil.
func (p *Process) policy() *RestartPolicy {
	if p.origin == nil {
		return nil
	}
	return p.origin.Spec.Restart
}

// planLocked plans the nth start in a row, for a wait that began at a time, unless
// those were enough.
func (p *Process) planLocked(n uint32, since time.Time, failure string) {
	policy, r := p.policy(), &p.record
	if most := policy.MaxRestarts; most > 0 && n > most {
		r.Plan = nil
		r.Failure = fmt.Sprintf("it was started %d times in a row, which is all that its policy allows", most)
		if failure != "" {
			r.Failure += ": " + failure
		}
		return
	}
	wait := policy.wait(n, rand.Float64()) //nolint:gosec // nothing secret is made of it
	// What has passed was at the keeper's clock, what comes is at ours: a step of the
	// clock in between makes the wait no longer than it is.
	now := time.Now()
	passed := min(max(now.Sub(since), 0), wait)
	r.Plan = &plan{Due: now.Add(wait - passed), Streak: n, Failure: failure}
}

// returning reports whether it has exited and is started again.
func (p *Process) returning() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decideLocked()
	return p.record.Plan != nil || p.launching != nil
}

// lives reports whether it runs or is started again.
func (p *Process) lives() bool { return p.Running() || p.returning() }

// latest returns the incarnation of the process that is there now.
func (p *Process) latest() *Process {
	for {
		p.mu.Lock()
		replaced := p.replaced
		p.mu.Unlock()
		if !replaced {
			return p
		}
		next, err := p.session.Process(p.name)
		if err != nil {
			return p // processes are replaced, not removed
		}
		p = next
	}
}

// cancelLocked lets the process, which has exited, not be started again. If a start
// is under way, or was made, it does nothing and returns what is closed when that
// is over.
func (p *Process) cancelLocked() (busy <-chan struct{}) {
	switch {
	case p.launching != nil:
		return p.launching
	case p.replaced:
		return closedChannel
	case !p.decided:
		again := p.record.Fate == fateAgain || p.policy().restarts()
		p.record.Fate = fateStay
		p.decideLocked()
		if again {
			p.noteLocked()
		}
	}
	if p.record.Plan == nil {
		return nil
	}
	p.record.Plan, p.record.Fate, p.record.Failure = nil, fateStay, "it was stopped before its next start"
	p.noteLocked()
	p.wakeLocked()
	return nil
}

// proceed lets happen what follows the exit.
func (p *Process) proceed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decideLocked()
	switch {
	case p.record.Plan != nil:
		p.superviseLocked()
	case p.record.Failure != "" && !p.toldFailure:
		p.session.reg.background(func(context.Context) { p.tellGaveUp() })
	}
}

// superviseLocked has a goroutine carry the plan out, unless there is one.
func (p *Process) superviseLocked() {
	if !p.supervised {
		p.supervised = true
		p.session.reg.background(p.supervise)
	}
}

// supervise starts the next incarnation when it is due, as often as it takes. It
// ends with that, with the plan, or with the registry, which leaves the plan to the
// next daemon.
func (p *Process) supervise(ctx context.Context) {
	p.session.tellExit(p) // before what follows
	told := (*plan)(nil)
	for {
		p.mu.Lock()
		due := p.record.Plan
		moved := p.movedLocked()
		over := due == nil || ctx.Err() != nil || p.replaced
		if over {
			p.supervised = false
		}
		gone, gaveUp := p.barred, p.record.Plan == nil && !p.replaced
		p.mu.Unlock()
		if over {
			if gaveUp && !gone {
				p.tellGaveUp()
			}
			p.session.Ended()
			return
		}
		if due != told {
			told = due
			p.tellRestarting()
		}
		timer := time.NewTimer(time.Until(due.Due))
		select {
		case <-timer.C:
			if p.startNext(ctx) {
				break
			}
			select {
			case <-moved:
			case <-ctx.Done():
			}
		case <-moved:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// startNext tries to start the next incarnation. Whatever comes of it is told by
// what is recorded, and wakes who waits. It reports false when the registry is ending.
func (p *Process) startNext(ctx context.Context) bool {
	s := p.session
	leave, err := s.reg.enter()
	if err != nil {
		return false
	}
	defer leave()
	s.starting.Lock()
	defer s.starting.Unlock()
	p.mu.Lock()
	if p.record.Plan == nil {
		p.mu.Unlock()
		return true
	}
	due, launching := *p.record.Plan, make(chan struct{})
	p.launching = launching
	p.mu.Unlock()

	err = s.startAgain(ctx, p, &due)

	p.mu.Lock()
	switch {
	case err == nil:
		p.replaced, p.record.Plan = true, nil
	case ctx.Err() != nil: // the plan stays for the next daemon
	default:
		p.failedLocked(&due, err)
	}
	p.launching = nil
	close(launching)
	p.wakeLocked()
	p.mu.Unlock()
	if err == nil {
		s.retire(p)
	}
	return true
}

// failedLocked makes another plan after an attempt that failed, or none.
func (p *Process) failedLocked(due *plan, err error) {
	p.attempts++
	p.failure = err
	if p.record.Plan == nil { // barred meanwhile
		return
	}
	p.session.reg.log.Warn("process not started again", "session", p.session.name, "process", p.name, "incarnation", p.incarnation+1, "error", err)
	switch {
	case errors.Is(err, keeper.ErrAway):
		kept := *due
		kept.Due, kept.Failure = time.Now().Add(again), err.Error()
		p.record.Plan = &kept
	case p.policy().restarts():
		p.planLocked(due.Streak+1, time.Now(), err.Error())
	default:
		p.record.Plan, p.record.Failure = nil, err.Error()
	}
	p.noteLocked()
}

// startAgain makes the next incarnation of a process that has exited.
func (s *Session) startAgain(ctx context.Context, p *Process, due *plan) error {
	failpoint.Hit("session.before-restart")
	l := s.launchAgain(p, due)
	if err := l.run(ctx); err != nil {
		return err
	}
	failpoint.Hit("session.after-restart")
	return s.replace(p, l)
}

// launchAgain prepares the start of the next incarnation.
func (s *Session) launchAgain(p *Process, due *plan) *launch {
	l := &launch{s: s, spec: &p.origin.Spec, name: p.name, again: p, pipes: make(map[string]*Pipe)}
	s.mu.Lock()
	for _, q := range s.pipes {
		l.pipes[q.name] = q
	}
	s.mu.Unlock()
	l.order = func() int { return 0 }
	copy(l.digest[:], due.Digest)
	l.request = due.Request
	l.proc = &Process{session: s, name: p.name, incarnation: p.incarnation + 1, key: uint32(s.next()), order: p.order, //nolint:gosec // a small number
		args: p.args, inherits: p.inherits, origin: p.origin}
	l.proc.record.Restarts, l.proc.record.Streak = p.record.Restarts+1, due.Streak
	return l
}

// A restartRequest is the content of a client's request.
type restartRequest struct {
	Process string
	Policy  StopPolicy
}

// Restart starts a process anew, for a client: it is stopped first if it runs. It
// goes on when the caller's context ends, whose error is returned then; otherwise
// it returns the incarnation that was started, or why it could not be.
func (s *Session) Restart(ctx context.Context, name, requestID string, policy StopPolicy) (*Process, error) {
	p, err := s.Process(name)
	if err != nil {
		return nil, err
	}
	if isSet(policy.SkipKill) {
		return nil, argument("a restart kills in the end what does not end by itself: leave skip_kill out")
	}
	policy.SkipKill = new(false)
	complete, err := p.stopPolicy(policy)
	if err != nil {
		return nil, err
	}
	if err := p.origin.restartable(); err != nil {
		return nil, fmt.Errorf("process %s: %w", p.name, err)
	}
	asked := restartRequest{p.name, policy}
	id := plan{Request: requestID}
	if requestID != "" {
		d := digestOf(asked)
		id.Digest = d[:]
	}
	return s.restartRequests.once(ctx, requestID, asked, func() (*Process, error) { return p.latest().restart(ctx, &id, complete) })
}

// restart starts the process anew for a request, unless that was done.
func (p *Process) restart(ctx context.Context, id *plan, policy StopPolicy) (*Process, error) {
	if err := errors.Join(p.session.openable(), p.session.refuseUnleased()); err != nil {
		return nil, err
	}
	const notAsked = -1
	attempts := notAsked // that were made when it was asked for
	for {
		// An earlier call with this request may have begun what is done only now.
		if made := p.session.startedBy(p.name, id.Request); made != nil {
			return made, nil
		}
		p.mu.Lock()
		switch {
		case p.replaced:
			p.mu.Unlock()
			if p = p.latest(); attempts != notAsked {
				return p, nil
			}
			continue
		case attempts != notAsked, p.launching != nil: // what comes of it is looked at below
		case p.Running():
			attempts = p.attempts
			p.record.Fate, p.record.Again = fateAgain, &plan{Request: id.Request, Digest: id.Digest}
			p.mu.Unlock()
			p.begin(CauseRestarted, policy)
			p.climb()
			continue
		case !p.barred:
			attempts = p.attempts
			p.againLocked(id)
		}
		err := p.outcomeLocked(attempts)
		moved := p.movedLocked()
		p.mu.Unlock()
		if err == nil {
			err = p.awaitNext(ctx, moved)
		}
		if err != nil {
			return nil, err
		}
	}
}

// againLocked plans a start of the process, which has exited, at once.
func (p *Process) againLocked(id *plan) {
	p.decided = true
	p.record.Plan = &plan{Due: time.Now(), Request: id.Request, Digest: id.Digest}
	p.record.Fate, p.record.Failure = fateAgain, ""
	p.noteLocked()
	p.wakeLocked()
	p.superviseLocked()
}

// awaitNext waits for a change, or for the exit of a process that runs.
func (p *Process) awaitNext(ctx context.Context, moved <-chan struct{}) error {
	exited := p.child.Done()
	if !p.Running() {
		exited = nil
	}
	select {
	case <-moved:
	case <-exited:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// outcomeLocked returns why there is no next incarnation for whoever has asked for
// one after so many attempts, nil while it may still come.
func (p *Process) outcomeLocked(attempts int) error {
	p.decideLocked()
	switch {
	case p.barred:
		return fmt.Errorf("%w: %s was deleted", ErrSessionNotFound, p.session.name)
	case attempts < 0 || p.Running():
		return nil
	case p.attempts > attempts && p.failure != nil && !errors.Is(p.failure, keeper.ErrAway):
		return p.failure
	case p.record.Plan == nil && p.launching == nil:
		return fmt.Errorf("%w: %s was stopped before it was started again", ErrExited, p.name)
	}
	return nil
}

// WaitLast waits until the process has exited and is not started again. It returns
// the latest incarnation, also with the context's error.
func (p *Process) WaitLast(ctx context.Context) (*Process, error) {
	for {
		p = p.latest()
		if err := p.Wait(ctx); err != nil {
			return p, err
		}
		p.mu.Lock()
		p.decideLocked()
		over := p.record.Plan == nil && p.launching == nil && !p.replaced
		come, moved := p.replaced, p.movedLocked()
		p.mu.Unlock()
		switch {
		case over:
			return p, nil
		case come:
			continue
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return p, ctx.Err()
		}
	}
}
