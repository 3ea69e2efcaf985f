package session

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// AfterExitMode says what becomes of pipes that somebody holds after the process
// that they were given to has exited.
type AfterExitMode uint8

// The modes. Their numbers are recorded.
const (
	// AfterExitWait waits for the end of file, however long that takes; so does no
	// mode at all.
	AfterExitWait AfterExitMode = iota + 1
	// AfterExitEnd ends what comes out of them after the grace, and throws away what
	// comes later; what goes into them is closed.
	AfterExitEnd
	// AfterExitKill kills, at the exit, what the process leaves of its tree, and goes
	// on as AfterExitEnd with whoever has left the tree.
	AfterExitKill
)

// An AfterExit is the policy for pipes that somebody holds after the exit.
type AfterExit struct {
	Mode AfterExitMode `json:",omitempty"`
	// Grace is how long the end of file may take; nil is the default.
	Grace *time.Duration `json:",omitempty"`
}

// defaultAfterExitGrace is for what a pipe still holds to arrive, and for helpers of
// the process to end.
const defaultAfterExitGrace = time.Second

func (a AfterExit) check() error {
	switch {
	case a.Mode > AfterExitKill:
		return argument("after exit: mode %d: want wait, end or kill", a.Mode)
	case a.Grace != nil && a.Mode <= AfterExitWait:
		return argument("after exit: a grace without the mode end or kill does nothing")
	case a.Grace != nil && (*a.Grace < 0 || *a.Grace > maxTimeout):
		return argument("after exit: grace %v: want 0 to %v", *a.Grace, maxTimeout)
	}
	return nil
}

// giveUp ends the pipes of a process that has exited, when their time is over. Its
// record and the time of its exit say when, so it goes on after a kill of the daemon.
func (p *Process) giveUp(ctx context.Context) {
	policy := p.record.AfterExit
	if policy.Mode <= AfterExitWait {
		return
	}
	grace := defaultAfterExitGrace
	if policy.Grace != nil {
		grace = *policy.Grace
	}
	timer := time.NewTimer(time.Until(p.child.Exit().Time.Add(grace)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	for _, e := range p.abandonable() {
		why := fmt.Sprintf("%s has exited, and %s", p.name, e.heldBy(ctx))
		if _, err := e.ep.Inbox(); err == nil {
			if err := e.ep.Abandon(why); err != nil {
				continue
			}
		}
		_ = e.Close(CloseOptions{SendOnly: true, Discard: true}) // one that cannot send needs nothing
		p.session.reg.log.Info("a pipe was given up", "end", e.Ref(), "process", p.name)
	}
	p.session.Ended()
	p.session.reg.sweepSoon()
}

// abandonable returns the daemon's ends of pipes that only the process was given,
// and that somebody still holds. A shared end is the client's own business.
func (p *Process) abandonable() []*Endpoint {
	var all []*Endpoint
	for _, given := range p.given {
		e := given.pipe.ends[2-given.num]
		others := slices.ContainsFunc(e.otherHeirs(), func(o *Process) bool { return o != p && o.Running() })
		if !slices.Contains(all, e) && e.ep.Sealed() && !others && !e.isHandedOver() && !e.ep.HungUp() {
			all = append(all, e)
		}
	}
	return all
}

// heldBy says in words who holds the other end.
func (e *Endpoint) heldBy(ctx context.Context) string {
	const named = 3
	other := e.pipe.ends[2-e.num]
	found, err := e.session.reg.link.Holders(ctx, other.ids)
	if err != nil {
		return "somebody holds the other end"
	}
	holders := slices.DeleteFunc(merge(other.ids, found), func(h Holder) bool { return h.Daemon })
	var names []string
	for _, h := range holders[:min(named, len(holders))] {
		command, _, _ := strings.Cut(h.Command, " ")
		names = append(names, fmt.Sprintf("pid %d (%s)", h.Pid, command))
	}
	if more := len(holders) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	if len(names) == 0 {
		return "somebody held the other end"
	}
	return "the other end is held by " + strings.Join(names, ", ")
}
