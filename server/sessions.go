package server

import (
	"context"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/session"
)

// sessionService is piped.v1.SessionService.
type sessionService struct {
	pipedv1.UnimplementedSessionServiceServer
	s *Server
}

func newSessionService(s *Server) *sessionService { return &sessionService{s: s} }

func (v *sessionService) CreateSession(ctx context.Context, req *pipedv1.CreateSessionRequest) (*pipedv1.CreateSessionResponse, error) {
	spec, err := toSpec(req)
	if err != nil {
		return nil, statusError(err)
	}
	ses, err := v.s.reg.Create(ctx, spec)
	if err != nil {
		return nil, statusError(err)
	}
	info, err := ses.Info(ctx, false)
	return &pipedv1.CreateSessionResponse{Session: fromInfo(info), LeaseToken: ses.LeaseToken()}, statusError(err)
}

func (v *sessionService) GetSession(ctx context.Context, req *pipedv1.GetSessionRequest) (*pipedv1.GetSessionResponse, error) {
	ses, err := v.s.reg.Get(req.GetSession())
	if err != nil {
		return nil, statusError(err)
	}
	info, err := ses.Info(ctx, req.GetHolders())
	if err == nil && req.GetUsage() {
		info.Usage, err = ses.Usage()
	}
	return &pipedv1.GetSessionResponse{Session: fromInfo(info)}, statusError(err)
}

const defaultPageSize = 100

// ListSessions pages by uid: uids sort by creation, so that what comes and goes
// meanwhile neither repeats nor hides others.
func (v *sessionService) ListSessions(ctx context.Context, req *pipedv1.ListSessionsRequest) (*pipedv1.ListSessionsResponse, error) {
	size := int(req.GetPageSize())
	switch {
	case size < 0:
		return nil, statusError(argument("page size %d", size))
	case size == 0:
		size = defaultPageSize
	}
	size = min(size, v.s.options().MaxPageSize)
	after, err := base64.RawURLEncoding.DecodeString(req.GetPageToken())
	if err != nil {
		return nil, statusError(argument("page token %q is not one of this server's", req.GetPageToken()))
	}
	resp := &pipedv1.ListSessionsResponse{}
	for _, ses := range v.s.reg.List(session.Filter{Prefix: req.GetNamePrefix(), Labels: req.GetLabels()}) {
		if ses.UID() <= string(after) {
			continue
		}
		if len(resp.GetSessions()) == size {
			last := resp.GetSessions()[size-1].GetUid()
			resp.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(last))
			break
		}
		info, err := ses.Info(ctx, false)
		if err != nil {
			return nil, statusError(err)
		}
		m := fromInfo(info)
		if want := req.GetState(); want == pipedv1.Session_STATE_UNSPECIFIED || want == m.GetState() {
			resp.Sessions = append(resp.Sessions, m)
		}
	}
	return resp, nil
}

func (v *sessionService) DeleteSession(ctx context.Context, req *pipedv1.DeleteSessionRequest) (*pipedv1.DeleteSessionResponse, error) {
	return &pipedv1.DeleteSessionResponse{}, statusError(v.s.reg.Delete(ctx, req.GetSession(), req.GetForce()))
}

func (v *sessionService) CreatePipe(ctx context.Context, req *pipedv1.CreatePipeRequest) (*pipedv1.CreatePipeResponse, error) {
	ses, err := v.s.reg.Get(req.GetSession())
	if err != nil {
		return nil, statusError(err)
	}
	spec, err := toPipeSpec(req.GetPipe())
	if err != nil {
		return nil, statusError(err)
	}
	p, err := ses.CreatePipe(ctx, req.GetRequestId(), spec)
	if err != nil {
		return nil, statusError(err)
	}
	return &pipedv1.CreatePipeResponse{Pipe: fromPipe(p.Info())}, nil
}

