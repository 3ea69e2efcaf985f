package server

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/session"
)

var restartModes = map[pipedv1.RestartPolicy_Mode]session.RestartMode{
	pipedv1.RestartPolicy_MODE_UNSPECIFIED: session.RestartNever, pipedv1.RestartPolicy_MODE_NEVER: session.RestartNever,
	pipedv1.RestartPolicy_MODE_ON_FAILURE: session.RestartOnFailure, pipedv1.RestartPolicy_MODE_ALWAYS: session.RestartAlways,
}

// toRestartPolicy reads a policy; nil where there is none.
func toRestartPolicy(p *pipedv1.RestartPolicy) (*session.RestartPolicy, error) {
	if p == nil {
		return nil, nil //nolint:nilnil // there is none
	}
	mode, ok := restartModes[p.GetMode()]
	if !ok {
		return nil, argument("restart mode %v: want MODE_NEVER, MODE_ON_FAILURE or MODE_ALWAYS", p.GetMode())
	}
	policy := &session.RestartPolicy{Mode: mode, Multiplier: p.GetMultiplier(), Jitter: p.Jitter, MaxRestarts: p.GetMaxRestarts()}
	for _, d := range []struct {
		what string
		from *durationpb.Duration
	}{{"initial backoff", p.GetInitialBackoff()}, {"longest backoff", p.GetMaxBackoff()}} {
		// Zero is left out in here, and is no wait either.
		if d.from != nil && d.from.AsDuration() == 0 {
			return nil, argument("%s 0: leave it out for the default", d.what)
		}
	}
	var err error
	if policy.Backoff, err = toDuration("initial backoff", p.GetInitialBackoff(), 0); err != nil {
		return nil, err
	}
	if policy.MaxBackoff, err = toDuration("longest backoff", p.GetMaxBackoff(), 0); err != nil {
		return nil, err
	}
	policy.HealthyAfter, err = toGrace("healthy time", p.GetHealthyAfter())
	return policy, err
}

// fromHistory is fromProcess with the incarnations before it.
func fromHistory(p *session.Process) *pipedv1.Process {
	info := p.Info()
	info.Former = p.Former()
	return fromProcess(info)
}

func (v *sessionService) RestartProcess(ctx context.Context, req *pipedv1.RestartProcessRequest) (*pipedv1.RestartProcessResponse, error) {
	ses, err := v.s.reg.Get(req.GetSession())
	if err != nil {
		return nil, statusError(err)
	}
	policy, err := toStopPolicy(req.GetPolicy())
	if err != nil {
		return nil, statusError(err)
	}
	p, err := ses.Restart(ctx, req.GetProcess(), req.GetRequestId(), policy)
	if err != nil {
		return nil, statusError(err)
	}
	return &pipedv1.RestartProcessResponse{Process: fromHistory(p)}, nil
}

func (v *sessionService) WaitProcess(ctx context.Context, req *pipedv1.WaitProcessRequest) (*pipedv1.WaitProcessResponse, error) {
	ses, err := v.s.reg.Get(req.GetSession())
	if err != nil {
		return nil, statusError(err)
	}
	p, err := ses.ProcessIn(req.GetProcess(), req.GetIncarnation())
	if err != nil {
		return nil, statusError(err)
	}
	wait, cancel := waitContext(ctx, req.Timeout)
	defer cancel()
	if req.GetIncarnation() != 0 {
		err = p.Wait(wait)
	} else {
		p, err = p.WaitLast(wait)
	}
	if err != nil && ctx.Err() != nil {
		return nil, statusError(ctx.Err())
	}
	return &pipedv1.WaitProcessResponse{Process: fromHistory(p)}, nil
}
