package session

import (
	"slices"
	"strconv"

	"github.com/piped-dev/piped/keeper"
)

// A Cause is why a process ended, as far as the daemon had a hand in it.
type Cause uint8

// The causes. Their numbers are recorded.
const (
	// CauseOwn is by itself, or by somebody whom the daemon knows nothing of.
	CauseOwn Cause = iota + 1
	// CauseSignal is a signal that a client had sent.
	CauseSignal
	// CauseStopped, CauseTimeout: it was being stopped, because a client wanted it or
	// because its time was over; also when it returned because its input had ended.
	CauseStopped
	CauseTimeout
	// CauseDeleted: its session was deleted, or ended with the daemon.
	CauseDeleted
	// CauseUnknown: nobody can tell how it ended.
	CauseUnknown
	// CauseOutOfMemory: the kernel had no memory for its session any more.
	CauseOutOfMemory
	// CauseLeaseEnded: it was being stopped because the creator of its session had
	// not renewed the lease.
	CauseLeaseEnded
	// CauseRestarted: it was being stopped to be started again, for a client.
	CauseRestarted
)

// String returns the cause in a word, for logs.
func (c Cause) String() string {
	names := [...]string{CauseOwn: "own", CauseSignal: "signal by a client", CauseStopped: "stopped", CauseTimeout: "timeout",
		CauseDeleted: "deleted", CauseUnknown: "unknown", CauseOutOfMemory: "out of memory",
		CauseLeaseEnded: "lease ended", CauseRestarted: "restarted"}
	if int(c) < len(names) && names[c] != "" {
		return names[c]
	}
	return "cause " + strconv.Itoa(int(c))
}

// causeLocked returns why the process has ended. Nothing that is looked at here is
// changed after the exit, so it stays what it was said to be.
func (p *Process) causeLocked(exit keeper.ExitStatus) Cause {
	l := p.ladder
	byClient := exit.Signal != 0 && slices.Contains(p.record.Signals, exit.Signal)
	switch {
	case exit.OutOfMemory:
		return CauseOutOfMemory
	case p.condemned:
		return CauseDeleted
	case byClient && (l == nil || !l.sent(exit.Signal)):
		return CauseSignal
	case l != nil:
		return l.Cause
	case exit.Unknown:
		return CauseUnknown
	}
	return CauseOwn
}

// condemn notes that the process is about to be ended with its session: it is not
// started again.
func (p *Process) condemn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.condemned = p.condemned || p.Running()
	p.barred, p.record.Plan = true, nil
	p.wakeLocked()
}
