package server

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/session"
)

// toCreatorLease reads what binds a session to its creator; nil stays nil.
func toCreatorLease(l *pipedv1.SessionLease) (*session.CreatorLease, error) {
	switch {
	case l == nil:
		return nil, nil //nolint:nilnil // it is bound to nobody
	case l.ExpireTime != nil || l.EndTime != nil:
		return nil, argument("lease of a session: expire_time and end_time are told by the daemon; give a duration")
	}
	switch l.GetAction() {
	case pipedv1.SessionLease_ACTION_UNSPECIFIED, pipedv1.SessionLease_ACTION_STOP:
	default:
		return nil, argument("lease of a session: action %v: want ACTION_STOP", l.GetAction())
	}
	d, err := toDuration("lease duration of a session", l.GetDuration(), 0)
	return &session.CreatorLease{Duration: d}, err
}

// fromCreatorLease writes it; nil stays nil.
func fromCreatorLease(l *session.CreatorLeaseInfo) *pipedv1.SessionLease {
	if l == nil {
		return nil
	}
	return &pipedv1.SessionLease{Duration: durationpb.New(l.Duration), Action: pipedv1.SessionLease_ACTION_STOP,
		ExpireTime: timestamp(l.Expires), EndTime: timestamp(l.Ended)}
}

func (v *sessionService) RenewSession(_ context.Context, req *pipedv1.RenewSessionRequest) (*pipedv1.RenewSessionResponse, error) {
	ses, err := v.s.reg.Get(req.GetSession())
	if err != nil {
		return nil, statusError(err)
	}
	d, err := toDuration("lease duration of a session", req.GetDuration(), 0)
	if err != nil {
		return nil, statusError(err)
	}
	if req.GetRelease() {
		if d != 0 {
			return nil, statusError(argument("a lease that is given up has no duration: leave out one of the two"))
		}
		return &pipedv1.RenewSessionResponse{}, statusError(ses.ReleaseLease(req.GetLeaseToken()))
	}
	lease, err := ses.Renew(req.GetLeaseToken(), d)
	if err != nil {
		return nil, statusError(err)
	}
	return &pipedv1.RenewSessionResponse{Lease: fromCreatorLease(&lease)}, nil
}
