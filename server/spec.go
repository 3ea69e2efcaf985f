package server

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

// This file reads requests: messages of the contract into the words of session.

func argument(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{session.ErrArgument}, args...)...)
}

func toPipeSpec(p *pipedv1.PipeSpec) (session.PipeSpec, error) {
	spec := session.PipeSpec{Name: p.GetName(), LogSize: p.GetLog().GetSize()}
	switch p.GetKind() {
	case pipedv1.Pipe_KIND_UNSPECIFIED, pipedv1.Pipe_KIND_DUPLEX:
		spec.Kind = pipe.Duplex
	case pipedv1.Pipe_KIND_ONE_WAY:
		spec.Kind = pipe.OneWay
	default:
		return spec, argument("pipe kind %v: want KIND_DUPLEX or KIND_ONE_WAY", p.GetKind())
	}
	switch p.GetLog().GetOverflow() {
	case pipedv1.LogSpec_OVERFLOW_UNSPECIFIED, pipedv1.LogSpec_OVERFLOW_BLOCK:
	case pipedv1.LogSpec_OVERFLOW_DROP_OLDEST:
		spec.Overflow = pipe.DropOldest
	default:
		return spec, argument("overflow %v", p.GetLog().GetOverflow())
	}
	in, out := p.GetFramingIn(), p.GetFramingOut()
	if out == nil {
		out = in
	}
	var err error
	if spec.In, err = toFraming(in); err == nil {
		spec.Out, err = toFraming(out)
	}
	return spec, err
}

func toFraming(f *pipedv1.Framing) (pipe.Framing, error) {
	framing := pipe.Framing{Name: f.GetName(), MaxMessage: f.GetMaxMessageSize()}
	switch f.GetCarriageReturn() {
	case pipedv1.CarriageReturn_CARRIAGE_RETURN_UNSPECIFIED, pipedv1.CarriageReturn_CARRIAGE_RETURN_KEEP:
	case pipedv1.CarriageReturn_CARRIAGE_RETURN_STRIP:
		framing.StripCR = true
	default:
		return framing, argument("carriage return %v", f.GetCarriageReturn())
	}
	return framing, framing.Check()
}

func toProcessSpec(p *pipedv1.ProcessSpec) (*session.ProcessSpec, error) {
	spec := &session.ProcessSpec{Name: p.GetName(), Args: p.GetArgs(), Env: p.GetEnv(), Dir: p.GetDir()}
	switch p.GetEnvironmentBase() {
	case pipedv1.EnvironmentBase_ENVIRONMENT_BASE_UNSPECIFIED, pipedv1.EnvironmentBase_ENVIRONMENT_BASE_MINIMAL:
	case pipedv1.EnvironmentBase_ENVIRONMENT_BASE_NONE:
		spec.Base = session.EnvironmentNone
	case pipedv1.EnvironmentBase_ENVIRONMENT_BASE_ALL:
		spec.Base = session.EnvironmentAll
	default:
		return nil, argument("environment base %v", p.GetEnvironmentBase())
	}
	if err := toStdio(p, spec); err != nil {
		return nil, err
	}
	for _, in := range p.GetInherits() {
		spec.Inherits = append(spec.Inherits, session.Inherit{
			Pipe: in.GetPipe(), End: int(in.GetEnd()), FD: int(in.GetFd()), HandOver: in.GetHandOver()})
	}
	toAttributes(p, spec)
	var err error
	if spec.Terminal, err = toTerminalSpec(p.GetTerminal()); err != nil {
		return nil, err
	}
	if spec.Stop, err = toStopPolicy(p.GetStop()); err != nil {
		return nil, err
	}
	if spec.Timeout, err = toDuration("timeout", p.GetTimeout(), 0); err != nil {
		return nil, err
	}
	if spec.AfterExit, err = toAfterExit(p.GetAfterExit()); err != nil {
		return nil, err
	}
	if spec.Restart, err = toRestartPolicy(p.GetRestart()); err != nil {
		return nil, err
	}
	if spec.Stdio, err = toPipeSpec(p.GetStdioPipe()); err != nil {
		return nil, err
	}
	spec.StderrPipe, err = toPipeSpec(p.GetStderrPipe())
	if p.GetStderrPipe().GetLog().GetOverflow() == pipedv1.LogSpec_OVERFLOW_UNSPECIFIED {
		// Errors that nobody reads must not stop the process.
		spec.StderrPipe.Overflow = pipe.DropOldest
	}
	return spec, err
}

// toAttributes fills in what a process is given besides its program.
func toAttributes(p *pipedv1.ProcessSpec, spec *session.ProcessSpec) {
	if p == nil {
		return
	}
	spec.User, spec.Group, spec.Groups, spec.NoNewPrivileges = p.GetUser(), p.GetGroup(), p.GetGroups(), p.GetNoNewPrivileges()
	if p.Nice != nil {
		spec.Nice = new(int(p.GetNice()))
	}
	if p.Umask != nil {
		spec.Umask = new(int(p.GetUmask()))
	}
	for _, l := range p.GetLimits() {
		limit := keeper.Limit{Resource: l.GetResource(), Soft: keeper.Unlimited, Hard: keeper.Unlimited}
		if l.Soft != nil {
			limit.Soft = l.GetSoft()
		}
		if l.Hard != nil {
			limit.Hard = l.GetHard()
		}
		spec.Limits = append(spec.Limits, limit)
	}
}

