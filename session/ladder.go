package session

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
)

// A Step is a step of a ladder.
type Step uint8

// The steps in their order. Their numbers are recorded.
const (
	StepClose  Step = iota + 1 // its input was closed
	StepSignal                 // the signal was sent
	StepKill                   // KILL was sent
	StepOver                   // nothing more is done
	steps
)

// A ladder ends a process step by step. It outlives the daemon in the process's
// record, as it stood after its last step: a step that was cut off is taken again.
type ladder struct {
	Cause  Cause          `json:"cause"`
	Signal syscall.Signal `json:"signal,omitempty"`
	Tree   bool           `json:"tree,omitempty"`
	// Due is when each step comes; zero: it does not.
	Due [steps]time.Time `json:"due"`
	// Step is the last one that was taken, and Taken when.
	Step  Step      `json:"step,omitempty"`
	Taken time.Time `json:"taken,omitzero"`
}

// newLadder begins a ladder now, of a policy that leaves nothing open.
func newLadder(cause Cause, p StopPolicy) *ladder {
	l := &ladder{Cause: cause, Signal: p.Signal, Tree: p.Scope == ScopeTree}
	at := time.Now()
	if !isSet(p.KeepInput) {
		l.Due[StepClose] = at
		at = at.Add(*p.CloseGrace)
	}
	if !isSet(p.SkipSignal) {
		l.Due[StepSignal] = at
		at = at.Add(*p.Grace)
	}
	if isSet(p.SkipKill) {
		l.Due[StepOver] = at
	} else {
		l.Due[StepKill] = at
	}
	return l
}

// join takes the earlier time of each step, so that nobody who stops a process
// waits longer because somebody else does it too.
func (l *ladder) join(other *ladder) {
	if l.Due[StepSignal].IsZero() {
		l.Signal = other.Signal
	}
	for s, due := range other.Due {
		if !due.IsZero() && (l.Due[s].IsZero() || due.Before(l.Due[s])) {
			l.Due[s] = due
		}
	}
	if !l.Due[StepKill].IsZero() {
		l.Due[StepOver] = time.Time{}
	}
	l.Tree = l.Tree || other.Tree
	// What a client wants last counts, and a deletion more than that.
	if other.Cause == CauseDeleted || l.Cause != CauseDeleted && (other.Cause == CauseStopped && l.Cause == CauseRestarted || other.Cause == CauseRestarted) {
		l.Cause = other.Cause
	}
}

// next returns the step that comes next, and when; false when there is none.
func (l *ladder) next() (step Step, due time.Time, more bool) {
	if l.Step >= StepKill {
		return 0, time.Time{}, false
	}
	for s := l.Step + 1; s < steps; s++ {
		if at := l.Due[s]; !at.IsZero() && (step == 0 || at.Before(due)) {
			step, due = s, at
		}
	}
	return step, due, step != 0
}

// take notes that a step is taken now. What comes after one that is late is late
// too: graces begin with what they are given for.
func (l *ladder) take(step Step) {
	now := time.Now()
	if late := now.Sub(l.Due[step]); late > 0 {
		for s := step + 1; s < steps; s++ {
			if !l.Due[s].IsZero() {
				l.Due[s] = l.Due[s].Add(late)
			}
		}
	}
	l.Step, l.Taken = step, now
}

// sent reports whether a signal is one that the ladder has sent.
func (l *ladder) sent(sig syscall.Signal) bool {
	return l.Step == StepKill && sig == killSignal || l.Step >= StepSignal && sig == l.Signal && !l.Due[StepSignal].IsZero()
}

// begin puts the process onto a ladder, or joins the one that it is on. Of one
// that has exited nothing is changed, but that it is not started again for whoever
// does not want that. Nothing moves before climb. While a start of the next
// incarnation is under way, or when that is there, nothing is done: begin returns
// what tells when it is to be asked for then.
func (p *Process) begin(cause Cause, policy StopPolicy) (busy <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ends := cause == CauseStopped || cause == CauseDeleted || cause == CauseLeaseEnded
	if !p.Running() {
		if ends {
			return p.cancelLocked()
		}
		return nil
	}
	switch {
	case ends:
		p.record.Fate, p.record.Again = fateStay, nil
	case cause == CauseRestarted:
		p.record.Fate = fateAgain
	}
	fresh := newLadder(cause, policy)
	if p.ladder == nil || p.ladder.Step == StepOver {
		p.ladder = fresh
	} else {
		p.ladder.join(fresh)
	}
	p.noteLadderLocked()
	return nil
}

