package session

import (
	"cmp"
	"syscall"
	"time"
)

const (
	termSignal = syscall.SIGTERM
	killSignal = syscall.SIGKILL
)

// A Scope is who is signalled when a process is stopped.
type Scope uint8

// The scopes. Their numbers are recorded.
const (
	// ScopeLeader is the process alone; so is no scope at all.
	ScopeLeader Scope = iota + 1
	// ScopeTree is the process and those of its descendants that are in its process
	// group; what is left of that when the process exits is killed.
	ScopeTree
)

// A StopPolicy says how a process is stopped: its input is closed, a signal is
// sent, it is killed. What is nil or zero is taken from the policy below it: below
// that of a call lies that of the process, below that are the defaults of [Config].
type StopPolicy struct {
	// CloseGrace is how long the process has after its input is closed, which
	// includes handing over what was accepted.
	CloseGrace *time.Duration `json:",omitempty"`
	// KeepInput leaves the input open and begins with the signal.
	KeepInput *bool `json:",omitempty"`
	// Signal asks it to end.
	Signal syscall.Signal `json:",omitempty"`
	// Grace is how long the process has after the signal.
	Grace *time.Duration `json:",omitempty"`
	// SkipSignal sends none, SkipKill leaves the process running in the end.
	SkipSignal *bool `json:",omitempty"`
	SkipKill   *bool `json:",omitempty"`
	Scope      Scope `json:",omitempty"`
	// OnDelete stops the process so when its session is deleted, instead of killing
	// it at once.
	OnDelete *bool `json:",omitempty"`
}

// over returns the policy with what it leaves open taken from base.
func (p StopPolicy) over(base StopPolicy) StopPolicy {
	return StopPolicy{
		CloseGrace: cmp.Or(p.CloseGrace, base.CloseGrace), KeepInput: cmp.Or(p.KeepInput, base.KeepInput),
		Signal: cmp.Or(p.Signal, base.Signal), Grace: cmp.Or(p.Grace, base.Grace),
		SkipSignal: cmp.Or(p.SkipSignal, base.SkipSignal), SkipKill: cmp.Or(p.SkipKill, base.SkipKill),
		Scope: cmp.Or(p.Scope, base.Scope), OnDelete: cmp.Or(p.OnDelete, base.OnDelete),
	}
}

// stopDefaults is the policy below all others.
func (c *Config) stopDefaults() StopPolicy {
	return StopPolicy{CloseGrace: &c.StopCloseGrace, Grace: &c.StopGrace, Signal: termSignal, Scope: ScopeLeader}
}

const lastSignal = 64

// check refuses what makes no sense in itself; longest bounds either grace.
func (p StopPolicy) check(longest time.Duration) error {
	for _, g := range []struct {
		what string
		d    *time.Duration
	}{{"close grace", p.CloseGrace}, {"grace", p.Grace}} {
		if g.d != nil && (*g.d < 0 || *g.d > longest) {
			return argument("%s %v: want 0 to %v", g.what, *g.d, longest)
		}
	}
	if p.Signal < 0 || p.Signal > lastSignal {
		return argument("signal %d: want 1 to %d", int(p.Signal), lastSignal)
	}
	switch p.Signal {
	case syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGCONT:
		return argument("signal %d (%v) ends no process", int(p.Signal), p.Signal)
	}
	if p.Scope > ScopeTree {
		return argument("scope %d: want leader or tree", p.Scope)
	}
	return p.checkSteps()
}

// checkSteps refuses a policy of which no step is left.
func (p StopPolicy) checkSteps() error {
	if isSet(p.KeepInput) && isSet(p.SkipSignal) && isSet(p.SkipKill) {
		return argument("a stop that leaves the input open, sends no signal and does not kill does nothing")
	}
	return nil
}

func isSet(b *bool) bool { return b != nil && *b }
