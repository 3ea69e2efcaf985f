package session_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/keepertest"
	"github.com/piped-dev/piped/session"
)

func TestFileSystemThatHangsHoldsUpOnlyItsOwnStart(t *testing.T) {
	dir := keepertest.Hung(t)
	reg := newRegistry(t, nil)
	for name, spec := range map[string]session.ProcessSpec{
		"the program":   {Args: []string{dir + "/program"}},
		"the directory": {Args: []string{"true"}, Dir: dir + "/work"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stalled := make(chan error, 1)
			go func() {
				_, err := reg.Create(ctx, session.Spec{Name: "stalled", Process: &spec})
				stalled <- err
			}()
			began := time.Now()
			for range 20 {
				s := create(t, reg, session.Spec{Process: &session.ProcessSpec{Args: []string{"true"}}})
				if err := reg.Delete(t.Context(), s.Name(), true); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("20 starts beside it in %v", time.Since(began))
			select {
			case err := <-stalled:
				t.Errorf("it does not hang: %v", err)
			default:
			}
			cancel()
			if err := <-stalled; !errors.Is(err, keeper.ErrHung) || !errors.Is(err, context.Canceled) {
				t.Errorf("%v, want that the file system does not answer", err)
			}
			if _, err := reg.Get("stalled"); !errors.Is(err, session.ErrSessionNotFound) {
				t.Errorf("the session is there: %v", err)
			}
		})
	}
}