// toStdio reads where the standard streams lead. One whose mode is left open, and
// whose descriptor the process inherits, leads there.
func toStdio(p *pipedv1.ProcessSpec, spec *session.ProcessSpec) error {
	inherited := func(fd int) bool {
		return slices.ContainsFunc(p.GetInherits(), func(in *pipedv1.Inherit) bool { return int(in.GetFd()) == fd })
	}
	for fd, m := range []struct {
		to   *session.StdioMode
		from pipedv1.StdioMode
	}{{&spec.Stdin, p.GetStdin()}, {&spec.Stdout, p.GetStdout()}, {&spec.Stderr, p.GetStderr()}} {
		switch m.from {
		case pipedv1.StdioMode_STDIO_MODE_UNSPECIFIED:
			if inherited(fd) {
				*m.to = session.StdioNull
			}
		case pipedv1.StdioMode_STDIO_MODE_PIPE:
		case pipedv1.StdioMode_STDIO_MODE_NULL:
			*m.to = session.StdioNull
		case pipedv1.StdioMode_STDIO_MODE_MERGED:
			*m.to = session.StdioMerged
		case pipedv1.StdioMode_STDIO_MODE_TTY:
			*m.to = session.StdioTerminal
		default:
			return argument("stdio mode %v", m.from)
		}
	}
	if spec.Stderr == session.StdioTerminal && p.StderrPipe != nil {
		return argument("stderr_pipe describes a pipe that is not made when stderr is a terminal: leave it out")
	}
	if spec.Stderr == session.StdioMerged && p.StderrPipe != nil {
		return argument("stderr_pipe describes a pipe that is not made when stderr is merged: leave it out, stdio_pipe holds for both")
	}
	return nil
}

// toStopPolicy reads a policy. What is absent stays open.
func toStopPolicy(p *pipedv1.StopPolicy) (session.StopPolicy, error) {
	if p == nil {
		return session.StopPolicy{}, nil
	}
	policy := session.StopPolicy{KeepInput: p.KeepInput, SkipSignal: p.SkipSignal, SkipKill: p.SkipKill, OnDelete: p.OnDelete}
	switch p.GetScope() {
	case pipedv1.StopPolicy_SCOPE_UNSPECIFIED:
	case pipedv1.StopPolicy_SCOPE_LEADER:
		policy.Scope = session.ScopeLeader
	case pipedv1.StopPolicy_SCOPE_TREE:
		policy.Scope = session.ScopeTree
	default:
		return policy, argument("scope %v", p.GetScope())
	}
	var err error
	if p.GetSignal() != "" {
		if policy.Signal, err = toSignal(p.GetSignal()); err != nil {
			return policy, err
		}
	}
	if policy.CloseGrace, err = toGrace("close grace", p.GetCloseGrace()); err != nil {
		return policy, err
	}
	policy.Grace, err = toGrace("grace", p.GetGrace())
	return policy, err
}

func toAfterExit(a *pipedv1.AfterExit) (session.AfterExit, error) {
	modes := map[pipedv1.AfterExit_Mode]session.AfterExitMode{
		pipedv1.AfterExit_MODE_WAIT: session.AfterExitWait, pipedv1.AfterExit_MODE_END: session.AfterExitEnd, pipedv1.AfterExit_MODE_KILL: session.AfterExitKill,
	}
	mode, known := modes[a.GetMode()]
	if !known && a.GetMode() != pipedv1.AfterExit_MODE_UNSPECIFIED {
		return session.AfterExit{}, argument("after exit: mode %v", a.GetMode())
	}
	grace, err := toGrace("after exit: grace", a.GetGrace())
	return session.AfterExit{Mode: mode, Grace: grace}, err
}

// toGrace reads a duration, or returns nil when there is none.
func toGrace(what string, d *durationpb.Duration) (*time.Duration, error) {
	if d == nil {
		return nil, nil //nolint:nilnil // it stays open
	}
	v, err := toDuration(what, d, 0)
	return &v, err
}

func toSpec(req *pipedv1.CreateSessionRequest) (session.Spec, error) {
	spec := session.Spec{RequestID: req.GetRequestId(), Name: req.GetName(), Labels: req.GetLabels(), Resources: toResources(req.GetResources())}
	for _, p := range req.GetPipes() {
		ps, err := toPipeSpec(p)
		if err != nil {
			return spec, err
		}
		spec.Pipes = append(spec.Pipes, ps)
	}
	var err error
	if spec.Lease, err = toCreatorLease(req.GetLease()); err != nil || req.GetProcess() == nil {
		return spec, err
	}
	spec.Process, err = toProcessSpec(req.GetProcess())
	return spec, err
}

// toPosition reads a position in a pipe of that incarnation.
func toPosition(p *pipedv1.Position, incarnation uint64) (pipe.Position, error) {
	if n := p.GetIncarnation(); n != 0 && n != incarnation {
		return pipe.Position{}, argument("a position of incarnation %d, in incarnation %d of the pipe: open the endpoint in the incarnation of the position", n, incarnation)
	}
	return pipe.Position{Message: p.GetMessage(), Offset: p.GetOffset()}, nil
}

// toDuration reads a duration in [0, a year], or returns def when there is none.
func toDuration(what string, d *durationpb.Duration, def time.Duration) (time.Duration, error) {
	if d == nil {
		return def, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, argument("%s: %v", what, err)
	}
	v := d.AsDuration()
	if v < 0 || v > 366*24*time.Hour {
		return 0, argument("%s %v: want 0 to a year", what, v)
	}
	return v, nil
}
