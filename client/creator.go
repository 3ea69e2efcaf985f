package client

import (
	"context"
	"errors"
	"slices"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// errNoSessionLease is told by a client whose daemon would not have looked at the
// lease: the session would outlive its creator.
var errNoSessionLease = errors.New(`this daemon is too old to bind a session to its creator: it does not have "session/lease"`)

// A SessionLease binds a session to its creator, until it is given up or not renewed
// in time: then the daemon stops the processes of the session. Its methods are safe
// for concurrent use.
type SessionLease struct {
	client   *Client
	session  string // uid
	token    []byte
	duration time.Duration
}

// CreateBound is Create for a session that is bound to the caller, as the lease of
// the request says, which must be there. Keep the lease alive: a caller that does
// not, or is killed, has the processes of the session stopped after its duration.
// A daemon that does not know such leases is refused.
func (c *Client) CreateBound(ctx context.Context, req *pipedv1.CreateSessionRequest) (*pipedv1.Session, *SessionLease, error) {
	if req.GetLease() == nil {
		return nil, nil, errors.New("a session is bound by CreateSessionRequest.lease: set its duration")
	}
	info, err := c.Info(ctx)
	switch {
	case err != nil:
		return nil, nil, err
	case !slices.Contains(info.GetFeatures(), "session/lease"):
		return nil, nil, errNoSessionLease
	}
	resp, err := c.create(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	return resp.GetSession(), &SessionLease{client: c, session: resp.GetSession().GetUid(), token: resp.GetLeaseToken(),
		duration: req.GetLease().GetDuration().AsDuration()}, nil
}

// Token returns what proves the lease, for RenewSession.
func (l *SessionLease) Token() []byte { return slices.Clone(l.token) }

// Renew makes it last for its duration from now. A lease that has ended gives
// ErrSessionLease.
func (l *SessionLease) Renew(ctx context.Context) error {
	_, err := look(ctx, l.client, l.client.sessions.RenewSession, &pipedv1.RenewSessionRequest{Session: l.session, LeaseToken: l.token})
	return err
}

// Release gives it up: the session is bound to nobody any more, and nothing is
// stopped.
func (l *SessionLease) Release(ctx context.Context) error {
	_, err := look(ctx, l.client, l.client.sessions.RenewSession,
		&pipedv1.RenewSessionRequest{Session: l.session, LeaseToken: l.token, Release: true})
	return err
}

// KeepAlive renews it at each third of its duration until ctx ends, and then
// returns nil, or until it is lost: then it returns why, ErrSessionLease where it was
// not renewed in time, ErrSessionNotFound where the session was deleted. A connection
// that was lost is made again. It does not release the lease.
func (l *SessionLease) KeepAlive(ctx context.Context) error {
	return keepAlive(ctx, l.duration, l.Renew)
}
