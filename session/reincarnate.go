package session

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// This file finds the incarnations of processes and pipes again.

// nameIn returns the name in a key that may have an incarnation.
func nameIn(key string) string {
	name, _, _ := strings.Cut(key, "~")
	return name
}

// currentPipe returns the key of the latest incarnation of a pipe.
func (h *heirloom) currentPipe(name string) string {
	return current(h.pipeRecords, name, func(r *pipeRecord) uint64 { return r.Incarnation })
}

// currentProcess is the same for a process.
func (h *heirloom) currentProcess(name string) string {
	return current(h.processRecords, name, func(r *processRecord) uint64 { return r.Incarnation })
}

func current[R any](records map[string]*R, name string, incarnation func(*R) uint64) (key string) {
	var last uint64
	for k, r := range records {
		if n := max(incarnation(r), 1); nameIn(k) == name && n > last {
			key, last = k, n
		}
	}
	return key
}

// place puts a process where it belongs: among those that there are, or among the
// incarnations before them, with the pipes that were made for it.
func (h *heirloom) place(p *Process) {
	s := h.s
	if h.currentProcess(p.name) == incarnationKey(p.name, p.incarnation) {
		s.procs = append(s.procs, p)
		return
	}
	f := &former{proc: p}
	for _, q := range h.pipes {
		if q.incarnation == p.incarnation && p.origin.makes(q.name) {
			f.pipes = append(f.pipes, q)
		}
	}
	slices.SortFunc(f.pipes, func(a, b *Pipe) int { return cmp.Compare(a.order, b.order) })
	// The one after it may be there, and what follows its exit is done.
	p.decided, p.record.Plan = true, nil
	s.former = append(s.former, f)
	slices.SortStableFunc(s.former, func(a, b *former) int { return cmp.Compare(a.proc.incarnation, b.proc.incarnation) })
}

// dropSurplus drops the incarnations that are too many, or that the daemon before
// was just dropping: then there are pipes of a process of which nothing is known.
func (h *heirloom) dropSurplus() {
	s := h.s
	s.starting.Lock()
	defer s.starting.Unlock()
	s.mu.Lock()
	known := s.everyPipeLocked()
	procs := slices.Clone(s.procs)
	s.mu.Unlock()
	for _, p := range slices.Collect(maps.Values(h.pipes)) {
		if !slices.Contains(known, p) {
			s.dropPipe(p)
		}
	}
	for _, p := range procs {
		s.dropSurplus(p.name)
	}
}