// noteLadderLocked records the ladder as it stands and wakes who waits for that.
func (p *Process) noteLadderLocked() {
	kept := *p.ladder
	if p.taking { // that step is not done yet
		kept.Step, kept.Taken = p.record.Ladder.Step, p.record.Ladder.Taken
	}
	p.record.Ladder = &kept
	p.noteLocked()
	p.wakeLocked()
}

// wakeLocked wakes who waits for a change of the ladder, or of what follows the exit.
func (p *Process) wakeLocked() {
	if p.moved != nil {
		close(p.moved)
		p.moved = nil
	}
}

// movedLocked returns a channel that is closed when the ladder, or what follows the
// exit, has changed.
func (p *Process) movedLocked() <-chan struct{} {
	if p.moved == nil {
		p.moved = make(chan struct{})
	}
	return p.moved
}

// climb lets the ladder go on in the background, if it does not already. It ends
// with the process, with the ladder, or with the registry.
func (p *Process) climb() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ladder != nil && !p.climbing {
		p.climbing = true
		p.session.reg.background(p.climbAll)
	}
}

func (p *Process) climbAll(ctx context.Context) {
	swept := false
	for {
		p.mu.Lock()
		step, due, more := p.ladder.next()
		if !more || !p.Running() || ctx.Err() != nil {
			p.climbing = false
			p.mu.Unlock()
			return
		}
		sweep := p.ladder.sweeps()
		moved := p.movedLocked()
		p.mu.Unlock()
		if sweep && !swept {
			swept = true
			p.try("sweep", p.child.SignalGroup(0, true))
		}
		if p.waitFor(ctx, due, moved) {
			p.take(ctx, step)
		}
	}
}

// sweeps reports whether what the process leaves of its group is killed.
func (l *ladder) sweeps() bool { return l.Tree && !l.Due[StepKill].IsZero() }

// waitFor waits for a moment, and reports false if something else comes before it.
func (p *Process) waitFor(ctx context.Context, due time.Time, moved <-chan struct{}) bool {
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-moved:
	case <-p.child.Done():
	case <-ctx.Done():
	}
	return false
}

// take takes a step, and records it when that was done.
func (p *Process) take(ctx context.Context, step Step) {
	p.mu.Lock()
	p.ladder.take(step)
	p.taking = true
	l := *p.ladder
	p.mu.Unlock()
	switch step {
	case StepClose:
		p.closeInputs()
	case StepSignal:
		p.try("signal", p.signalAll(l, l.Signal))
		if l.Signal != killSignal {
			// A process that is stopped acts on nothing else.
			p.try("continue", p.signalAll(l, syscall.SIGCONT))
		}
	case StepKill:
		p.kill(ctx, l)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taking = false
	p.noteLadderLocked()
}

// kill kills the process, also when that takes several attempts: the keeper may be
// away.
func (p *Process) kill(ctx context.Context, l ladder) {
	const again = time.Second
	for err := p.signalAll(l, killSignal); err != nil; err = p.signalAll(l, killSignal) {
		p.try("kill", err)
		if !p.waitFor(ctx, time.Now().Add(again), nil) {
			return
		}
	}
}

// signalAll sends a signal to whom the ladder is for.
func (p *Process) signalAll(l ladder, sig syscall.Signal) error {
	err := p.child.Signal(sig)
	if l.Tree {
		err = p.child.SignalGroup(sig, l.sweeps())
	}
	if errors.Is(err, keeper.ErrExited) {
		return nil
	}
	return err
}

// try logs what went wrong on the way; the next step comes anyway.
func (p *Process) try(what string, err error) {
	if err != nil && !errors.Is(err, keeper.ErrExited) {
		p.session.reg.log.Warn("a step of stopping a process failed", "session", p.session.name, "process", p.name, "step", what, "error", err)
	}
}

// closeInputs closes the daemon's sending ends of what the process reads; what was
// accepted is handed over before. An input that another process reads too, which
// is not being stopped, stays open.
func (p *Process) closeInputs() {
	for _, e := range p.inputs {
		if slices.ContainsFunc(e.otherHeirs(), func(o *Process) bool { return o != p && o.Running() && !o.stopping() }) {
			continue
		}
		// An end that is closed already needs nothing more. A terminal in raw mode has
		// no end of input, but it has a hangup; an interactive shell takes nothing else
		// for its end, not even TERM. What the process still says comes through.
		if err := e.Close(CloseOptions{SendOnly: true}); errors.Is(err, pipe.ErrTerminalRaw) {
			p.try("hangup", p.send(syscall.SIGHUP))
		}
	}
}

func (p *Process) stopping() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ladder != nil
}
