package seed

import (
	"os"
	"path/filepath"
	"testing"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

func TestMain(m *testing.M) { daemon.Main(m) }

// A driver is somebody who uses the daemon. Its methods fail the test when the
// daemon refuses. An end is named SESSION[/PIPE][:END].
type driver interface {
	// pipe makes a session of that name with one pipe, "pipe".
	pipe(name, framing string)
	// start starts args in a new session, with end 2 of a pipe "ctl", framed mp,
	// as descriptor 3.
	start(name string, args ...string)
	// filter starts args in a new session, with nothing but stdio.
	filter(name string, args ...string)
	// inherit starts args in the session of pipe, with copies of the ends 1 and
	// 2 as descriptors 3 and 4.
	inherit(session string, args ...string)
	// send sends each message.
	send(ref string, messages ...string)
	// recv receives n messages.
	recv(ref string, n int) []string
	// recvAll receives up to the end, which must be a whole one.
	recvAll(ref string) []string
	// ready says whether there is something to receive, or the end.
	ready(ref string) bool
	// closeEnd closes the daemon's copy, and returns once everything is handed
	// over.
	closeEnd(ref string)
	// closeSend closes the sending direction alone.
	closeSend(ref string)
	// inspect returns the session, with holders.
	inspect(session string) *pipedv1.Session
	// signal signals the first process.
	signal(session, signal string)
	// wait waits for the first process and returns "exit CODE" or "signal NAME".
	wait(session string) string
}

// drive runs a test with each driver, each with a daemon of its own.
func drive(t *testing.T, test func(t *testing.T, d driver)) {
	t.Run("pipectl", func(t *testing.T) {
		test(t, &cli{t: t, daemon: daemon.Start(t)})
	})
	t.Run("client", func(t *testing.T) {
		test(t, &library{t: t, client: daemon.Start(t).Dial(t)})
	})
}

// python is the interpreter of the system: the one in PATH may be a script that
// looks for others.
const python = "/usr/bin/python3"

// script returns the command that runs one of the programs of the demo.
func script(t *testing.T, name string) []string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "demo", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	return []string{python, "-u", path}
}
