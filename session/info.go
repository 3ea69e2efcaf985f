package session

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
)

// An Info is a look at a session.
type Info struct {
	Name, UID string
	Labels    map[string]string
	Created   time.Time
	Ended     time.Time // zero while it is active
	Expires   time.Time // zero while it is active
	Pipes     []PipeInfo
	Processes []ProcessInfo
	Resources keeper.SessionLimits
	Usage     *keeper.SessionUsage // only when asked for; nil where there is no cgroup
	Lease     *CreatorLeaseInfo    // nil where it is bound to nobody
}

// State returns the state of the session.
func (i *Info) State() State {
	if i.Ended.IsZero() {
		return Active
	}
	return Ended
}

// A PipeInfo is a look at a pipe.
type PipeInfo struct {
	Name    string
	Kind    pipe.Kind
	In, Out pipe.Framing
	Ends    []EndpointInfo
	// Terminal is nil where the pipe is none, or where nothing is known of it any
	// more.
	Terminal *pipe.TerminalInfo
	// Incarnation counts from 1; Former are earlier ones that are kept, newest first.
	Incarnation uint64
	Former      []PipeInfo
	// Unread counts, of an earlier one, the messages that were sent into it and that the
	// process had not read.
	Unread uint64
}

// EndpointState is whether the daemon holds a copy of an end.
type EndpointState uint8

// The states of an endpoint.
const (
	EndpointOpen EndpointState = iota
	EndpointClosing
	EndpointClosed
	EndpointHandedOver
)

// An EndpointInfo is a look at an endpoint.
type EndpointInfo struct {
	End            int
	State          EndpointState
	Sealed, Shared bool
	Outbox         *pipe.OutboxInfo // nil where the end cannot send
	Inbox          *pipe.InboxInfo  // nil where the end cannot receive
	// Writer and Reader are the clients that write and consume now; WriterLease and
	// ReaderLease also those that have the right to. Empty, and nil: nobody.
	Writer, Reader           string
	WriterLease, ReaderLease *Lease
	Holders                  []Holder // only when asked for
}

// A Holder has a copy of an end.
type Holder struct {
	Pid     int
	Command string
	FDs     []int
	Daemon  bool
	// Reads and Writes say what it can do with the end.
	Reads, Writes bool
	keeper.Origin
	// Process is the process of the session that it is, or descends from as far as that
	// can be told; empty otherwise.
	Process string
}

// A ProcessInfo is a look at a process.
type ProcessInfo struct {
	Name     string
	Pid      int
	Args     []string
	Started  time.Time
	Running  bool
	Exit     keeper.ExitStatus // when it is not running
	Cause    Cause             // when it is not running
	Deadline time.Time         // when its time is over; zero: never
	Stopping *Stopping         // nil if nobody has stopped it
	Inherits []Inherit
	// Confined: it was born in a cgroup of its own.
	Confined bool
	// Incarnation counts the starts from 1; Restarts is how many there were after the
	// first. Former are earlier ones, see [Process.Former].
	Incarnation, Restarts uint64
	Former                []ProcessInfo
	// Next is when it is started again; zero: it is not, or it runs. Failure is why the
	// attempt before failed, or why it is not started again although it was to be.
	Next    time.Time
	Failure string
	// Finals are the last words about those directions of its pipes that have
	// ended, when it is not running.
	Finals []Final
}

// Info returns a look at the process, without those before it.
func (p *Process) Info() ProcessInfo {
	info := ProcessInfo{Name: p.name, Pid: p.child.Pid(), Args: p.args, Started: p.started, Inherits: p.inherits, Running: p.Running(),
		Confined: p.child.Confined(), Incarnation: p.incarnation}
	p.mu.Lock()
	if !info.Running {
		p.decideLocked()
		if plan := p.record.Plan; plan != nil {
			info.Next, info.Failure = plan.Due, plan.Failure
		} else {
			info.Failure = p.record.Failure
		}
	}
	info.Restarts = p.record.Restarts
	info.Deadline, info.Stopping = p.record.Deadline, p.stoppingLocked()
	if !info.Running {
		info.Exit = p.child.Exit()
		info.Cause = p.causeLocked(info.Exit)
	}
	p.mu.Unlock()
	if !info.Running {
		info.Finals = p.finals((*Endpoint).final)
	}
	return info
}

// Former returns a look at the incarnations before this one that are kept, newest
// first, if this is the current one.
func (p *Process) Former() (infos []ProcessInfo) {
	s := p.session
	s.mu.Lock()
	kept := slices.Clone(s.former)
	current := slices.Contains(s.procs, p)
	s.mu.Unlock()
	for _, f := range slices.Backward(kept) {
		if current && f.proc.name == p.name {
			infos = append(infos, f.proc.Info())
		}
	}
	return infos
}

// formerPipes adds a look at the earlier incarnations of pipes.
func (s *Session) formerPipes(pipes []PipeInfo) {
	s.mu.Lock()
	kept := slices.Clone(s.former)
	s.mu.Unlock()
	for i := range pipes {
		for _, f := range slices.Backward(kept) {
			for _, p := range f.pipes {
				if p.name == pipes[i].Name {
					info := p.Info()
					f.proc.mu.Lock()
					info.Unread = f.proc.record.Unread[p.name]
					f.proc.mu.Unlock()
					pipes[i].Former = append(pipes[i].Former, info)
				}
			}
		}
	}
}

