package session

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/piped-dev/piped/keeper"
)

// RestartMode is when a process that has exited is started again.
type RestartMode uint8

// The modes. Their numbers are recorded.
const (
	// RestartNever is not by itself.
	RestartNever RestartMode = iota
	// RestartOnFailure is after another code than 0, a signal, a timeout, or an exit of
	// which nobody can tell how it was.
	RestartOnFailure
	// RestartAlways is after every exit.
	RestartAlways
)

// A RestartPolicy says when a process is started again, as a new incarnation. What
// is zero or nil has a default. Whom a client stops, nobody starts again.
type RestartPolicy struct {
	Mode RestartMode `json:",omitempty"`
	// Backoff is the wait before the first of starts in a row, MaxBackoff the longest;
	// each is Multiplier times as long as the one before, less a random part of it, of
	// Jitter (0 to 1) at most. Defaults: 100 ms, 30 s, 2, 0.1.
	Backoff    time.Duration `json:",omitempty"`
	MaxBackoff time.Duration `json:",omitempty"`
	Multiplier float64       `json:",omitempty"`
	Jitter     *float64      `json:",omitempty"`
	// MaxRestarts bounds the starts in a row; 0: nothing does.
	MaxRestarts uint32 `json:",omitempty"`
	// HealthyAfter is how long a process has run that was well: then waits and count
	// begin anew. Default: 10 s; 0: it never was.
	HealthyAfter *time.Duration `json:",omitempty"`
}

// The defaults and bounds of a policy.
const (
	defaultBackoff    = 100 * time.Millisecond
	defaultMaxBackoff = 30 * time.Second
	defaultMultiplier = 2
	defaultJitter     = 0.1
	defaultHealthy    = 10 * time.Second
	minBackoff        = 10 * time.Millisecond
	maxBackoff        = 24 * time.Hour
	maxMultiplier     = 1000
)

// restarts reports whether the policy starts anything again. It may be nil.
func (p *RestartPolicy) restarts() bool { return p != nil && p.Mode != RestartNever }

// check refuses a policy that makes no sense. It may be nil.
func (p *RestartPolicy) check() error {
	if p == nil {
		return nil
	}
	switch {
	case p.Mode > RestartAlways:
		return argument("restart mode %d: want never, on-failure or always", p.Mode)
	case p.Backoff != 0 && (p.Backoff < minBackoff || p.Backoff > maxBackoff):
		return argument("initial backoff %v: want %v to %v", p.Backoff, minBackoff, maxBackoff)
	case p.MaxBackoff != 0 && (p.MaxBackoff < p.first() || p.MaxBackoff > maxBackoff):
		return argument("longest backoff %v: want at least the first one, %v, and at most %v", p.MaxBackoff, p.first(), maxBackoff)
	case p.Multiplier != 0 && !(p.Multiplier >= 1 && p.Multiplier <= maxMultiplier): // also what is no number
		return argument("backoff multiplier %v: want 1 to %d", p.Multiplier, maxMultiplier)
	case p.Jitter != nil && !(*p.Jitter >= 0 && *p.Jitter <= 1):
		return argument("jitter %v: want 0 to 1", *p.Jitter)
	case p.HealthyAfter != nil && (*p.HealthyAfter < 0 || *p.HealthyAfter > maxTimeout):
		return argument("healthy time %v: want 0 to %v", *p.HealthyAfter, maxTimeout)
	}
	return nil
}

func (p *RestartPolicy) first() time.Duration {
	if p.Backoff == 0 {
		return defaultBackoff
	}
	return p.Backoff
}

func (p *RestartPolicy) longest() time.Duration {
	if p.MaxBackoff == 0 {
		return max(defaultMaxBackoff, p.first())
	}
	return p.MaxBackoff
}

