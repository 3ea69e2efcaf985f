package session

import (
	"fmt"
	"time"

	"github.com/piped-dev/piped/pipe"
)

// A LeaseRequest asks for a lease without a stream.
type LeaseRequest struct {
	Role Role
	// Holder names the caller: a writer or consumer id, which then shares the
	// lease. Empty: a generated name.
	Holder string
	// Duration is how long the lease lasts from now, or from the end of the stream
	// that holds it. 0 means Config.LeaseDuration; at most
	// Config.MaxLeaseDuration.
	Duration time.Duration
	// Token renews the lease that it proves; ErrFenced if that has ended, also with
	// Steal. Without it Holder renews what it acquired before; of a lease that came
	// with a stream it is another life, see [Claim.Token].
	Token []byte
	// Steal takes the lease from whoever has it; its stream ends with ErrFenced.
	Steal bool
}

// AcquireLease takes or renews a lease, which then outlives every stream that
// holds it. Another holder is named by a *BusyError.
func (e *Endpoint) AcquireLease(req LeaseRequest) (Token, Lease, error) {
	claim, err := e.checkLease(&req)
	if err != nil {
		return Token{}, Lease{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ep.Closing() {
		return Token{}, Lease{}, fmt.Errorf("%w: %s", pipe.ErrClosed, e.Ref())
	}
	l := e.leaseLocked(req.Role)
	if err := l.admit(req.Holder, &claim); err != nil {
		return Token{}, Lease{}, err
	}
	if req.Role == RoleConsumer && !l.force {
		if err := e.refuseBequestLocked(); err != nil {
			return Token{}, Lease{}, err
		}
	}
	if l.joins(req.Holder, &claim) && !l.kept {
		l.epoch++
		l.token = newToken()
	}
	l.grant(req.Holder, &claim)
	l.kept, l.duration = true, claim.Duration
	l.save()
	if l.tenure == nil {
		l.wait()
	}
	l.announce()
	return l.token, *l.look(), nil
}

func (e *Endpoint) checkLease(req *LeaseRequest) (Claim, error) {
	claim := Claim{Token: req.Token, Duration: req.Duration, Steal: req.Steal}
	if err := claim.check(e.session.reg.config().MaxLeaseDuration); err != nil {
		return claim, err
	}
	if claim.Duration == 0 {
		claim.Duration = e.session.reg.config().LeaseDuration
	}
	if len(req.Holder) > maxClientID {
		return claim, argument("holder has %d bytes, at most %d are allowed", len(req.Holder), maxClientID)
	}
	var err error
	switch req.Role {
	case RoleWriter:
		_, err = e.outbox()
	case RoleConsumer:
		_, err = e.inbox()
	default:
		err = argument("role %d: want a writer or a consumer", req.Role)
	}
	return claim, err
}

// ReleaseLease gives back the lease that the token proves. The stream that holds
// it ends with ErrFenced. A lease that has ended is not an error.
func (e *Endpoint) ReleaseLease(token []byte) error {
	if n := len(token); n != len(Token{}) {
		return argument("lease token has %d bytes, want %d", n, len(Token{}))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range []*lease{e.writing, e.consuming} {
		if l != nil && l.proves(token) {
			l.evict(&FencedError{Epoch: l.epoch})
			l.end(EventLeaseReleased, "")
		}
	}
	return nil
}
