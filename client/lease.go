package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// abandonTimeout bounds how long a lease that nobody needs any more is given
// back.
const abandonTimeout = time.Second

// LeaseOptions say which lease is wanted. Role must be set.
type LeaseOptions struct {
	// Role is the right: to write or to consume.
	Role pipedv1.LeaseRole
	// Holder names the caller, at most 128 bytes; a Writer or Reader with this ID
	// shares the lease. Empty means a generated name.
	Holder string
	// Duration is how long it lasts unless it is renewed, from now or from the
	// end of the stream that uses it. 0 means Limits.lease_duration.
	Duration time.Duration
	// Steal takes it from whoever has it; the loser's stream ends with ErrFenced.
	Steal bool
	// Token proves a lease that the caller has: it is renewed, and gives ErrFenced
	// when it has ended. Empty takes a new one, or renews the one of Holder.
	Token []byte
}

// A Lease is the right to write into an endpoint, or to consume from it. It ends
// when its time runs out, when it is released, and when somebody steals it. Its
// methods are safe for concurrent use.
type Lease struct {
	endpoint *Endpoint
	role     pipedv1.LeaseRole
	duration time.Duration

	mu sync.Mutex
	// token proves it; guarded by mu, as is what follows.
	token  []byte
	holder string
	epoch  uint64
	expiry time.Time
}

// leaseOf returns the lease that the daemon told, or nil if it told none.
func leaseOf(e *Endpoint, lease *pipedv1.Lease, token []byte) *Lease {
	if lease == nil {
		return nil
	}
	l := &Lease{endpoint: e, role: lease.GetRole()}
	l.setLocked(lease, token)
	return l
}

// setLocked takes over what the daemon told.
func (l *Lease) setLocked(lease *pipedv1.Lease, token []byte) {
	l.token, l.holder, l.epoch, l.expiry = token, lease.GetHolder(), lease.GetEpoch(), time.Time{}
	if lease.GetExpireTime() != nil {
		l.expiry = lease.GetExpireTime().AsTime()
	}
}

// AcquireLease takes the right to write or to consume without a stream: to keep
// it between streams, or to write with Endpoint.Send while nobody else does. Give
// its Token to a Writer or Reader. While somebody else has it, it is refused with
// ErrBusyWriter or ErrBusyReader.
func (e *Endpoint) AcquireLease(ctx context.Context, opts LeaseOptions) (*Lease, error) {
	if opts.Holder == "" && len(opts.Token) == 0 {
		// By name a repetition finds what the attempt before it took.
		opts.Holder = "client-" + strings.ToLower(rand.Text())
	}
	req := &pipedv1.AcquireLeaseRequest{Endpoint: e.ref.proto(), Role: opts.Role, Holder: opts.Holder, Steal: opts.Steal, LeaseToken: opts.Token}
	if opts.Duration != 0 {
		req.Duration = durationpb.New(opts.Duration)
	}
	resp, err := look(ctx, e.client, e.client.pipes.AcquireLease, req)
	if err != nil {
		return nil, err
	}
	l := leaseOf(e, resp.GetLease(), resp.GetLeaseToken())
	if l == nil {
		return nil, errors.New("the daemon gave no lease")
	}
	l.duration = opts.Duration
	if l.duration == 0 {
		limits, err := e.client.Limits(ctx)
		if err != nil {
			return nil, err
		}
		l.duration = limits.GetLeaseDuration().AsDuration()
	}
	return l, nil
}

// ReleaseLease gives a lease back that token proves. A lease that has ended is not
// an error; a stream that uses it ends with ErrFenced.
func (e *Endpoint) ReleaseLease(ctx context.Context, token []byte) error {
	_, err := look(ctx, e.client, e.client.pipes.ReleaseLease, &pipedv1.ReleaseLeaseRequest{Endpoint: e.ref.proto(), LeaseToken: token})
	return err
}

// Role returns which right it is.
func (l *Lease) Role() pipedv1.LeaseRole { return l.role }

// Token returns what proves the lease.
func (l *Lease) Token() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.token)
}

// Holder returns the name of who has it.
func (l *Lease) Holder() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holder
}

// Epoch returns a number that grows each time that the right goes to somebody
// else.
func (l *Lease) Epoch() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch
}

// Expiry returns when it ends unless it is renewed, by the daemon's clock; the
// zero time while a stream uses it.
func (l *Lease) Expiry() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.expiry
}

// Renew makes it last for its duration from now. A lease that has ended, or was
// stolen, gives ErrFenced.
func (l *Lease) Renew(ctx context.Context) error {
	req := &pipedv1.AcquireLeaseRequest{Endpoint: l.endpoint.ref.proto(), Role: l.role, Holder: l.Holder(), LeaseToken: l.Token()}
	if l.duration > 0 {
		req.Duration = durationpb.New(l.duration)
	}
	resp, err := look(ctx, l.endpoint.client, l.endpoint.client.pipes.AcquireLease, req)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setLocked(resp.GetLease(), resp.GetLeaseToken())
	return nil
}

// Release gives it back. A lease that has ended is not an error.
func (l *Lease) Release(ctx context.Context) error { return l.endpoint.ReleaseLease(ctx, l.Token()) }

// KeepAlive renews it at each third of its duration until ctx ends, and then
// returns nil, or until it is lost: then it returns why, ErrFenced where somebody
// stole it. A connection that was lost is made again. It does not release the
// lease.
func (l *Lease) KeepAlive(ctx context.Context) error {
	if l.duration <= 0 {
		return errors.New("a lease that a stream holds needs no renewal")
	}
	return keepAlive(ctx, l.duration, l.Renew)
}

// keepAlive renews at each third of a duration until ctx ends, and then returns
// nil, or until that is refused.
func keepAlive(ctx context.Context, duration time.Duration, renew func(context.Context) error) error {
	every := max(duration/3, time.Millisecond)
	attempts := retry{limit: duration}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		err := renewWithin(ctx, every, renew)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			attempts.succeeded()
		case attempts.again(ctx, err) == nil:
			continue
		case ctx.Err() != nil:
			return nil
		default:
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func renewWithin(ctx context.Context, timeout time.Duration, renew func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return renew(ctx)
}

// abandon gives it back if the daemon answers soon: it would only keep others
// waiting. It may be nil.
func (l *Lease) abandon(ctx context.Context) {
	if l == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTimeout)
	defer cancel()
	// Not repeated: whoever cannot be told sees it run out.
	_, _ = l.endpoint.client.pipes.ReleaseLease(ctx, &pipedv1.ReleaseLeaseRequest{Endpoint: l.endpoint.ref.proto(), LeaseToken: l.Token()})
}

// heldBetween says whether somebody else, or another life of the holder, had the
// right after before, which may be nil, and until l.
func (l *Lease) heldBetween(before *Lease) bool {
	if l == nil || before == nil {
		return false
	}
	if bytes.Equal(l.token, before.token) {
		// Who shares an acquired lease without its token raises the epoch as well.
		return l.epoch > before.epoch
	}
	return l.epoch > before.epoch+1
}

// leaseDuration is what is asked of the daemon for an option; see
// WriterOptions.LeaseDuration.
func leaseDuration(option time.Duration, limits *pipedv1.Limits) *durationpb.Duration {
	switch {
	case option > 0:
		return durationpb.New(option)
	case option < 0:
		return nil
	default:
		return limits.GetLeaseDuration()
	}
}