// wait returns how long the nth start in a row, from 1, waits; chance is in [0, 1).
func (p *RestartPolicy) wait(n uint32, chance float64) time.Duration {
	multiplier, jitter := p.Multiplier, defaultJitter
	if multiplier == 0 {
		multiplier = defaultMultiplier
	}
	if p.Jitter != nil {
		jitter = *p.Jitter
	}
	wait := float64(p.first()) * math.Pow(multiplier, float64(n-1))
	wait = min(wait, float64(p.longest())) // also where it is infinite
	return time.Duration(wait * (1 - jitter*chance))
}

// healthy reports whether a process that ran for so long was well.
func (p *RestartPolicy) healthy(ran time.Duration) bool {
	after := defaultHealthy
	if p.HealthyAfter != nil {
		after = *p.HealthyAfter
	}
	return after > 0 && ran >= after
}

// wants reports whether a process that ended so is started again. It may be nil.
func (p *RestartPolicy) wants(exit keeper.ExitStatus, cause Cause) bool {
	if !p.restarts() {
		return false
	}
	failed := exit.Unknown || exit.Signal != 0 || exit.Code != 0 || cause == CauseTimeout
	return p.Mode == RestartAlways || failed
}

// checkRestart refuses a process that cannot be started twice. anew says of a pipe
// whether it is made for the process, and so for each of its incarnations.
func (s *ProcessSpec) checkRestart(anew func(pipe string) bool) error {
	if !s.Restart.restarts() {
		return nil
	}
	if name, found := s.handsOverForGood(anew); found {
		return argument("restart: an end of pipe %q is handed over, and there is none for the next start: "+
			"create the pipe in the request that creates the session with the process, and hand over end 2; or leave hand_over out", name)
	}
	return nil
}

// handsOverForGood returns a pipe of which an end is handed over that is not made
// anew.
func (s *ProcessSpec) handsOverForGood(anew func(pipe string) bool) (name string, found bool) {
	i := slices.IndexFunc(s.Inherits, func(in Inherit) bool { return in.HandOver && !anew(in.Pipe) })
	if i < 0 {
		return "", false
	}
	return s.Inherits[i].Pipe, true
}

// An origin is what a process was started from, and each of its incarnations is. It
// is recorded before the first one is.
type origin struct {
	Spec ProcessSpec `json:"spec"`
	// Stdio and Stderr are the pipes of its standard streams, Pipes those that the
	// session was created with and whose ends 2 were handed over to it. All are made
	// anew for each incarnation.
	Stdio  string     `json:"stdio,omitempty"`
	Stderr string     `json:"stderr,omitempty"`
	Pipes  []PipeSpec `json:"pipes,omitempty"`
	// Request and Digest are those of the request that started the first one.
	Request string `json:"request,omitempty"`
	Digest  []byte `json:"digest,omitempty"`
}

// makes reports whether a pipe is made anew for each incarnation. It may be nil.
func (o *origin) makes(name string) bool {
	return o != nil && name != "" && (name == o.Stdio || name == o.Stderr ||
		slices.ContainsFunc(o.Pipes, func(p PipeSpec) bool { return p.Name == name }))
}

// restartable says why a process cannot be started again.
func (o *origin) restartable() error {
	if o == nil {
		return fmt.Errorf("%w: the daemon that started it did not keep what it was started from", ErrNotRestartable)
	}
	if name, found := o.Spec.handsOverForGood(o.makes); found {
		return fmt.Errorf("%w: an end of pipe %q was handed over to it for good", ErrNotRestartable, name)
	}
	return nil
}

// A fate is what a client has decided about a process: it comes before its policy.
type fate uint8

// The fates. Their numbers are recorded.
const (
	fateStay  fate = iota + 1 // it is not started again
	fateAgain                 // it is started again, at once
)

// A plan is a start to come. It is recorded, so that the next daemon has it too.
type plan struct {
	Due time.Time `json:"due"`
	// Streak counts the starts in a row by the policy, this one included; 0: a client
	// wants it.
	Streak uint32 `json:"streak,omitempty"`
	// Failure is why the attempt before failed.
	Failure string `json:"failure,omitempty"`
	// Request and Digest are those of the client's request.
	Request string `json:"request,omitempty"`
	Digest  []byte `json:"digest,omitempty"`
}
