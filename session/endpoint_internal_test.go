package session

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/keepertest"
)

func TestNobodyBeginsToReadAnEndThatAProcessIsBeingStartedWith(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	link := keepertest.Start(t)
	reg, _, err := New(DefaultConfig(), link, &keeper.Estate{}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := reg.Close(context.Background()); err != nil {
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
