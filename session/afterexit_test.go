package session_test

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

// leavesBehind starts a script that leaves a descendant with its output, which says
// its pid first, and exits with 3.
func leavesBehind(t *testing.T, reg *session.Registry, after session.AfterExit, descendant string) (s *session.Session, p *session.Process, left int) {
	t.Helper()
	s = create(t, reg, session.Spec{Process: &session.ProcessSpec{Args: []string{"sh", "-c", `sh -c 'echo $$; ` + descendant + `' & read x; exit 3`}, AfterExit: after}})
	r := openReader(t, endpoint(t, s, "stdio", 1), session.ReaderOptions{})
	left, err := strconv.Atoi(string(receive(t, r).Batch.Data))
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if err := endpoint(t, s, "stdio", 1).Close(session.CloseOptions{SendOnly: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(left, syscall.SIGKILL) })
	if p, err = s.Process(""); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, p, left
}

func awaitEnded(t *testing.T, s *session.Session) {
	t.Helper()
	waitFor(t, "the session to end", func() bool { return s.State() == session.Ended })
}

func TestPipeThatADescendantHoldsIsGivenUp(t *testing.T) {
	grace := short
	s, p, left := leavesBehind(t, newRegistry(t, nil), session.AfterExit{Mode: session.AfterExitEnd, Grace: &grace},
		`while :; do echo more; done`)
	awaitEnded(t, s)
	info, err := s.Info(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	end := info.Pipes[0].Ends[0].Inbox.End
	if end == nil || end.Cause != pipe.CauseAbandoned || !strings.Contains(end.Detail, strconv.Itoa(left)) {
		t.Errorf("end %+v, want one that names %d", end, left)
	}
	if exit := p.Info().Exit; exit.Code != 3 {
		t.Errorf("exit %+v", exit)
	}
	waitFor(t, "what comes later to be thrown away", func() bool {
		info, err := s.Info(t.Context(), false)
		return err == nil && info.Pipes[0].Ends[0].Inbox.Thrown > 1<<20
	})
	found := false
	for _, h := range info.Pipes[0].Ends[1].Holders {
		if h.Pid == left {
			found = true
			if h.Process != p.Name() || h.Reads || !h.Writes || time.Since(h.Started) > time.Minute || h.Started.After(time.Now().Add(time.Second)) {
				t.Errorf("holder %+v", h)
			}
		}
	}
	if !found {
		t.Errorf("%d is not among %+v", left, info.Pipes[0].Ends[1].Holders)
	}
}

func TestPipeThatADescendantHoldsIsWaitedForUnlessSaidOtherwise(t *testing.T) {
	s, _, left := leavesBehind(t, newRegistry(t, nil), session.AfterExit{}, `exec sleep 1000`)
	if s.State() == session.Ended {
		t.Error("it has ended")
	}
	if err := syscall.Kill(left, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitEnded(t, s)
	info, err := s.Info(t.Context(), false)
	if err != nil || info.Pipes[0].Ends[0].Inbox.End.Cause != pipe.CauseClosed {
		t.Errorf("end %+v, %v", info.Pipes[0].Ends[0].Inbox.End, err)
	}
}

func TestDescendantIsKilledWithTheExit(t *testing.T) {
	s, _, left := leavesBehind(t, newRegistry(t, nil), session.AfterExit{Mode: session.AfterExitKill}, `trap "" TERM HUP; while :; do sleep 1000; done`)
	waitFor(t, "the descendant to be killed", func() bool { return syscall.Kill(left, 0) != nil })
	awaitEnded(t, s)
	info, err := s.Info(t.Context(), false)
	if err != nil || info.Pipes[0].Ends[0].Inbox.End.Cause != pipe.CauseClosed {
		t.Errorf("end %+v, %v", info.Pipes[0].Ends[0].Inbox.End, err)
	}
}

func TestAfterExitThatMakesNoSenseIsRefused(t *testing.T) {
	reg := newRegistry(t, nil)
	negative, grace := -time.Second, time.Second
	for _, after := range []session.AfterExit{
		{Mode: session.AfterExitKill + 1}, {Mode: session.AfterExitEnd, Grace: &negative}, {Grace: &grace}, {Mode: session.AfterExitWait, Grace: &grace},
	} {
		if _, err := reg.Create(t.Context(), session.Spec{Process: &session.ProcessSpec{Args: []string{"true"}, AfterExit: after}}); err == nil {
			t.Errorf("%+v is accepted", after)
		}
	}
}
