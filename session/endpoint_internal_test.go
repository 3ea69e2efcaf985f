package session

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/piped-dev/piped/keeper"
)

func TestNobodyBeginsToReadAnEndThatAProcessIsBeingStartedWith(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	k := keeper.New(log)
	reg, err := New(DefaultConfig(), k, log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(reg.Close(context.Background()), k.Close()); err != nil {
			t.Error(err)
		}
	}()
	s, err := reg.Create(t.Context(), Spec{Pipes: []PipeSpec{{}}})
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.Endpoint("", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.bequeath(t.Context(), "child"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.OpenReader(t.Context(), ReaderOptions{}); !errors.Is(err, ErrBusyReader) {
		t.Errorf("while it is being started: %v", err)
	}
	e.settle()
	r, err := e.OpenReader(t.Context(), ReaderOptions{})
	if err != nil {
		t.Fatalf("when that has failed: %v", err)
	}
	r.Close()
}
