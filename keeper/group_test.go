package keeper_test

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
)

// startGroup starts a script whose last line of preparation is "ready", and
// returns what it and its descendants write.
func startGroup(t *testing.T, k *front, script string) (keeper.Process, *os.File) {
	t.Helper()
	out, w := pipe(t)
	spec := program("/bin/sh", "-c", script)
	spec.Files = []keeper.File{{FD: 0, Source: -1}, {FD: 1, Source: w}, {FD: 2, Source: 2}}
	p := start(t, k, spec)
	closeFD(t, w)
	if line := readLine(t, out); line != "ready" {
		t.Fatalf("it says %q", line)
	}
	return p, out
}

// wantAllGone waits until nobody is left who could write.
func wantAllGone(t *testing.T, out *os.File) {
	t.Helper()
	if err := out.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Errorf("a descendant is left: %v", err)
	}
}

func TestSignalToTheGroupReachesDescendants(t *testing.T) {
	p, out := startGroup(t, newKeeper(t), "sleep 1000 & echo ready; wait")
	if err := p.SignalGroup(unix.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	if exit := waitDone(t, p); exit.Signal != unix.SIGTERM {
		t.Errorf("exit %+v", exit)
	}
	wantAllGone(t, out)
	if err := p.SignalGroup(unix.SIGTERM, false); !errors.Is(err, keeper.ErrExited) {
		t.Errorf("after the exit: error %v, want %v", err, keeper.ErrExited)
	}
}

func TestSweepKillsWhatTheLeaderLeavesBehind(t *testing.T) {
	const stubborn = `sh -c 'trap "" TERM; echo ready; while :; do sleep 1000; done' & wait`
	for name, send := range map[string]func(p keeper.Process) error{
		"with the signal":      func(p keeper.Process) error { return p.SignalGroup(unix.SIGTERM, true) },
		"before a signal":      func(p keeper.Process) error { return errors.Join(p.SignalGroup(0, true), p.Signal(unix.SIGTERM)) },
		"when it ends by KILL": func(p keeper.Process) error { return errors.Join(p.SignalGroup(0, true), p.Signal(unix.SIGKILL)) },
	} {
		t.Run(name, func(t *testing.T) {
			p, out := startGroup(t, newKeeper(t), stubborn)
			if err := send(p); err != nil {
				t.Fatal(err)
			}
			waitDone(t, p)
			wantAllGone(t, out)
		})
	}
}
