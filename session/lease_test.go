package session_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

// writer opens a writer that must be admitted.
func writer(t *testing.T, e *session.Endpoint, o session.WriterOptions) *session.Writer {
	t.Helper()
	w, err := e.OpenWriter(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// acquire takes a lease that must be granted.
func acquire(t *testing.T, e *session.Endpoint, req session.LeaseRequest) (session.Token, session.Lease) {
	t.Helper()
	token, lease, err := e.AcquireLease(req)
	if err != nil {
		t.Fatal(err)
	}
	return token, lease
}

// wantBusy expects an error that names the client, and returns when its lease expires.
func wantBusy(t *testing.T, err error, client string) time.Time {
	t.Helper()
	busy, ok := errors.AsType[*session.BusyError](err)
	if !ok || busy.Client != client {
		t.Fatalf("got %v, want that %q is named", err, client)
	}
	return busy.Expires
}

func wantFenced(t *testing.T, err error, by string, epoch uint64) {
	t.Helper()
	fenced, ok := errors.AsType[*session.FencedError](err)
	if !ok || !errors.Is(err, session.ErrFenced) || fenced.By != by || fenced.Epoch != epoch {
		t.Fatalf("got %v, want fenced by %q in epoch %d", err, by, epoch)
	}
}

// leases returns the leases of the writer and the consumer as others see them.
func leases(t *testing.T, reg *session.Registry, e *session.Endpoint) (writer, consumer *session.Lease) {
	t.Helper()
	info, err := reg.List(session.Filter{})[0].Info(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range info.Pipes[0].Ends {
		if e.Ref() == fmt.Sprintf("%s/%s:%d", info.Name, info.Pipes[0].Name, end.End) {
			return end.WriterLease, end.ReaderLease
		}
	}
	t.Fatal("no such endpoint")
	return nil, nil
}

func TestLeaseOutlivesACutByItsDurationAndNotLonger(t *testing.T) {
	reg := newRegistry(t, nil)
	one, two := barePipe(t, reg, "mp")
	const long = 20 * time.Second
	claim := session.Claim{Duration: long}
	for name, open := range map[string]func(id string, c session.Claim) (cut func(), err error){
		"writer": func(id string, c session.Claim) (func(), error) {
			w, err := one.OpenWriter(session.WriterOptions{ID: id, Claim: c})
			if err != nil {
				return nil, err
			}
			return w.Cut, nil
		},
		"consumer": func(id string, c session.Claim) (func(), error) {
			r, err := two.OpenReader(t.Context(), session.ReaderOptions{ID: id, Claim: c})
			if err != nil {
				return nil, err
			}
			return r.Cut, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				cut, err := open("a", claim)
				if err != nil {
					t.Fatal(err)
				}
				_, err = open("b", session.Claim{})
				if expires := wantBusy(t, err, "a"); !expires.IsZero() {
					t.Errorf("a lease that a stream holds expires at %v", expires)
				}
				<-time.After(time.Hour) // a stream holds it as long as it likes
				cut()
				<-time.After(long - time.Nanosecond)
				_, err = open("b", session.Claim{})
				if expires := wantBusy(t, err, "a"); !expires.Equal(begin.Add(time.Hour + long)) {
					t.Errorf("it expires at %v", expires)
				}
				again, err := open("a", claim) // comes back in time, by its name
				if err != nil {
					t.Fatal(err)
				}
				<-time.After(2 * long)
				again()
				<-time.After(long)
				synctest.Wait()
				gone, err := open("b", session.Claim{})
				if err != nil {
					t.Fatalf("after its time: %v", err)
				}
				gone()
			})
		})
	}
}

