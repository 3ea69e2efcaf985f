//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"golang.org/x/sys/unix"
)

const detach = "\x10\x11"

// newProgram starts a program in a session of a new daemon.
func newProgram(t *testing.T, args ...string) (addr string, c *client.Client) {
	t.Helper()
	addr, _ = newDaemon(t)
	c, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	line := &pipedv1.Framing{Name: "line"}
	_, err = c.Create(t.Context(), &pipedv1.CreateSessionRequest{Name: "it", Process: &pipedv1.ProcessSpec{
		Args: args, StdioPipe: &pipedv1.PipeSpec{FramingIn: line, FramingOut: line},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return addr, c
}

func isActive(t *testing.T, c *client.Client) bool {
	t.Helper()
	session, err := c.Get(t.Context(), "it")
	if err != nil {
		t.Fatal(err)
	}
	return session.GetState() == pipedv1.Session_STATE_ACTIVE
}

func TestDetachKeysLeaveTheProgramRunningAndTheTerminalAsItWas(t *testing.T) {
	addr, c := newProgram(t, "sh", "-c", `while read line; do echo "got $line"; echo "warn $line" >&2; done`)
	console := newConsole(t)
	before := console.mode()
	console.starts("--addr", addr, "attach", "it")
	console.ready()
	console.types("hello\n")
	console.sees("got hello", 1)
	console.sees("warn hello", 1)
	// Without Enter: the keys come through at once, and the line is not sent.
	console.types("unfinished" + detach)
	console.exits(0)
	console.sees("pipectl: note: left it, which goes on; to come back: pipectl --addr "+addr+" attach it", 1)
	if diff := cmp.Diff(before, console.mode()); diff != "" {
		t.Errorf("the terminal is left in another mode (-before +after):\n%s", diff)
	}
	if !isActive(t, c) {
		t.Error("the session has ended")
	}

	// What came meanwhile is there on the way back, and nothing twice.
	if err := c.Endpoint(client.Ref{Session: "it"}).Send(t.Context(), []byte("meanwhile")); err != nil {
		t.Fatal(err)
	}
	console.starts("--addr", addr, "attach", "it", "--detach-keys", "ctrl-c")
	console.sees("got meanwhile", 1)
	console.ready()
	console.types("\x03")
	console.exits(0)
	if text := console.text(); strings.Count(text, "got hello") != 1 || strings.Contains(text, "got unfinished") {
		t.Errorf("the screen shows:\n%s", text)
	}
	if diff := cmp.Diff(before, console.mode()); diff != "" {
		t.Errorf("the terminal is left in another mode (-before +after):\n%s", diff)
	}
}

func TestSignalsRestoreTheTerminalAndEndNothing(t *testing.T) {
	addr, c := newProgram(t, "cat")
	for name, leave := range map[string]struct {
		by   func(*console, int)
		code int
	}{
		"ctrl-c": {func(c *console, _ int) { c.types("\x03") }, 130},
		"QUIT":   {func(c *console, _ int) { c.types("\x1c") }, 131},
		"TERM":   {func(_ *console, pid int) { _ = syscall.Kill(pid, syscall.SIGTERM) }, 143},
		"HUP":    {func(_ *console, pid int) { _ = syscall.Kill(pid, syscall.SIGHUP) }, 129},
		"ctrl-d": {func(c *console, _ int) { c.types("\x04") }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			console := newConsole(t)
			before := console.mode()
			pid := console.starts("--addr", addr, "attach", "it")
			console.ready()
			leave.by(console, pid)
			console.exits(leave.code)
			console.sees("to come back: pipectl", 1)
			if diff := cmp.Diff(before, console.mode()); diff != "" {
				t.Errorf("the terminal is left in another mode (-before +after):\n%s", diff)
			}
			if !isActive(t, c) {
				t.Error("the session has ended")
			}
		})
	}
}

func TestSuspendedAttachGivesTheTerminalBackUntilItGoesOn(t *testing.T) {
	addr, _ := newProgram(t, "cat")
	console := newConsole(t)
	before := console.mode()
	console.starts("--addr", addr, "attach", "it")
	console.ready()
	console.types("\x1a")
	console.exits(128 + int(syscall.SIGSTOP)) // it stops itself
	if diff := cmp.Diff(before, console.mode()); diff != "" {
		t.Errorf("suspended in another mode (-before +after):\n%s", diff)
	}
	if _, err := fmt.Fprintln(console.commands, "fg"); err != nil {
		t.Fatal(err)
	}
	console.ready()
	console.types("still here\n")
	console.sees("still here", 2) // typed, and from cat
	console.types(detach)
	console.exits(0)
}

func TestEndOfTheOutputEndsAttach(t *testing.T) {
	// Its output ends after the note was seen, not at once with its input.
	seen := filepath.Join(t.TempDir(), "seen")
	addr, _ := newProgram(t, "sh", "-c", "cat; while ! [ -e \"$1\" ]; do sleep 0.05; done", "sh", seen)
	console := newConsole(t)
	before := console.mode()
	console.starts("--addr", addr, "attach", "it", "--close-input")
	console.ready()
	console.types("last\n\x04")
	console.sees("the input is closed", 1)
	if err := os.WriteFile(seen, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	console.exits(0)
	console.sees("the output has ended: closed", 1)
	console.sees("last", 2)
	if diff := cmp.Diff(before, console.mode()); diff != "" {
		t.Errorf("the terminal is left in another mode (-before +after):\n%s", diff)
	}
}

func TestStolenPenIsToldAndTheLoserLooksOn(t *testing.T) {
	addr, _ := newProgram(t, "cat")
	first, second := newConsole(t), newConsole(t)
	first.starts("--addr", addr, "attach", "it")
	first.ready()
	first.types("one\n")
	first.sees("one", 2)

	refused := exec.Command("pipectl", "--addr", addr, "attach", "it")
	if out, err := refused.CombinedOutput(); err == nil || !strings.Contains(string(out), "--steal") {
		t.Errorf("got %v: %s; want it refused with a hint", err, out)
	}

	second.starts("--addr", addr, "attach", "it", "--steal")
	second.ready()
	// Nothing was typed, and yet it is told.
	first.sees("has the pen now, and you only look on; to take it back: pipectl --addr "+addr+" attach it --steal", 1)
	second.types("two\n")
	second.sees("two", 2)
	first.sees("two", 1)
	first.types("three\n")
	first.sees("nothing that is typed is sent", 1)
	first.types(detach)
	first.exits(0)
	second.types(detach)
	second.exits(0)
	if strings.Contains(second.text(), "three") {
		t.Errorf("what the loser typed went through:\n%s", second.text())
	}
}

func TestObserverLooksAndConsumesNothing(t *testing.T) {
	addr, c := newProgram(t, "cat")
	e := c.Endpoint(client.Ref{Session: "it"})
	if err := e.Send(t.Context(), []byte("seen")); err != nil {
		t.Fatal(err)
	}
	console := newConsole(t)
	console.starts("--addr", addr, "attach", "it", "--observe")
	console.sees("seen", 1)
	console.ready()
	console.types("typed\n")
	console.sees("nothing that is typed is sent", 1)
	console.types(detach)
	console.exits(0)
	r, err := e.NewReader(t.Context(), client.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := r.Next(t.Context()); err != nil || string(m.Data) != "seen" {
		t.Errorf("got %q, %v; want it still there", m.Data, err)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestKeysLoseTheirOtherMeaning(t *testing.T) {
	console := newConsole(t)
	keys := detachKeys{}
	if err := keys.Set("ctrl-d,ctrl-z"); err != nil {
		t.Fatal(err)
	}
	terminal, err := newTerminal(console.under, keys.sent)
	if err != nil {
		t.Fatal(err)
	}
	mode := console.mode()
	if mode.Cc[unix.VEOF] != noKey || mode.Cc[unix.VSUSP] != noKey || mode.Cc[unix.VEOL] != 0x1a || mode.Lflag&unix.ICANON == 0 {
		t.Errorf("got VEOF %#x, VSUSP %#x, VEOL %#x, local modes %#o", mode.Cc[unix.VEOF], mode.Cc[unix.VSUSP], mode.Cc[unix.VEOL], mode.Lflag)
	}
	if err := terminal.restore(); err != nil {
		t.Fatal(err)
	}
}

func TestScriptThatLostThePenFailsWhenItsInputGoesNowhere(t *testing.T) {
	addr, c := newProgram(t, "cat")
	attach := exec.Command("pipectl", "--addr", addr, "attach", "it")
	in, err := attach.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errOut strings.Builder
	attach.Stderr = &errOut
	out, err := attach.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := attach.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("one\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	w, err := c.Endpoint(client.Ref{Session: "it"}).NewWriter(t.Context(), client.WriterOptions{ID: "thief", Steal: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The first that goes nowhere may be taken before it is known.
	for range 2 {
		_, _ = in.Write([]byte("two\n"))
	}
	_ = in.Close()
	err = attach.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		t.Errorf("got %v, want exit code 1", err)
	}
	if !strings.Contains(errOut.String(), "the rest of stdin was not sent: ") || !strings.Contains(errOut.String(), "thief") {
		t.Errorf("stderr says:\n%s", errOut.String())
	}
}
