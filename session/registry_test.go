package session_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/keepertest"
	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

func TestMain(m *testing.M) {
	keepertest.Main()
	before := descriptors()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		// The poller of Go itself, opened by the first test, stays.
		if after := descriptors(); code == 0 && after > before+4 {
			_, _ = os.Stderr.WriteString("descriptors leaked\n")
			code = 1
		}
		os.Exit(code)
	}))
}

func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(entries)
}

// newRegistry returns a registry with a real keeper, both closed by the test.
func newRegistry(t *testing.T, change func(*session.Config)) *session.Registry {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	link := keepertest.Start(t)
	cfg := session.DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	reg, _, err := session.New(cfg, link, &keeper.Estate{}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := reg.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return reg
}

func barePipe(t *testing.T, reg *session.Registry, framing string) (one, two *session.Endpoint) {
	t.Helper()
	f := pipe.Framing{Name: framing}
	s, err := reg.Create(t.Context(), session.Spec{Pipes: []session.PipeSpec{{In: f, Out: f}}})
	if err != nil {
		t.Fatal(err)
	}
	if one, err = s.Endpoint("", 1); err != nil {
		t.Fatal(err)
	}
	if two, err = s.Endpoint("", 2); err != nil {
		t.Fatal(err)
	}
	return one, two
}

// receive waits for the next event of a reader.
func receive(t *testing.T, r *session.Reader) pipe.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		ev, err := r.Next(nil, pipe.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if !ev.None() {
			return ev
		}
		select {
		case <-r.Changed():
		case <-ctx.Done():
			t.Fatal("nothing came")
		}
	}
}

func TestCreationIsRepeatableByItsRequestID(t *testing.T) {
	reg := newRegistry(t, nil)
	spec := session.Spec{RequestID: "once", Process: &session.ProcessSpec{Args: []string{"cat"}}}
	var wg sync.WaitGroup
	made := make([]*session.Session, 20)
	for i := range made {
		wg.Go(func() {
			s, err := reg.Create(t.Context(), spec)
			if err != nil {
				t.Error(err)
			}
			made[i] = s
		})
	}
	wg.Wait()
	for _, s := range made {
		if s != made[0] {
			t.Fatal("two sessions for one request")
		}
	}
	if active, _ := reg.Counts(); active != 1 {
		t.Errorf("%d sessions, want 1", active)
	}
	other := spec
	other.Name = "other"
	if _, err := reg.Create(t.Context(), other); !errors.Is(err, session.ErrRequestReused) {
		t.Errorf("same id, other content: %v", err)
	}
	if err := reg.Delete(t.Context(), made[0].Name(), true); err != nil {
		t.Fatal(err)
	}
	if s, err := reg.Create(t.Context(), spec); err != nil || s == made[0] {
		t.Errorf("after deletion the id is free again: %v", err)
	}
}

func TestCreationThatFailsLeavesNothing(t *testing.T) {
	reg := newRegistry(t, nil)
	before := descriptors()
	for _, spec := range []session.Spec{
		{Name: "x", Process: &session.ProcessSpec{Args: []string{"/no/such/program"}}},
		{Name: "x", Process: &session.ProcessSpec{Args: []string{"cat"}, Inherits: []session.Inherit{{Pipe: "none", End: 2, FD: 3}}}},
		{Name: "x", Pipes: []session.PipeSpec{{Name: "a"}, {Name: "a"}}},
		{Name: "x", Pipes: []session.PipeSpec{{In: pipe.Framing{Name: "morse"}}}},
		{Name: "X"},
		{Name: "x"},
	} {
		if _, err := reg.Create(t.Context(), spec); err == nil {
			t.Fatalf("%+v was created", spec)
		}
		if _, err := reg.Get("x"); !errors.Is(err, session.ErrSessionNotFound) {
			t.Fatalf("the name of a failed creation is taken: %v", err)
		}
	}
	waitFor(t, "descriptors to be closed", func() bool { return descriptors() <= before })
}

// waitFor polls a condition that has no event of its own.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestEndedSessionsAreKeptUntilTheyExpireOrAreTooMany(t *testing.T) {
	reg := newRegistry(t, func(c *session.Config) { c.EndedFor, c.EndedMax = time.Hour, 2 })
	var names []string
	for range 4 {
		s, err := reg.Create(t.Context(), session.Spec{Process: &session.ProcessSpec{Args: []string{"true"}}})
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, s.Name())
		waitFor(t, "the session to end", func() bool { _, over := s.Ended(); return over })
	}
	waitFor(t, "the oldest to be removed", func() bool { _, ended := reg.Counts(); return ended == 2 })
	for i, name := range names {
		if _, err := reg.Get(name); (err == nil) != (i >= 2) {
			t.Errorf("session %d of 4: %v", i+1, err)
		}
	}
}

func TestEndedSessionsExpire(t *testing.T) {
	reg := newRegistry(t, func(c *session.Config) { c.EndedFor = 50 * time.Millisecond })
	s, err := reg.Create(t.Context(), session.Spec{Process: &session.ProcessSpec{Args: []string{"true"}}})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "expiry", func() bool { _, err := reg.Get(s.Name()); return err != nil })
}

func TestActiveSessionIsDeletedOnlyByForce(t *testing.T) {
	reg := newRegistry(t, nil)
	s, err := reg.Create(t.Context(), session.Spec{Process: &session.ProcessSpec{Args: []string{"sleep", "1000"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := reg.Delete(t.Context(), s.Name(), false); !errors.Is(err, session.ErrActive) {
		t.Fatalf("got %v", err)
	}
	p, err := s.Process("")
	if err != nil {
		t.Fatal(err)
	}
	if err := reg.Delete(t.Context(), s.UID(), true); err != nil {
		t.Fatal(err)
	}
	if p.Running() {
		t.Error("the process outlived its session")
	}
	if _, err := s.StartProcess(t.Context(), session.ProcessSpec{Args: []string{"true"}}); !errors.Is(err, session.ErrSessionNotFound) {
		t.Errorf("a process started in a deleted session: %v", err)
	}
}

func TestStopClosesInputThenTerminatesThenKills(t *testing.T) {
	reg := newRegistry(t, nil)
	grace := 300 * time.Millisecond
	policy := session.StopPolicy{CloseGrace: &grace, Grace: &grace}
	for _, tc := range []struct {
		name string
		args []string
		code int
		sig  int
	}{
		{"a filter ends with its input", []string{"cat"}, 0, 0},
		{"a sleeper ends by TERM", []string{"sleep", "1000"}, -1, 15},
		{"a stubborn one is killed", []string{"sh", "-c", "trap '' TERM; echo ready; while :; do read x || :; done"}, -1, 9},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := reg.Create(t.Context(), session.Spec{Process: &session.ProcessSpec{Args: tc.args}})
			if err != nil {
				t.Fatal(err)
			}
			if tc.sig == 9 {
				e, err := s.Endpoint("stdio", 1)
				if err != nil {
					t.Fatal(err)
				}
				r, err := e.OpenReader(t.Context(), session.ReaderOptions{})
				if err != nil {
					t.Fatal(err)
				}
				receive(t, r) // the trap is set
				r.Close()
			}
			if err := s.Stop(t.Context(), policy); err != nil {
				t.Fatal(err)
			}
			p, err := s.Process("")
			if err != nil {
				t.Fatal(err)
			}
			if exit := p.Info().Exit; exit.Code != tc.code || int(exit.Signal) != tc.sig {
				t.Errorf("got %+v", exit)
			}
		})
	}
}