func (v *sessionService) StartProcess(ctx context.Context, req *pipedv1.StartProcessRequest) (*pipedv1.StartProcessResponse, error) {
	ses, err := v.s.reg.Get(req.GetSession())
	if err != nil {
		return nil, statusError(err)
	}
	spec, err := toProcessSpec(req.GetProcess())
	if err != nil {
		return nil, statusError(err)
	}
	spec.RequestID = req.GetRequestId()
	p, err := ses.StartProcess(ctx, *spec)
	if err != nil {
		return nil, statusError(err)
	}
	return &pipedv1.StartProcessResponse{Process: fromProcess(p.Info())}, nil
}

func (v *sessionService) SignalProcess(_ context.Context, req *pipedv1.SignalProcessRequest) (*pipedv1.SignalProcessResponse, error) {
	p, err := v.process(req.GetSession(), req.GetProcess())
	if err != nil {
		return nil, statusError(err)
	}
	sig, err := toSignal(req.GetSignal())
	if err != nil {
		return nil, statusError(err)
	}
	return &pipedv1.SignalProcessResponse{}, signalError(p.Signal(sig))
}

// toSignal reads TERM, SIGTERM, term or 15.
func toSignal(name string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(name); err == nil {
		if n >= 1 && n <= 64 {
			return syscall.Signal(n), nil
		}
		return 0, argument("signal %d: want 1 to 64", n)
	}
	upper := strings.ToUpper(name)
	if sig := unix.SignalNum("SIG" + strings.TrimPrefix(upper, "SIG")); sig != 0 {
		return sig, nil
	}
	return 0, argument("signal %q: want a name as TERM, or a number", name)
}

func (v *sessionService) process(sessionName, name string) (*session.Process, error) {
	ses, err := v.s.reg.Get(sessionName)
	if err != nil {
		return nil, err
	}
	return ses.Process(name)
}

func (v *sessionService) StopProcess(ctx context.Context, req *pipedv1.StopProcessRequest) (*pipedv1.StopProcessResponse, error) {
	p, err := v.process(req.GetSession(), req.GetProcess())
	if err != nil {
		return nil, statusError(err)
	}
	policy, err := toStopPolicy(req.GetPolicy())
	if err != nil {
		return nil, statusError(err)
	}
	wait, cancel := waitContext(ctx, req.Timeout)
	defer cancel()
	if err := p.Stop(wait, policy); err != nil && (!errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil) {
		return nil, statusError(err)
	}
	latest, err := v.process(req.GetSession(), p.Name())
	if err != nil {
		return nil, statusError(err)
	}
	return &pipedv1.StopProcessResponse{Process: fromHistory(latest)}, nil
}

func (v *sessionService) StopSession(ctx context.Context, req *pipedv1.StopSessionRequest) (*pipedv1.StopSessionResponse, error) {
	ses, err := v.s.reg.Get(req.GetSession())
	if err != nil {
		return nil, statusError(err)
	}
	policy, err := toStopPolicy(req.GetPolicy())
	if err != nil {
		return nil, statusError(err)
	}
	if err := older(&policy.CloseGrace, "input grace", req.GetInputGrace()); err != nil {
		return nil, statusError(err)
	}
	if err := older(&policy.Grace, "term grace", req.GetTermGrace()); err != nil {
		return nil, statusError(err)
	}
	if err := ses.Stop(ctx, policy); err != nil {
		return nil, statusError(err)
	}
	info, err := ses.Info(ctx, false)
	return &pipedv1.StopSessionResponse{Processes: fromInfo(info).GetProcesses()}, statusError(err)
}

// older reads the name that a grace had before there were policies.
func older(grace **time.Duration, what string, d *durationpb.Duration) error {
	if d == nil {
		return nil
	}
	if *grace != nil {
		return argument("%s: the policy says it too", what)
	}
	var err error
	*grace, err = toGrace(what, d)
	return err
}

// waitContext bounds a wait: absent is for ever, zero or less is one look.
func waitContext(ctx context.Context, timeout *durationpb.Duration) (context.Context, context.CancelFunc) {
	if timeout == nil {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, max(timeout.AsDuration(), 0))
}
