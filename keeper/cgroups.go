package keeper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/piped-dev/piped/keeper/wire"
)

// ErrCgroup says that a session cannot have what it is to have, because its keeper has
// no cgroups or a controller is not there; a *CgroupError says which.
var ErrCgroup = errors.New("no cgroup for this")

// A CgroupError says what is missing. It is ErrCgroup.
type CgroupError struct {
	// Controller is the one that is missing; empty if there are no cgroups at all.
	Controller string
	// Why says why, and what would help.
	Why string
}

// Error says what is missing and why.
func (e *CgroupError) Error() string {
	if e.Controller == "" {
		return "sessions have no cgroups here: " + e.Why
	}
	return fmt.Sprintf("the cgroup controller %q is not there: %s", e.Controller, e.Why)
}

// Unwrap returns the sentinel.
func (e *CgroupError) Unwrap() error { return ErrCgroup }

// Cgroups is what a keeper can do with cgroups.
type Cgroups struct {
	// Used says that each session has one, and each process one inside that.
	Used bool
	// Controllers are those that limits can use.
	Controllers []string
	// Why says why there are none; empty if they are used.
	Why string
}

// reasons say why there are no cgroups, by their numbers on the wire.
var reasons = []string{
	0:                        "the keeper is older than this daemon and does not know them: upgrade it",
	wire.CgroupsOff:          "they are turned off: the keeper was started with --cgroup off",
	wire.CgroupsNone:         "cgroup v2 is not mounted, or the keeper is not in it",
	wire.CgroupsNotDelegated: "systemd has not delegated the keeper's cgroup: its unit needs Delegate=yes, and a keeper without a unit has none",
	wire.CgroupsDenied:       "the keeper may not make cgroups in its own one",
	wire.CgroupsOld:          "the kernel is older than Linux 5.14, or a filter of system calls holds back clone3",
}

// cgroupsOf returns what a hello says.
func cgroupsOf(m *wire.Message) Cgroups {
	flags, why := m.Args[6], m.Args[7]
	if flags&wire.Cgroups == 0 {
		if why >= uint64(len(reasons)) { // of a later keeper
			why = wire.CgroupsNone
		}
		return Cgroups{Why: reasons[why]}
	}
	c := Cgroups{Used: true}
	for name, flag := range wire.CgroupControllers {
		if flags&flag != 0 {
			c.Controllers = append(c.Controllers, name)
		}
	}
	slices.SortFunc(c.Controllers, func(a, b string) int { return cmp.Compare(wire.CgroupControllers[a], wire.CgroupControllers[b]) })
	return c
}

// SessionLimits are the limits of a session; 0 means none.
type SessionLimits struct {
	MemoryMax  uint64 `json:"memory_max,omitempty"`  // bytes; above, a process of the session is killed
	MemoryHigh uint64 `json:"memory_high,omitempty"` // bytes; above, the session is slowed down
	CPUMax     uint64 `json:"cpu_max,omitempty"`     // thousandths of a CPU
	CPUWeight  uint64 `json:"cpu_weight,omitempty"`  // 1 to 10,000; others have 100
	PidsMax    uint64 `json:"pids_max,omitempty"`    // processes and threads
	IOWeight   uint64 `json:"io_weight,omitempty"`   // 1 to 10,000; others have 100
}

// values returns the limits in the order of their numbers on the wire.
func (r *SessionLimits) values() [8]uint64 {
	return [8]uint64{r.MemoryMax, r.MemoryHigh, r.CPUMax, r.CPUWeight, r.PidsMax, r.IOWeight}
}

// resourceControllers are the controllers of values.
var resourceControllers = []string{"memory", "memory", "cpu", "cpu", "pids", "io"}

// Check returns a *CgroupError if a keeper cannot limit what is to be limited.
func (c *Cgroups) Check(r SessionLimits) error {
	if r == (SessionLimits{}) {
		return nil
	}
	if !c.Used {
		return &CgroupError{Why: c.Why}
	}
	for i, value := range r.values() {
		if value == 0 {
			continue
		}
		name := resourceControllers[i]
		if !slices.Contains(c.Controllers, name) {
			have := "none"
			if len(c.Controllers) > 0 {
				have = strings.Join(c.Controllers, ", ")
			}
			return &CgroupError{Controller: name,
				Why: "the keeper's cgroup has " + have + ": whoever starts the keeper has to delegate it, as systemd does with Delegate=yes"}
		}
	}
	return nil
}

// Confine gives the session limits in place of those that it has. They are told to
// each keeper that comes. The error is a *CgroupError, [ErrAway] or [ErrClosed], or
// says why the kernel does not take them.
func (a *Account) Confine(r SessionLimits) error {
	l := a.link
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := l.until(ctx, isUp); err != nil {
		return err
	}
	if err := l.info.Cgroups.Check(r); err != nil {
		l.mu.Unlock()
		return err
	}
	before := a.resources
	a.resources = r // so that the next keeper is told, if this one dies in the middle
	l.mu.Unlock()
	_, err := l.callTwice(ctx, &wire.Message{Verb: wire.Confine, UID: a.uid, Args: r.values()})
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		a.resources = before
	}
	if err != nil && !errors.Is(err, ErrAway) && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("%w: %w", ErrCgroup, err)
	}
	return err
}

// confinement returns what the next keeper is told of the limits, nil where there
// are none. The link's lock is held.
func (a *Account) confinement() *wire.Message {
	if a.resources == (SessionLimits{}) {
		return nil
	}
	return &wire.Message{Verb: wire.Confine, UID: a.uid, Args: a.resources.values()}
}

// A SessionUsage is what a session uses, and has used: all its processes with their
// descendants. What no controller counts is -1.
type SessionUsage struct {
	Memory, MemoryPeak int64         // bytes, with what the kernel caches for it
	CPU                time.Duration // of all its processes since it began
	Throttled          time.Duration // that it had to wait because of its limit; negative: not counted
	Processes          int64         // processes and threads where the pids controller is there, else processes
	OutOfMemory        int64         // kills for want of memory; the kernel may count a process more than once
}

// Usage returns what the session uses; nil where it has no cgroup: there are none
// here, or no process of it was started. While the keeper is away nobody can tell, and
// it is nil too.
func (a *Account) Usage() (*SessionUsage, error) {
	l := a.link
	l.mu.Lock()
	if l.state != stateUp || !l.info.Cgroups.Used {
		l.mu.Unlock()
		return nil, nil
	}
	r, err := l.call(&wire.Message{Verb: wire.Measure, UID: a.uid})
	switch {
	case errors.Is(err, errUnknown), errors.Is(err, errDown):
		return nil, nil
	case err != nil:
		return nil, err
	}
	m := wire.MeasuredOf(r.keys)
	if m == nil {
		return nil, errors.New("the keeper answers with something else than what a session uses")
	}
	return &SessionUsage{Memory: m.Memory, MemoryPeak: m.MemoryPeak, CPU: time.Duration(m.CPU) * time.Microsecond,
		Throttled: time.Duration(m.Throttled) * time.Microsecond, Processes: m.Processes, OutOfMemory: m.OutOfMemory}, nil
}
