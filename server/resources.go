package server

import (
	"google.golang.org/protobuf/types/known/durationpb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/keeper"
)

func toResources(r *pipedv1.Resources) keeper.SessionLimits {
	return keeper.SessionLimits{
		MemoryMax: r.GetMemoryMax(), MemoryHigh: r.GetMemoryHigh(), CPUMax: uint64(r.GetCpuMaxMillis()),
		CPUWeight: uint64(r.GetCpuWeight()), PidsMax: r.GetPidsMax(), IOWeight: uint64(r.GetIoWeight()),
	}
}

//nolint:gosec // as they were read
func fromResources(l keeper.SessionLimits) *pipedv1.Resources {
	if l == (keeper.SessionLimits{}) {
		return nil
	}
	return &pipedv1.Resources{
		MemoryMax: l.MemoryMax, MemoryHigh: l.MemoryHigh, CpuMaxMillis: uint32(l.CPUMax),
		CpuWeight: uint32(l.CPUWeight), PidsMax: l.PidsMax, IoWeight: uint32(l.IOWeight),
	}
}

func fromSessionUsage(u *keeper.SessionUsage) *pipedv1.SessionUsage {
	if u == nil {
		return nil
	}
	m := &pipedv1.SessionUsage{Memory: counted(u.Memory), MemoryPeak: counted(u.MemoryPeak), CpuTime: durationpb.New(u.CPU),
		Processes: uint64(max(u.Processes, 0)), OomKills: counted(u.OutOfMemory)}
	if u.Throttled >= 0 {
		m.ThrottledTime = durationpb.New(u.Throttled)
	}
	return m
}

// counted returns nil for what nobody counts.
func counted(n int64) *uint64 {
	if n < 0 {
		return nil
	}
	return new(uint64(n))
}
