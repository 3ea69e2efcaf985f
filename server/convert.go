package server

import (
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

// This file writes responses: the words of session into messages of the
// contract.

func fromInfo(s session.Info) *pipedv1.Session {
	m := &pipedv1.Session{
		Name: s.Name, Uid: s.UID, Labels: s.Labels, State: pipedv1.Session_STATE_ACTIVE,
		CreateTime: timestamp(s.Created), EndTime: timestamp(s.Ended), ExpireTime: timestamp(s.Expires),
		Lease: fromCreatorLease(s.Lease),
	}
	if !s.Ended.IsZero() {
		m.State = pipedv1.Session_STATE_ENDED
	}
	m.Resources, m.Usage = fromResources(s.Resources), fromSessionUsage(s.Usage)
	for _, p := range s.Pipes {
		m.Pipes = append(m.Pipes, fromPipe(p))
	}
	for _, p := range s.Processes {
		m.Processes = append(m.Processes, fromProcess(p))
	}
	return m
}

var kinds = map[pipe.Kind]pipedv1.Pipe_Kind{
	pipe.Duplex: pipedv1.Pipe_KIND_DUPLEX, pipe.OneWay: pipedv1.Pipe_KIND_ONE_WAY,
	pipe.Stdio: pipedv1.Pipe_KIND_STDIO, pipe.StdinOnly: pipedv1.Pipe_KIND_STDIO, pipe.StdoutOnly: pipedv1.Pipe_KIND_STDIO,
	pipe.Terminal: pipedv1.Pipe_KIND_TERMINAL, pipe.TerminalOut: pipedv1.Pipe_KIND_TERMINAL, pipe.TerminalOutOnly: pipedv1.Pipe_KIND_TERMINAL,
}

func fromPipe(p session.PipeInfo) *pipedv1.Pipe {
	m := &pipedv1.Pipe{Name: p.Name, Kind: kinds[p.Kind], FramingIn: fromFraming(p.In), FramingOut: fromFraming(p.Out),
		Incarnation: p.Incarnation, UnreadInput: p.Unread, Terminal: fromTerminal(p)}
	for _, e := range p.Ends {
		m.Endpoints = append(m.Endpoints, fromEndpoint(e, p.Incarnation))
	}
	for _, f := range p.Former {
		m.Former = append(m.Former, fromPipe(f))
	}
	return m
}

func fromFraming(f pipe.Framing) *pipedv1.Framing {
	m := &pipedv1.Framing{Name: f.Name, MaxMessageSize: f.MaxMessage}
	if f.StripCR {
		m.CarriageReturn = pipedv1.CarriageReturn_CARRIAGE_RETURN_STRIP
	}
	return m
}

var endpointStates = map[session.EndpointState]pipedv1.Endpoint_State{
	session.EndpointOpen: pipedv1.Endpoint_STATE_OPEN, session.EndpointClosing: pipedv1.Endpoint_STATE_CLOSING,
	session.EndpointClosed: pipedv1.Endpoint_STATE_CLOSED, session.EndpointHandedOver: pipedv1.Endpoint_STATE_HANDED_OVER,
}

//nolint:gosec // ends, process ids and descriptors are small
func fromEndpoint(e session.EndpointInfo, incarnation uint64) *pipedv1.Endpoint {
	m := &pipedv1.Endpoint{End: uint32(e.End), State: endpointStates[e.State], Sealed: e.Sealed, Shared: e.Shared}
	if o := e.Outbox; o != nil {
		m.Outbox = &pipedv1.Flow{Messages: o.Messages, Bytes: o.Bytes, QueuedMessages: o.QueuedMessages, QueuedBytes: o.QueuedBytes,
			BlockedSince: timestamp(o.BlockedSince), End: fromEnd(o.End, incarnation), Client: e.Writer, Lease: fromLease(e.WriterLease)}
	}
	if i := e.Inbox; i != nil {
		m.Inbox = &pipedv1.Flow{Messages: i.Messages, Bytes: i.Bytes, QueuedMessages: i.QueuedMessages, QueuedBytes: i.QueuedBytes,
			BlockedSince: timestamp(i.BlockedSince), End: fromEnd(i.End, incarnation), Client: e.Reader, Lease: fromLease(e.ReaderLease),
			DroppedMessages: i.Drops.Messages, DroppedBytes: i.Drops.Bytes, ThrownBytes: i.Thrown}
	}
	for _, h := range e.Holders {
		holder := &pipedv1.Holder{Pid: int32(h.Pid), Command: h.Command, Daemon: h.Daemon, StartTime: timestamp(h.Started), ParentPid: int32(h.Parent),
			Process: h.Process, Reads: h.Reads, Writes: h.Writes}
		for _, fd := range h.FDs {
			holder.Fds = append(holder.Fds, int32(fd))
		}
		m.Holders = append(m.Holders, holder)
	}
	return m
}

//nolint:gosec // process ids, codes and descriptors are small
func fromProcess(p session.ProcessInfo) *pipedv1.Process {
	m := &pipedv1.Process{Name: p.Name, Pid: int32(p.Pid), Args: p.Args, State: pipedv1.Process_STATE_RUNNING, StartTime: timestamp(p.Started),
		Stopping: fromStopping(p.Stopping), TreeKill: pipedv1.TreeKill_TREE_KILL_BEST_EFFORT, Deadline: timestamp(p.Deadline),
		Incarnation: p.Incarnation, Restarts: p.Restarts, NextStartTime: timestamp(p.Next), RestartFailure: p.Failure}
	if p.Confined {
		m.TreeKill = pipedv1.TreeKill_TREE_KILL_CERTAIN
	}
	for _, f := range p.Former {
		m.Former = append(m.Former, fromProcess(f))
	}
	for _, in := range p.Inherits {
		m.Inherits = append(m.Inherits, &pipedv1.Inherit{Pipe: in.Pipe, End: uint32(in.End), Fd: int32(in.FD), HandOver: in.HandOver})
	}
	if p.Running {
		return m
	}
	m.State = pipedv1.Process_STATE_EXITED
	if !p.Next.IsZero() {
		m.State = pipedv1.Process_STATE_BACKOFF
	}
	for _, f := range p.Finals {
		m.Finals = append(m.Finals, fromFinal(&f))
	}
	m.Exit = &pipedv1.Exit{ExitTime: timestamp(p.Exit.Time), CoreDumped: p.Exit.CoreDumped, Oom: p.Exit.OutOfMemory, Cause: exitCauses[p.Cause]}
	m.Exit.Usage = fromUsage(p.Exit.Usage)
	if p.Exit.Unknown {
		m.Exit.Status = &pipedv1.Exit_Unknown{Unknown: true}
		return m
	}
	if p.Exit.Signal == 0 {
		m.Exit.Status = &pipedv1.Exit_Code{Code: int32(p.Exit.Code)}
		return m
	}
	m.Exit.SignalNumber = int32(p.Exit.Signal)
	m.Exit.Status = &pipedv1.Exit_Signal{Signal: signalName(p.Exit.Signal)}
	return m
}

func fromUsage(u *keeper.Usage) *pipedv1.ProcessUsage {
	if u == nil {
		return nil
	}
	return &pipedv1.ProcessUsage{UserTime: durationpb.New(u.User), SystemTime: durationpb.New(u.System), PeakMemoryBytes: u.Peak}
}

var exitCauses = map[session.Cause]pipedv1.Exit_Cause{
	session.CauseOwn: pipedv1.Exit_CAUSE_OWN, session.CauseSignal: pipedv1.Exit_CAUSE_SIGNAL_BY_CLIENT,
	session.CauseStopped: pipedv1.Exit_CAUSE_STOPPED, session.CauseTimeout: pipedv1.Exit_CAUSE_TIMEOUT,
	session.CauseDeleted: pipedv1.Exit_CAUSE_DELETED, session.CauseUnknown: pipedv1.Exit_CAUSE_UNKNOWN,
	session.CauseOutOfMemory: pipedv1.Exit_CAUSE_OOM, session.CauseRestarted: pipedv1.Exit_CAUSE_RESTARTED,
	session.CauseLeaseEnded: pipedv1.Exit_CAUSE_LEASE_ENDED,
}

var stopSteps = map[session.Step]pipedv1.Stopping_Step{
	session.StepClose: pipedv1.Stopping_STEP_CLOSE, session.StepSignal: pipedv1.Stopping_STEP_SIGNAL,
	session.StepKill: pipedv1.Stopping_STEP_KILL, session.StepOver: pipedv1.Stopping_STEP_OVER,
}

func fromStopping(s *session.Stopping) *pipedv1.Stopping {
	if s == nil {
		return nil
	}
	return &pipedv1.Stopping{Step: stopSteps[s.Step], StepTime: timestamp(s.Taken), NextTime: timestamp(s.Next), Cause: exitCauses[s.Cause]}
}

var causes = map[pipe.EndCause]pipedv1.EndCause{
	pipe.CauseClosed: pipedv1.EndCause_END_CAUSE_CLOSED, pipe.CauseReset: pipedv1.EndCause_END_CAUSE_RESET,
	pipe.CauseTruncated: pipedv1.EndCause_END_CAUSE_TRUNCATED, pipe.CauseBadFrame: pipedv1.EndCause_END_CAUSE_BAD_FRAME,
	pipe.CauseOverLimit: pipedv1.EndCause_END_CAUSE_FRAME_OVER_LIMIT, pipe.CauseEndpointClosed: pipedv1.EndCause_END_CAUSE_ENDPOINT_CLOSED,
	pipe.CauseBrokenPipe: pipedv1.EndCause_END_CAUSE_BROKEN_PIPE, pipe.CauseAbandoned: pipedv1.EndCause_END_CAUSE_ABANDONED,
}

func fromEnd(e *pipe.End, incarnation uint64) *pipedv1.End {
	if e == nil {
		return nil
	}
	return &pipedv1.End{Cause: causes[e.Cause], Position: fromPosition(e.Position, incarnation), Bytes: e.Bytes, Detail: e.Detail}
}

func fromPosition(p pipe.Position, incarnation uint64) *pipedv1.Position {
	return &pipedv1.Position{Incarnation: incarnation, Message: p.Message, Offset: p.Offset}
}

//nolint:gosec // framing bytes are few
func fromBatch(b *pipe.Batch, incarnation uint64) *pipedv1.Batch {
	return &pipedv1.Batch{First: fromPosition(b.First, incarnation), Data: b.Data, Sizes: b.Sizes, More: b.More, Partial: b.Partial,
		Truncated: b.Truncated, TotalSize: b.Total, PrefixSize: uint32(b.Prefix), SuffixSize: uint32(b.Suffix)}
}

func fromGap(g *pipe.Gap, incarnation uint64) *pipedv1.Gap {
	return &pipedv1.Gap{From: fromPosition(g.From, incarnation), To: fromPosition(g.To, incarnation)}
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// signalName returns a signal's name without SIG, or its number.
func signalName(sig unix.Signal) string {
	if name := unix.SignalName(sig); len(name) > 3 {
		return name[3:]
	}
	return sig.String()
}
