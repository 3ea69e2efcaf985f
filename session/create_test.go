package session_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/keepertest"
	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

func TestOfManyCreationsOfOneNameOneWins(t *testing.T) {
	reg := newRegistry(t, nil)
	errs := make(chan error)
	const callers = 16
	for range callers {
		go func() {
			_, err := reg.Create(t.Context(), session.Spec{Name: "x", Process: &session.ProcessSpec{Args: []string{"cat"}}})
			errs <- err
		}()
	}
	won := 0
	for range callers {
		switch err := <-errs; {
		case err == nil:
			won++
		case !errors.Is(err, session.ErrSessionExists):
			t.Error(err)
		}
	}
	if won != 1 || len(reg.List(session.Filter{})) != 1 {
		t.Errorf("%d callers made %d sessions", won, len(reg.List(session.Filter{})))
	}
}

func TestPipesGetFreeNamesAndAreSealedAlsoWithoutOne(t *testing.T) {
	reg := newRegistry(t, nil)
	s := create(t, reg, session.Spec{
		Pipes: []session.PipeSpec{{}, {Name: "pipe"}, {Name: "stdio"}, {}},
		Process: &session.ProcessSpec{Args: []string{"cat"}, Inherits: []session.Inherit{
			{Pipe: "pipe-2", End: 2, FD: 3, HandOver: true}, {Pipe: "pipe", End: 2, FD: 4}}},
	})
	info, err := s.Info(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range info.Pipes {
		got = append(got, fmt.Sprint(p.Name, " ", p.Ends[0].Sealed))
	}
	if want := "[cat.stdio true stderr true pipe-2 true pipe false stdio false pipe-3 false]"; fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
	p, err := s.CreatePipe(t.Context(), "", session.PipeSpec{})
	if err != nil || p.Info().Name != "pipe-4" {
		t.Errorf("one more: %v", err)
	}
	if _, err := s.CreatePipe(t.Context(), "", session.PipeSpec{Name: "stderr"}); !errors.Is(err, session.ErrPipeExists) {
		t.Errorf("a name that is taken: %v", err)
	}
}

func TestNameThatIsAnotherSessionsUIDIsTaken(t *testing.T) {
	reg := newRegistry(t, nil)
	s := create(t, reg, session.Spec{Pipes: []session.PipeSpec{{}}})
	if _, err := reg.Create(t.Context(), session.Spec{Name: s.UID(), Pipes: []session.PipeSpec{{}}}); !errors.Is(err, session.ErrSessionExists) {
		t.Errorf("got %v", err)
	}
}

func TestCreationAtTheDescriptorLimitFailsCleanly(t *testing.T) {
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 128, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	})
	reg := newRegistry(t, nil)
	spec := session.Spec{Process: &session.ProcessSpec{Args: []string{"cat"}}}
	var made []*session.Session
	for {
		s, err := reg.Create(t.Context(), spec)
		if errors.Is(err, session.ErrDescriptors) {
			break
		}
		if err != nil || len(made) > 128 {
			t.Fatalf("after %d sessions: %v", len(made), err)
		}
		made = append(made, s)
	}
	if len(made) < reg.MaxSessions()/2 {
		t.Errorf("only %d sessions, the estimate is %d", len(made), reg.MaxSessions())
	}
	full, first := descriptors(), len(made)
	for refused := 0; refused < 20; {
		s, err := reg.Create(t.Context(), spec)
		switch {
		case errors.Is(err, session.ErrDescriptors):
			refused++
		case err != nil || len(made) > 128:
			t.Fatalf("after %d sessions: %v", len(made), err)
		default: // the first refusal met descriptors that were just being closed
			made = append(made, s)
		}
	}
	spec.Name = "late"
	waitFor(t, "descriptors to be closed", func() bool { return descriptors() <= full+8*(len(made)-first) })
	if got := len(reg.List(session.Filter{})); got != len(made) {
		t.Errorf("%d sessions are listed, %d were made", got, len(made))
	}
	for _, s := range made[:2] {
		if err := reg.Delete(t.Context(), s.Name(), true); err != nil {
			t.Fatal(err)
		}
	}
	create(t, reg, spec)
}

func TestCloseWaitsForWhatIsBeingMade(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	link := keepertest.Start(t)
	before := descriptors()
	reg, _, err := session.New(session.DefaultConfig(), link, &keeper.Estate{}, log)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := reg.Create(t.Context(), session.Spec{Pipes: []session.PipeSpec{{}}})
	if err != nil {
		t.Fatal(err)
	}
	cat := session.ProcessSpec{Args: []string{"cat"}}
	var wg sync.WaitGroup
	begun := make(chan struct{}, 8)
	for i := range 8 {
		wg.Go(func() {
			for {
				var err error
				if i%2 == 0 {
					_, err = reg.Create(t.Context(), session.Spec{Process: &cat})
				} else {
					_, err = bare.StartProcess(t.Context(), cat)
				}
				if err != nil {
					if !errors.Is(err, session.ErrShutdown) && !errors.Is(err, session.ErrSessionNotFound) {
						t.Error(err)
					}
					return
				}
				select {
				case begun <- struct{}{}:
				default:
				}
			}
		})
	}
	for range cap(begun) {
		<-begun
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := reg.Close(ctx); err != nil {
		t.Error(err)
	}
	wg.Wait()
	waitFor(t, "descriptors to be closed", func() bool { return descriptors() <= before })
	if err := reg.Delete(t.Context(), bare.Name(), true); !errors.Is(err, session.ErrShutdown) {
		t.Errorf("deleting afterwards: %v", err)
	}
}

func TestEndedSessionGivesItsEndsBackAndKeepsItsOutput(t *testing.T) {
	reg := newRegistry(t, nil)
	before := descriptors()
	s := create(t, reg, session.Spec{Process: &session.ProcessSpec{Args: []string{"sh", "-c", "echo said; exit 3"}}})
	waitFor(t, "descriptors to be closed", func() bool {
		// Another exit makes the registry look.
		other := create(t, reg, session.Spec{Process: &session.ProcessSpec{Args: []string{"true"}}})
		p, err := other.Process("")
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := reg.Delete(t.Context(), other.Name(), true); err != nil {
			t.Fatal(err)
		}
		// Its control file and two logs stay, and the scratch pipe of the registry.
		return descriptors() <= before+5
	})
	if _, ended := s.Ended(); !ended {
		t.Error("the session has not ended")
	}
	r := openReader(t, endpoint(t, s, "stdio", 1), session.ReaderOptions{})
	if got := receive(t, r).Batch; string(got.Data) != "said" {
		t.Errorf("got %q", got.Data)
	}
	if end := receive(t, r).End; end == nil || end.Cause != pipe.CauseClosed {
		t.Errorf("end is %+v", end)
	}
	if _, err := s.StartProcess(t.Context(), session.ProcessSpec{Args: []string{"true"}, Inherits: []session.Inherit{{Pipe: "stdio", End: 2, FD: 3}}}); !errors.Is(err, pipe.ErrClosed) {
		t.Errorf("inheriting an end that is gone: %v", err)
	}
}
