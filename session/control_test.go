package session_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/piped-dev/piped/session"
)

// controlFiles counts the control files that this process has open.
func controlFiles() (n int) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.Contains(to, "piped-control") {
			n++
		}
	}
	return n
}

func TestDeletionDuringCreationsLeavesNothing(t *testing.T) {
	reg := newRegistry(t, nil)
	for range 200 {
		s := create(t, reg, session.Spec{Process: &session.ProcessSpec{Args: []string{"true"}}})
		created, done := make(chan struct{}, 1), make(chan struct{})
		go func() {
			defer close(done)
			for {
				if _, err := s.CreatePipe(context.WithoutCancel(t.Context()), "", session.PipeSpec{}); err != nil {
					return
				}
				select {
				case created <- struct{}{}:
				default:
				}
			}
		}()
		<-created
		if err := reg.Delete(t.Context(), s.Name(), true); err != nil {
			t.Fatal(err)
		}
		<-done
	}
	waitFor(t, "all control files to be closed", func() bool { return controlFiles() == 0 })
}

func TestDeletionThatIsGivenUpLeavesNoControlFile(t *testing.T) {
	reg := newRegistry(t, nil)
	for range 20 {
		s := create(t, reg, session.Spec{Process: &session.ProcessSpec{Args: []string{"sleep", "1000"}}})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = reg.Delete(ctx, s.Name(), true) // whether it was in time is open
	}
	waitFor(t, "all control files to be closed", func() bool { return controlFiles() == 0 })
}