func TestLeaseOfAStreamEndsWithItUnlessItWasCut(t *testing.T) {
	one, two := barePipe(t, newRegistry(t, nil), "mp")
	w := writer(t, one, session.WriterOptions{ID: "a", Claim: session.Claim{Duration: time.Hour}})
	w.Close()
	w.Cut()
	if err := second(one, session.WriterOptions{ID: "b"}); err != nil {
		t.Errorf("after a clean end: %v", err)
	}
	w = writer(t, one, session.WriterOptions{ID: "a"})
	w.Cut()
	if err := second(one, session.WriterOptions{ID: "b"}); err != nil {
		t.Errorf("after a cut, without a duration: %v", err)
	}
	w = writer(t, one, session.WriterOptions{ID: "a", Claim: session.Claim{Duration: time.Hour}})
	w.Cut()
	if err := one.Close(session.CloseOptions{}); err != nil {
		t.Fatal(err)
	}
	r := openReader(t, two, session.ReaderOptions{ID: "r", Claim: session.Claim{Duration: time.Hour}})
	if end := receive(t, r).End; end == nil {
		t.Fatal("no end")
	}
	r.Close()
	openReader(t, two, session.ReaderOptions{ID: "other"}).Close()
}

func TestTokenProvesALeaseUntilItEnds(t *testing.T) {
	reg := newRegistry(t, nil)
	one, _ := barePipe(t, reg, "mp")
	synctest.Test(t, func(t *testing.T) {
		// Nobody has it, so the token of another time proves nothing.
		none := session.Token{1}
		_, err := one.OpenWriter(session.WriterOptions{Claim: session.Claim{Token: none[:]}})
		wantFenced(t, err, "", 0)

		token, lease := acquire(t, one, session.LeaseRequest{Role: session.RoleWriter, Duration: time.Minute})
		if lease.Epoch != 1 || lease.Holder == "" || !lease.Expires.Equal(time.Now().Add(time.Minute)) {
			t.Errorf("got %+v", lease)
		}
		wantBusy(t, second(one, session.WriterOptions{ID: "b"}), lease.Holder)
		// A generated name is nobody's id.
		wantBusy(t, second(one, session.WriterOptions{ID: lease.Holder}), lease.Holder)
		_, err = one.OpenWriter(session.WriterOptions{Claim: session.Claim{Token: none[:]}})
		wantFenced(t, err, lease.Holder, 1)

		// It outlives streams that end cleanly, each time by its own duration.
		for range 3 {
			<-time.After(59 * time.Second)
			w := writer(t, one, session.WriterOptions{ID: "me", Claim: session.Claim{Token: token[:]}})
			if got, l := w.Lease(); got != token || l.Epoch != 1 || !l.Expires.IsZero() {
				t.Errorf("the stream holds %+v", l)
			}
			<-time.After(time.Hour)
			w.Close()
		}
		again, renewed := acquire(t, one, session.LeaseRequest{Role: session.RoleWriter, Duration: time.Hour, Token: token[:]})
		if again != token || renewed.Epoch != 1 || renewed.Holder != lease.Holder || !renewed.Expires.Equal(time.Now().Add(time.Hour)) {
			t.Errorf("renewed: %+v", renewed)
		}
		<-time.After(time.Hour)
		synctest.Wait()
		_, err = one.OpenWriter(session.WriterOptions{ID: "me", Claim: session.Claim{Token: token[:]}})
		wantFenced(t, err, "", 1)
		_, _, err = one.AcquireLease(session.LeaseRequest{Role: session.RoleWriter, Token: token[:]})
		wantFenced(t, err, "", 1)
		if err := one.ReleaseLease(token[:]); err != nil {
			t.Errorf("releasing what has ended: %v", err)
		}
		if err := second(one, session.WriterOptions{ID: "b"}); err != nil {
			t.Error(err)
		}
	})
}

