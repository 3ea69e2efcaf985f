package session

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/keepertest"
)

func TestCloseWaitsForCallsUnderWay(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	link := keepertest.Start(t)
	reg, _, err := New(DefaultConfig(), link, &keeper.Estate{}, log)
	if err != nil {
		t.Fatal(err)
	}
	leave, err := reg.enter()
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- reg.Close(t.Context()) }()
	<-reg.ctx().Done()
	select {
	case err := <-closed:
		t.Fatalf("Close did not wait: %v", err)
	case <-time.After(50 * time.Millisecond): // long enough for a Close that does not wait
	}
	leave()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if _, err := reg.enter(); !errors.Is(err, ErrShutdown) {
		t.Errorf("a call after Close: %v", err)
	}
}

func TestCreationThatIsOvertakenByCloseLeavesNoSession(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	link := keepertest.Start(t)
	reg, _, err := New(DefaultConfig(), link, &keeper.Estate{}, log)
	if err != nil {
		t.Fatal(err)
	}
	leave, err := reg.enter() // the creation has begun
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- reg.Close(t.Context()) }()
	<-reg.ctx().Done() // Close has looked at all sessions
	if _, err := reg.reserveName(&Spec{Name: "late", Pipes: []PipeSpec{{}}}); !errors.Is(err, ErrShutdown) {
		t.Errorf("a session that nobody will end: %v", err)
	}
	leave()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestSessionIsNotSeenBeforeItIsBuilt(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	link := keepertest.Start(t)
	cfg := DefaultConfig()
	cfg.EndedMax = 0
	reg, _, err := New(cfg, link, &keeper.Estate{}, log)
	if err != nil {
		t.Fatal(err)
	}
	spec := Spec{Name: "x", Pipes: []PipeSpec{{}}}
	s, err := reg.reserveName(&spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reg.Get("x"); !errors.Is(err, ErrSessionNotFound) {
		t.Errorf("getting it: %v", err)
	}
	if err := reg.Delete(t.Context(), s.UID(), true); !errors.Is(err, ErrSessionNotFound) {
		t.Errorf("deleting it: %v", err)
	}
	if got := len(reg.List(Filter{})) + len(reg.expired(s.created)); got != 0 {
		t.Errorf("it is listed or has expired")
	}
	if err := s.build(t.Context(), &spec); err != nil {
		t.Fatal(err)
	}
	if got, err := reg.Get("x"); got != s {
		t.Errorf("after that: %v", err)
	}
	if err := reg.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