// Info returns a look at the session; with holders it asks the whole system who
// holds its ends, which takes a while.
func (s *Session) Info(ctx context.Context, holders bool) (Info, error) {
	ended, over := s.Ended()
	s.mu.Lock()
	pipes, procs, lease := slices.Clone(s.pipes), slices.Clone(s.procs), s.creator.lookLocked()
	s.mu.Unlock()
	info := Info{Name: s.name, UID: s.uid, Labels: maps.Clone(s.labels), Created: s.created, Resources: s.resources, Lease: lease}
	if over {
		info.Ended, info.Expires = ended, ended.Add(s.reg.config().EndedFor)
	}
	for _, p := range pipes {
		info.Pipes = append(info.Pipes, p.Info())
	}
	s.formerPipes(info.Pipes)
	for _, p := range procs {
		look := p.Info()
		look.Former = p.Former()
		info.Processes = append(info.Processes, look)
	}
	if !holders {
		return info, nil
	}
	return info, s.reg.holders(ctx, pipes, info.Pipes)
}

// Info returns a look at the pipe, without holders.
func (p *Pipe) Info() PipeInfo {
	info := PipeInfo{Name: p.name, Kind: p.kind, In: p.in, Out: p.out, Incarnation: p.incarnation}
	for _, e := range p.ends {
		info.Ends = append(info.Ends, e.info())
	}
	if look, ok := p.ends[0].ep.Terminal(); ok {
		info.Terminal = &look
	}
	return info
}

func (e *Endpoint) info() EndpointInfo {
	info := EndpointInfo{End: e.num, Sealed: e.ep.Sealed()}
	if in, err := e.ep.Inbox(); err == nil {
		look := in.Info()
		info.Inbox = &look
	}
	if out, err := e.ep.Outbox(); err == nil {
		look := out.Info()
		info.Outbox = &look
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	info.Shared = len(e.heirs) > 0
	info.WriterLease, info.Writer = e.writing.look(), e.writing.client()
	info.ReaderLease, info.Reader = e.consuming.look(), e.consuming.client()
	select {
	case <-e.ep.Closed():
		info.State = EndpointClosed
	default:
		if e.ep.Closing() {
			info.State = EndpointClosing
		}
	}
	if e.handedTo != "" {
		info.State = EndpointHandedOver
	}
	return info
}

// holders fills in who holds the ends of pipes.
func (r *Registry) holders(ctx context.Context, pipes []*Pipe, infos []PipeInfo) error {
	var ids []keeper.End
	for _, p := range pipes {
		for _, e := range p.ends {
			ids = append(ids, e.ids...)
		}
	}
	found, err := r.link.Holders(ctx, ids)
	if err != nil {
		return err
	}
	for i, p := range pipes {
		for j, e := range p.ends {
			holders := merge(e.ids, found[:len(e.ids)])
			for k := range holders {
				if h := &holders[k]; !h.Daemon {
					h.Process = e.session.familyOf(h)
				}
			}
			infos[i].Ends[j].Holders = holders
			found = found[len(e.ids):]
		}
	}
	return nil
}

// merge makes one list of the holders of the one or two descriptors of an end.
func merge(ids []keeper.End, found [][]keeper.Holder) []Holder {
	var all []Holder
	for n, list := range found {
		for _, h := range list {
			i := slices.IndexFunc(all, func(a Holder) bool { return a.Pid == h.Pid })
			if i < 0 {
				all = append(all, Holder{Pid: h.Pid, Command: strings.TrimSpace(h.Command), Daemon: h.Pid == os.Getpid(), Origin: keeper.OriginOf(h.Pid)})
				i = len(all) - 1
			}
			all[i].Reads = all[i].Reads || ids[n].Kind != keeper.PipeWriter
			all[i].Writes = all[i].Writes || ids[n].Kind != keeper.PipeReader
			for _, fd := range h.FDs {
				if !slices.Contains(all[i].FDs, fd) {
					all[i].FDs = append(all[i].FDs, fd)
				}
			}
		}
	}
	return all
}

// generations bounds a walk up the parents of a process: none has as many, unless
// numbers were given out anew meanwhile.
const generations = 64

// familyOf returns the name of the process that a holder is or descends from. Its
// system session tells, as long as it has made none of its own, else its parents, as
// long as they live.
func (s *Session) familyOf(h *Holder) string {
	s.mu.Lock()
	everyone := s.everyProcessLocked()
	s.mu.Unlock()
	leader := func(pid int) string {
		for _, p := range everyone {
			if pid != 0 && p.child.Pid() == pid {
				return p.name
			}
		}
		return ""
	}
	at, pid := h.Origin, h.Pid
	for range generations {
		if name := leader(pid); name != "" {
			return name
		}
		if name := leader(at.SID); name != "" {
			return name
		}
		if pid = at.Parent; pid <= 1 {
			return ""
		}
		at = keeper.OriginOf(pid)
	}
	return ""
}