func TestRequestsForLeasesThatMakeNoSense(t *testing.T) {
	reg := newRegistry(t, nil)
	s := create(t, reg, session.Spec{Pipes: []session.PipeSpec{{Kind: pipe.OneWay}}})
	e, err := s.Endpoint("", 1)
	if err != nil {
		t.Fatal(err)
	}
	consumer := session.RoleConsumer
	for name, tc := range map[string]struct {
		req  session.LeaseRequest
		want error
	}{
		"no role":             {session.LeaseRequest{}, session.ErrArgument},
		"a short token":       {session.LeaseRequest{Role: consumer, Token: []byte("x")}, session.ErrArgument},
		"a negative duration": {session.LeaseRequest{Role: consumer, Duration: -1}, session.ErrArgument},
		"a long duration":     {session.LeaseRequest{Role: consumer, Duration: time.Hour + 1}, session.ErrArgument},
		"a long name":         {session.LeaseRequest{Role: consumer, Holder: string(make([]byte, 129))}, session.ErrArgument},
		"the wrong direction": {session.LeaseRequest{Role: session.RoleWriter}, pipe.ErrWrongDirection},
	} {
		if _, _, err := e.AcquireLease(tc.req); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := e.ReleaseLease([]byte("x")); !errors.Is(err, session.ErrArgument) {
		t.Errorf("releasing by a short token: %v", err)
	}
	if _, err := e.OpenReader(t.Context(), session.ReaderOptions{Claim: session.Claim{Duration: 2 * time.Hour}}); !errors.Is(err, session.ErrArgument) {
		t.Errorf("a stream with a long duration: %v", err)
	}
	if err := e.Close(session.CloseOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.AcquireLease(session.LeaseRequest{Role: consumer}); !errors.Is(err, pipe.ErrClosed) {
		t.Errorf("of an endpoint that is closed: %v", err)
	}
}

func TestStolenLeaseFencesTheLoser(t *testing.T) {
	reg := newRegistry(t, nil)
	one, two := barePipe(t, reg, "mp")
	a := writer(t, one, session.WriterOptions{ID: "a", Claim: session.Claim{Duration: time.Hour}})
	old, _ := a.Lease()
	b := writer(t, one, session.WriterOptions{ID: "b", Claim: session.Claim{Steal: true}})
	defer b.Close()
	<-a.Lost()
	wantFenced(t, a.Err(), "b", 2)
	wantFenced(t, a.Send(t.Context(), session.Outgoing{Data: []byte("x")}), "b", 2)
	a.Cut()
	_, err := one.OpenWriter(session.WriterOptions{ID: "a", Claim: session.Claim{Token: old[:]}})
	wantFenced(t, err, "b", 2)
	_, err = one.OpenWriter(session.WriterOptions{ID: "a", Claim: session.Claim{Token: old[:], Steal: true}})
	wantFenced(t, err, "b", 2) // a client that was robbed must not steal back by repeating itself
	if err := b.Send(t.Context(), session.Outgoing{Data: []byte("b")}); err != nil {
		t.Fatal(err)
	}

	first := openReader(t, two, session.ReaderOptions{ID: "a"})
	got := receive(t, first).Batch
	token, lease := acquire(t, two, session.LeaseRequest{Role: session.RoleConsumer, Holder: "b", Steal: true})
	<-first.Lost()
	wantFenced(t, first.Ack(got.Next), "b", 2)
	if _, err := first.Next(nil, pipe.Limits{}); !errors.Is(err, session.ErrFenced) {
		t.Errorf("the loser reads on: %v", err)
	}
	if _, seen := leases(t, reg, two); !cmp.Equal(seen, &lease) {
		t.Errorf("others see %+v, want %+v", seen, lease)
	}
	next := openReader(t, two, session.ReaderOptions{Claim: session.Claim{Token: token[:]}})
	if again := receive(t, next).Batch; string(again.Data) != "b" {
		t.Errorf("got %q: what the loser acknowledged too late is gone", again.Data)
	}
	if err := two.ReleaseLease(token[:]); err != nil {
		t.Fatal(err)
	}
	<-next.Lost()
	wantFenced(t, next.Err(), "", 2)
	if _, seen := leases(t, reg, two); seen != nil {
		t.Errorf("after its release others see %+v", seen)
	}
}

// 16 clients steal the lease from each other and write until they are robbed. What is committed carries the epoch of its writer:
// if it ever goes back, something of a loser was committed after the steal had returned.
func TestOfManyThievesOneWritesAtATime(t *testing.T) {
	one, two := barePipe(t, newRegistry(t, nil), "mp")
	const thieves, steals = 16, 40
	var accepted atomic.Uint64
	var wg sync.WaitGroup
	for i := range thieves {
		wg.Go(func() {
			for range steals {
				n, err := stealAndWrite(t, one, fmt.Sprint(i))
				if err != nil {
					t.Error(err)
				}
				accepted.Add(n)
			}
		})
	}
	go func() {
		wg.Wait()
		if err := one.Close(session.CloseOptions{}); err != nil {
			t.Error(err)
		}
	}()
	r := openReader(t, two, session.ReaderOptions{})
	var came, last uint64
	for ev := receive(t, r); ev.End == nil; ev = receive(t, r) {
		var epoch uint64
		if _, err := fmt.Sscan(string(ev.Batch.Data), &epoch); err != nil {
			t.Fatal(err)
		}
		if epoch < last {
			t.Fatalf("message %v of epoch %d was committed after one of epoch %d", ev.Batch.First, epoch, last)
		}
		came, last = came+1, epoch
		if err := r.Ack(ev.Batch.Next); err != nil {
			t.Fatal(err)
		}
	}
	if came != accepted.Load() || came == 0 {
		t.Errorf("%d messages came, %d were accepted", came, accepted.Load())
	}
}

// stealAndWrite returns how many messages were accepted until another thief came, or enough were.
func stealAndWrite(t *testing.T, e *session.Endpoint, id string) (accepted uint64, err error) {
	w, err := e.OpenWriter(session.WriterOptions{ID: id, Claim: session.Claim{Steal: true}})
	if err != nil {
		return 0, err
	}
	defer w.Close()
	_, lease := w.Lease()
	if lease == nil {
		return 0, nil // robbed already
	}
	for accepted < 200 {
		if err := w.Send(t.Context(), session.Outgoing{Data: fmt.Append(nil, lease.Epoch)}); err != nil {
			if errors.Is(err, session.ErrFenced) {
				err = nil
			}
			return accepted, err
		}
		accepted++
	}
	return accepted, nil
}

func TestUnaryCallsShareALeaseAndLeaveItAlone(t *testing.T) {
	one, _ := barePipe(t, newRegistry(t, nil), "mp")
	synctest.Test(t, func(t *testing.T) {
		call := session.Claim{Call: true}
		if err := second(one, session.WriterOptions{ID: "a", Claim: call}); err != nil {
			t.Fatal(err)
		}
		// What the call took it gave back.
		w := writer(t, one, session.WriterOptions{ID: "b", Claim: session.Claim{Duration: time.Minute}})
		token, _ := w.Lease()
		w.Cut()
		<-time.After(50 * time.Second)
		wantBusy(t, second(one, session.WriterOptions{ID: "a", Claim: call}), "b")
		if err := second(one, session.WriterOptions{ID: "b", Claim: call}); err != nil {
			t.Fatal(err)
		}
		<-time.After(50 * time.Second)
		byToken := call
		byToken.Token = token[:]
		if err := second(one, session.WriterOptions{Claim: byToken}); err != nil {
			t.Fatal(err)
		}
		<-time.After(59 * time.Second)
		wantBusy(t, second(one, session.WriterOptions{ID: "a", Claim: call}), "b")
		<-time.After(time.Second)
		synctest.Wait()
		wantFenced(t, second(one, session.WriterOptions{Claim: byToken}), "", 3) // the call by the name was another life
		if err := second(one, session.WriterOptions{ID: "a", Claim: call}); err != nil {
			t.Error(err)
		}
	})
}

func TestNobodyInheritsAnEndThatIsLeasedToAConsumer(t *testing.T) {
	reg := newRegistry(t, nil)
	s := create(t, reg, session.Spec{Pipes: []session.PipeSpec{{}}})
	e, err := s.Endpoint("", 1)
	if err != nil {
		t.Fatal(err)
	}
	token, _ := acquire(t, e, session.LeaseRequest{Role: session.RoleConsumer, Holder: "me"})
	spec := session.ProcessSpec{Args: []string{"true"}, Inherits: []session.Inherit{{Pipe: "pipe", End: 1, FD: 3}}}
	_, err = s.StartProcess(t.Context(), spec)
	wantBusy(t, err, "me")
	if err := e.ReleaseLease(token[:]); err != nil {
		t.Fatal(err)
	}
	if _, err = s.StartProcess(t.Context(), spec); err != nil {
		t.Error(err)
	}
}

func TestStreamThatIsRefusedLeavesTheLeaseAsItWas(t *testing.T) {
	reg := newRegistry(t, nil)
	_, two := barePipe(t, reg, "mp")
	bad := session.ReaderOptions{ID: "a", Start: session.StartPosition, Position: pipe.Position{Message: 9}, Claim: session.Claim{Duration: time.Hour}}
	if _, err := two.OpenReader(t.Context(), bad); !errors.Is(err, pipe.ErrPosition) {
		t.Fatal(err)
	}
	if _, l := leases(t, reg, two); l != nil {
		t.Errorf("a refused stream left %+v", l)
	}
	openReader(t, two, session.ReaderOptions{ID: "a", Claim: session.Claim{Duration: time.Hour}}).Cut()
	if _, err := two.OpenReader(t.Context(), bad); !errors.Is(err, pipe.ErrPosition) {
		t.Fatal(err)
	}
	if _, l := leases(t, reg, two); l == nil || l.Holder != "a" {
		t.Errorf("a refused stream ended the lease that waited for it: %+v", l)
	}
}

func TestLeasesEndWithTheirEndpoint(t *testing.T) {
	reg := newRegistry(t, nil)
	w := watch(t, reg, session.WatchOptions{})
	wantHeard(t, w, "snapshot end")
	one, two := barePipe(t, reg, "mp")
	name := hear(t, w).Event.Session
	acquire(t, one, session.LeaseRequest{Role: session.RoleWriter, Holder: "a"})
	acquire(t, two, session.LeaseRequest{Role: session.RoleConsumer, Holder: "b"})
	held := openReader(t, two, session.ReaderOptions{ID: "b"})
	wantHeard(t, w, "acquired "+name+" pipe 1 1 a 1", "acquired "+name+" pipe 2 2 b 1")
	if err := one.Close(session.CloseOptions{}); err != nil {
		t.Fatal(err)
	}
	released := func(want string) {
		t.Helper()
		for n := hear(t, w); n.Event.Lease == nil || describe(n) != want; n = hear(t, w) {
			if n.Event.Lease != nil {
				t.Fatalf("got %q, want %q", describe(n), want)
			}
		}
	}
	released("released " + name + " pipe 1 1 a 1 (the endpoint is closed)")
	if l, _ := leases(t, reg, one); l != nil {
		t.Errorf("others see %+v", l)
	}
	if err := reg.Delete(t.Context(), name, true); err != nil {
		t.Fatal(err)
	}
	held.Cut()                                                              // its stream held it until now
	released("released " + name + " pipe 2 2 b 2 (the endpoint is closed)") // the stream came by the name
}

func TestLeasesThatWaitEndWithTheirSession(t *testing.T) {
	reg := newRegistry(t, nil)
	one, _ := barePipe(t, reg, "mp")
	name := reg.List(session.Filter{})[0].Name()
	acquire(t, one, session.LeaseRequest{Role: session.RoleWriter, Holder: "a"})
	if err := reg.Delete(t.Context(), name, true); err != nil {
		t.Fatal(err)
	}
	var heard []string
	for _, n := range hearAll(t, watch(t, reg, session.WatchOptions{Retained: true, StopAtNow: true})) {
		heard = append(heard, describe(n))
	}
	if !slices.Contains(heard, "released "+name+" pipe 1 1 a 1 (the endpoint is closed)") || heard[len(heard)-1] != "deleted "+name {
		t.Errorf("heard %q", heard)
	}
}
