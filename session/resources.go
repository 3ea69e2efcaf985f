package session

import (
	"math"

	"github.com/piped-dev/piped/keeper"
)

const (
	maxWeight = 10_000
	minCPU    = 10 // thousandths: the kernel's least, 1 ms in 100 ms
)

// checkResources refuses limits that no kernel takes.
func checkResources(r *keeper.SessionLimits) error {
	switch {
	case r.CPUWeight > maxWeight:
		return argument("cpu weight %d: want 1 to %d", r.CPUWeight, maxWeight)
	case r.IOWeight > maxWeight:
		return argument("io weight %d: want 1 to %d", r.IOWeight, maxWeight)
	case r.CPUMax > 0 && r.CPUMax < minCPU:
		return argument("%d thousandths of a CPU: want at least %d", r.CPUMax, minCPU)
	}
	for what, n := range map[string]uint64{"memory max": r.MemoryMax, "memory high": r.MemoryHigh, "pids max": r.PidsMax} {
		if n > math.MaxInt64 {
			return argument("%s %d: leave it out where there is to be no limit", what, n)
		}
	}
	if r.MemoryMax > 0 && r.MemoryHigh > r.MemoryMax {
		return argument("memory high %d is above memory max %d, and would never hold", r.MemoryHigh, r.MemoryMax)
	}
	return nil
}

// confine gives the session its limits, before a process of it is started.
func (s *Session) confine() error {
	if s.resources == (keeper.SessionLimits{}) {
		return nil
	}
	return s.account.Confine(s.resources)
}

// Usage returns what the session uses; nil where it has no cgroup.
func (s *Session) Usage() (*keeper.SessionUsage, error) { return s.account.Usage() }
