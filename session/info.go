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
	Lease     *CreatorLeaseInfo // nil where it is bound to nobody
}

// State is where a session is.
type State uint8

// The states of a session.
const (
	Active State = iota + 1
	Ended
)

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
	// Finals are the last words about those directions of its pipes that have
	// ended, when it is not running.
	Finals []Final
}

// Info returns a look at the process.
func (p *Process) Info() ProcessInfo {
	info := ProcessInfo{Name: p.name, Pid: p.child.Pid(), Args: p.args, Started: p.started, Inherits: p.inherits, Running: p.Running()}
	p.mu.Lock()
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

// Info returns a look at the session; with holders it asks the whole system who
// holds its ends, which takes a while.
func (s *Session) Info(ctx context.Context, holders bool) (Info, error) {
	ended, over := s.Ended()
	s.mu.Lock()
	pipes, procs, lease := slices.Clone(s.pipes), slices.Clone(s.procs), s.creator.lookLocked()
	s.mu.Unlock()
	info := Info{Name: s.name, UID: s.uid, Labels: maps.Clone(s.labels), Created: s.created, Lease: lease}
	if over {
		info.Ended, info.Expires = ended, ended.Add(s.reg.config().EndedFor)
	}
	for _, p := range pipes {
		info.Pipes = append(info.Pipes, p.Info())
	}
	for _, p := range procs {
		info.Processes = append(info.Processes, p.Info())
	}
	if !holders {
		return info, nil
	}
	return info, s.reg.holders(ctx, pipes, info.Pipes)
}

// Info returns a look at the pipe, without holders.
func (p *Pipe) Info() PipeInfo {
	info := PipeInfo{Name: p.name, Kind: p.kind, In: p.in, Out: p.out}
	for _, e := range p.ends {
		info.Ends = append(info.Ends, e.info())
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
			infos[i].Ends[j].Holders = merge(found[:len(e.ids)])
			found = found[len(e.ids):]
		}
	}
	return nil
}

// merge makes one list of the holders of the one or two descriptors of an end.
func merge(found [][]keeper.Holder) []Holder {
	var all []Holder
	for _, h := range slices.Concat(found...) {
		i := slices.IndexFunc(all, func(a Holder) bool { return a.Pid == h.Pid })
		if i < 0 {
			all = append(all, Holder{Pid: h.Pid, Command: strings.TrimSpace(h.Command), Daemon: h.Pid == os.Getpid()})
			i = len(all) - 1
		}
		for _, fd := range h.FDs {
			if !slices.Contains(all[i].FDs, fd) {
				all[i].FDs = append(all[i].FDs, fd)
			}
		}
	}
	return all
}
