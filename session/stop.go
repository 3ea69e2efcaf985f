package session

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"
)

const (
	termSignal = syscall.SIGTERM
	killSignal = syscall.SIGKILL
)

// A Ladder is how long a process has after each step of [Session.Stop].
type Ladder struct {
	Input time.Duration // after its input is closed
	Term  time.Duration // after TERM
}

// DefaultLadder is what Stop uses where nothing else is asked for.
func DefaultLadder() Ladder { return Ladder{Input: 2 * time.Second, Term: 5 * time.Second} }

// Stop ends the processes of the session step by step: close their input, TERM,
// KILL. It goes on when the caller's context ends, whose error is returned then;
// otherwise it returns when all have exited.
func (s *Session) Stop(ctx context.Context, ladder Ladder) error {
	s.mu.Lock()
	procs := slices.Clone(s.procs)
	s.mu.Unlock()
	for _, p := range procs {
		s.reg.background(func(bg context.Context) { p.stop(bg, ladder) })
	}
	for _, p := range procs {
		if err := p.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// stop climbs the ladder. A process that has exited needs nothing.
func (p *Process) stop(ctx context.Context, ladder Ladder) {
	for _, e := range p.inputs {
		// An end that is closed already needs nothing more.
		_ = e.Close(CloseOptions{SendOnly: true})
	}
	if p.exitsWithin(ctx, ladder.Input) {
		return
	}
	if err := p.Signal(termSignal); err == nil && p.exitsWithin(ctx, ladder.Term) {
		return
	}
	_ = p.Signal(killSignal)
}

func (p *Process) exitsWithin(ctx context.Context, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return p.Wait(ctx) == nil || errors.Is(context.Cause(ctx), context.Canceled)
}
