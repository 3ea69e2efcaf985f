package session_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/piped-dev/piped/session"
)

// startBound starts a script in a session that is bound to its creator.
func startBound(t *testing.T, reg *session.Registry, script string, lease time.Duration) (*session.Session, *session.Process) {
	t.Helper()
	spec := session.ProcessSpec{Args: []string{"sh", "-c", script}, Stop: session.StopPolicy{CloseGrace: new(long)}}
	s := create(t, reg, session.Spec{Process: &spec, Lease: &session.CreatorLease{Duration: lease}})
	p, err := s.Process("")
	if err != nil {
		t.Fatal(err)
	}
	return s, p
}

// wantFault is for an error about the creator's lease.
func wantFault(t *testing.T, what string, err error, fault session.LeaseFault) {
	t.Helper()
	refused, ok := errors.AsType[*session.CreatorError](err)
	if !ok || !errors.Is(err, session.ErrSessionLease) || refused.Fault != fault {
		t.Errorf("%s: got %v, want %s", what, err, fault)
	}
}

func leaseInfo(t *testing.T, s *session.Session) *session.CreatorLeaseInfo {
	t.Helper()
	info, err := s.Info(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	return info.Lease
}

func TestProcessIsNotStartedAgainAfterItsCreatorIsGone(t *testing.T) {
	reg := newRegistry(t, nil)
	policy := &session.RestartPolicy{Mode: session.RestartAlways, Backoff: 10 * time.Millisecond, MaxBackoff: 10 * time.Millisecond}
	spec := session.ProcessSpec{Args: []string{"sh", "-c", "exit 3"}, Restart: policy}
	s := create(t, reg, session.Spec{Process: &spec, Lease: &session.CreatorLease{Duration: 3 * short}})
	waitFor(t, "the lease to end", func() bool { return !leaseInfo(t, s).Ended.IsZero() })
	awaitEnded(t, s)
	p, err := s.Process("")
	if err != nil {
		t.Fatal(err)
	}
	if info := p.Info(); info.Running || !info.Next.IsZero() || info.Restarts == 0 {
		t.Errorf("the process is %+v", info)
	}
	_, err = s.Restart(t.Context(), "", "", session.StopPolicy{})
	wantFault(t, "a restart", err, session.LeaseOver)
}

func TestProcessIsStoppedWhenItsCreatorDoesNotRenew(t *testing.T) {
	reg := newRegistry(t, nil)
	s, p := startBound(t, reg, endsOnEOF, short)
	token := s.LeaseToken()
	wantExit(t, p, 4, 0, session.CauseLeaseEnded)
	if l := leaseInfo(t, s); l == nil || l.Ended.IsZero() || !l.Expires.IsZero() || l.Ended.Sub(p.Info().Started) < short {
		t.Errorf("the lease is %+v, the process began at %v", l, p.Info().Started)
	}
	_, err := s.Renew(token, 0)
	wantFault(t, "a renewal", err, session.LeaseOver)
	wantFault(t, "giving it up", s.ReleaseLease(token), session.LeaseOver)
	_, err = s.StartProcess(t.Context(), session.ProcessSpec{Args: []string{"sleep", "1000"}})
	wantFault(t, "another process", err, session.LeaseOver)

	w, err := reg.Watch(session.WatchOptions{Retained: true, StopAtNow: true})
	if err != nil {
		t.Fatal(err)
	}
	var told []session.EventType
	for {
		news, more, err := w.Next(t.Context())
		if err != nil || !more {
			break
		}
		told = append(told, news.Event.Type)
	}
	ended, exited := slices.Index(told, session.EventCreatorLost), slices.Index(told, session.EventProcessExited)
	if ended < 0 || exited < ended {
		t.Errorf("events %v: want the end of the lease, and the exit after it", told)
	}
}

func TestRenewalKeepsTheProcessRunning(t *testing.T) {
	s, p := startBound(t, newRegistry(t, nil), endsOnEOF, 30*time.Second)
	before := leaseInfo(t, s)
	if l, err := s.Renew(s.LeaseToken(), 0); err != nil || !l.Expires.After(before.Expires) || l.Duration != before.Duration {
		t.Errorf("renewed: %+v, %v; before %+v", l, err, before)
	}
	if l, err := s.Renew(s.LeaseToken(), time.Minute); err != nil || l.Duration != time.Minute || time.Until(l.Expires) < 40*time.Second {
		t.Errorf("for longer: %+v, %v", l, err)
	}
	// What runs is the last one that was asked for, not the first.
	if _, err := s.Renew(s.LeaseToken(), short); err != nil {
		t.Fatal(err)
	}
	wantExit(t, p, 4, 0, session.CauseLeaseEnded)
}

func TestOnlyTheCreatorRenews(t *testing.T) {
	reg := newRegistry(t, func(c *session.Config) { c.MaxLeaseDuration = time.Minute })
	s, p := startBound(t, reg, endsOnEOF, time.Minute)
	other, _ := startBound(t, reg, endsOnEOF, time.Minute)
	for name, token := range map[string][]byte{"no token": nil, "that of another session": other.LeaseToken(), "a long one": make([]byte, 99)} {
		_, err := s.Renew(token, 0)
		wantFault(t, name, err, session.LeaseToken)
		wantFault(t, name, s.ReleaseLease(token), session.LeaseToken)
	}
	for _, d := range []time.Duration{-1, 2 * time.Minute} {
		if _, err := s.Renew(s.LeaseToken(), d); !errors.Is(err, session.ErrArgument) {
			t.Errorf("for %v: %v", d, err)
		}
	}
	for _, d := range []time.Duration{0, -1, 2 * time.Minute} {
		spec := session.Spec{Pipes: []session.PipeSpec{{}}, Lease: &session.CreatorLease{Duration: d}}
		if _, err := reg.Create(t.Context(), spec); !errors.Is(err, session.ErrArgument) {
			t.Errorf("created with %v: %v", d, err)
		}
	}
	plain := create(t, reg, session.Spec{Pipes: []session.PipeSpec{{}}})
	_, err := plain.Renew(s.LeaseToken(), 0)
	wantFault(t, "a session without", err, session.LeaseNone)
	if plain.LeaseToken() != nil || leaseInfo(t, plain) != nil {
		t.Error("a session without lease has one")
	}
	if !p.Running() || p.Info().Stopping != nil {
		t.Error("somebody who was refused has stopped it")
	}
}

func TestSessionThatIsGivenUpIsBoundToNobody(t *testing.T) {
	s, p := startBound(t, newRegistry(t, nil), endsOnEOF, time.Minute)
	token := s.LeaseToken()
	for range 2 {
		if err := s.ReleaseLease(token); err != nil {
			t.Fatal(err)
		}
	}
	if l := leaseInfo(t, s); l != nil {
		t.Errorf("the lease is %+v", l)
	}
	_, err := s.Renew(token, 0)
	wantFault(t, "a renewal", err, session.LeaseNone)
	if !p.Running() || p.Info().Stopping != nil {
		t.Error("it is being stopped")
	}
}

func TestRepeatedCreationTellsTheSameToken(t *testing.T) {
	reg := newRegistry(t, nil)
	spec := session.Spec{RequestID: "once", Pipes: []session.PipeSpec{{}}, Lease: &session.CreatorLease{Duration: time.Minute}}
	one, again := create(t, reg, spec), create(t, reg, spec)
	if one != again || len(one.LeaseToken()) == 0 || !slices.Equal(one.LeaseToken(), again.LeaseToken()) {
		t.Errorf("tokens %x and %x", one.LeaseToken(), again.LeaseToken())
	}
	spec.Lease = &session.CreatorLease{Duration: time.Hour}
	if _, err := reg.Create(t.Context(), spec); !errors.Is(err, session.ErrRequestReused) {
		t.Errorf("with another lease: %v", err)
	}
}
