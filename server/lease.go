package server

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/session"
)

var roles = map[pipedv1.LeaseRole]session.Role{
	pipedv1.LeaseRole_LEASE_ROLE_WRITER:   session.RoleWriter,
	pipedv1.LeaseRole_LEASE_ROLE_CONSUMER: session.RoleConsumer,
}

func (v *pipeService) AcquireLease(_ context.Context, req *pipedv1.AcquireLeaseRequest) (*pipedv1.AcquireLeaseResponse, error) {
	role, ok := roles[req.GetRole()]
	if !ok {
		return nil, statusError(argument("lease role %v", req.GetRole()))
	}
	d, err := toDuration("lease duration", req.GetDuration(), 0)
	if err != nil {
		return nil, statusError(err)
	}
	e, err := v.endpoint(req.GetEndpoint())
	if err != nil {
		return nil, statusError(err)
	}
	token, lease, err := e.AcquireLease(session.LeaseRequest{
		Role: role, Holder: req.GetHolder(), Duration: d, Token: req.GetLeaseToken(), Steal: req.GetSteal()})
	if err != nil {
		return nil, statusError(err)
	}
	return &pipedv1.AcquireLeaseResponse{LeaseToken: token[:], Lease: fromLease(&lease)}, nil
}

func (v *pipeService) ReleaseLease(_ context.Context, req *pipedv1.ReleaseLeaseRequest) (*pipedv1.ReleaseLeaseResponse, error) {
	e, err := v.endpoint(req.GetEndpoint())
	if err != nil {
		return nil, statusError(err)
	}
	return &pipedv1.ReleaseLeaseResponse{}, statusError(e.ReleaseLease(req.GetLeaseToken()))
}

// A leaseOpen is what the opens of Send and Recv say of the lease.
type leaseOpen interface {
	GetLeaseToken() []byte
	GetLeaseDuration() *durationpb.Duration
	GetSteal() bool
}

func toClaim(open leaseOpen) (session.Claim, error) {
	d, err := toDuration("lease duration", open.GetLeaseDuration(), 0)
	return session.Claim{Token: open.GetLeaseToken(), Steal: open.GetSteal(), Duration: d}, err
}

// fromLease writes a lease; nil stays nil.
func fromLease(l *session.Lease) *pipedv1.Lease {
	if l == nil {
		return nil
	}
	role := pipedv1.LeaseRole_LEASE_ROLE_WRITER
	if l.Role == session.RoleConsumer {
		role = pipedv1.LeaseRole_LEASE_ROLE_CONSUMER
	}
	return &pipedv1.Lease{Role: role, Holder: l.Holder, Epoch: l.Epoch, ExpireTime: timestamp(l.Expires)}
}
