//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/piped-dev/piped/client"
	"golang.org/x/sys/unix"
)

// setSize gives the console another size.
func (c *console) setSize(rows, columns uint16) {
	c.t.Helper()
	if err := unix.IoctlSetWinsize(int(c.screen.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		c.t.Fatal(err)
	}
}

// shell are the arguments of a shell with a prompt that nothing else shows.
func shell(flags ...string) []string {
	return append(flags, "--env", "PS1=<pr%ompt>", "--", "bash", "--norc", "--noprofile", "-i")
}

const prompt = "<pr%ompt>"

// dial returns a client of a daemon.
func dial(t *testing.T, addr string) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// wantMode compares the mode of the console with what it was.
func (c *console) wantMode(before unix.Termios) {
	c.t.Helper()
	if diff := cmp.Diff(before, c.mode()); diff != "" {
		c.t.Errorf("the terminal is left in another mode (-before +after):\n%s", diff)
	}
}

func TestRunOnATerminalIsAsSSHDoesIt(t *testing.T) {
	addr, _ := newDaemon(t)
	console := newConsole(t)
	console.setSize(33, 101)
	before := console.mode()
	console.starts(append([]string{"--addr", addr}, shell("run", "-t", "--name", "it")...)...)
	console.sees(prompt, 1)
	console.types("stty size; tty\r")
	console.sees("33 101", 1)
	console.sees("/dev/pts/", 1)
	// The keys are the program's: its foreground job is interrupted, and nothing else.
	console.types("echo in-$((6*7)); sleep 1000\r")
	console.sees("in-42", 1)
	console.types("\x03")
	console.sees(prompt, 3)
	console.setSize(44, 55)
	console.types("until [ \"$(stty size)\" = '44 55' ]; do sleep 0.05; done; echo now-$((1+1))\r")
	console.sees("now-2", 1)
	if text := inspectText(t, addr, "it"); !strings.Contains(text, "terminal, raw, 44 rows, 55 columns") {
		t.Errorf("inspect says:\n%s", text)
	}
	console.types("exit 7\r")
	console.exits(7)
	console.wantMode(before)
	if _, err := dial(t, addr).Get(t.Context(), "it"); err == nil {
		t.Error("the session is still there")
	}
}

func inspectText(t *testing.T, addr, ref string) string {
	t.Helper()
	out, err := exec.Command("pipectl", "--addr", addr, "inspect", ref).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestTerminalIsLeftAndComeBackTo(t *testing.T) {
	addr, _ := newDaemon(t)
	console := newConsole(t)
	before := console.mode()
	console.starts(append([]string{"--addr", addr}, shell("run", "-t", "--name", "it")...)...)
	console.sees(prompt, 1)
	console.types("echo one-$((1+1)); unfin" + detach)
	console.exits(0)
	console.sees("to come back: pipectl --addr "+addr+" attach it", 1)
	console.wantMode(before)
	console.starts("--addr", addr, "attach", "it")
	console.ready()
	console.types("ished=3; echo two-$unfinished\r")
	console.sees("one-2", 1)
	console.sees("two-3", 1)
	console.types("exit\r")
	console.exits(0)
	console.sees("the output has ended: closed", 1)
	console.wantMode(before)
}

func TestSignalsEndARunOnATerminalAndRestoreIt(t *testing.T) {
	addr, _ := newDaemon(t)
	c := dial(t, addr)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			console := newConsole(t)
			before := console.mode()
			pid := console.starts(append([]string{"--addr", addr}, shell("run", "-t", "--name", "it")...)...)
			console.sees(prompt, 1)
			console.ready()
			if err := syscall.Kill(pid, sig); err != nil {
				t.Fatal(err)
			}
			console.exits(128 + int(sig))
			console.wantMode(before)
			if _, err := c.Get(t.Context(), "it"); err == nil {
				t.Error("the session is still there")
			}
		})
	}
}

// What is typed and what is shown is counted: nothing is lost or doubled.
func TestTerminalGoesOnWhenTheDaemonIsKilled(t *testing.T) {
	addr, _ := newDaemon(t)
	console := newConsole(t)
	console.starts("--addr", addr, "run", "-t", "--name", "it", "--", "sh", "-c",
		`stty raw -echo; echo ready; dd bs=1 count=3000 2>/dev/null | sed 's/;/.;/g' | tee "$1"`, "sh", t.TempDir()+"/got")
	console.sees("ready", 1)
	console.ready()
	var want strings.Builder
	for i := range 3 {
		for n := range 150 {
			text := fmt.Sprintf("%05d;", i*150+n)
			want.WriteString(strings.ReplaceAll(text, ";", ".;"))
			console.types(text)
		}
		restart(t, addr)
	}
	console.types(strings.Repeat("x", 300))
	console.exits(0)
	_, shown, _ := strings.Cut(console.text(), "ready\n")
	shown = regexp.MustCompile("pipectl: note: [^\n]*\n").ReplaceAllString(shown, "") // of the lost connection
	shown, _, _ = strings.Cut(shown, "x")
	if shown != want.String() {
		t.Errorf("the screen shows %d bytes, want %d: %s", len(shown), want.Len(), difference(shown, want.String()))
	}
}

func TestTerminalWithoutOneHere(t *testing.T) {
	addr, _ := newDaemon(t)
	cmd := exec.Command("pipectl", "--addr", addr, "run", "-q", "-t", "--", "sh", "-c", "stty -echo; echo ready; cat; exit 4")
	cmd.Stdin = strings.NewReader("typed\nand no newline")
	out, err := cmd.CombinedOutput()
	if exit := cmd.ProcessState.ExitCode(); exit != 4 || !strings.Contains(string(out), "ready\r\n") || !strings.Contains(string(out), "and no newline") {
		t.Errorf("exit %d, %v: %q", exit, err, out)
	}
}

func TestOutputTerminalOfARunChangesNoByte(t *testing.T) {
	addr, _ := newDaemon(t)
	cmd := exec.Command("pipectl", "--addr", addr, "run", "-q", "--stdout-tty", "--", "sh", "-c", "test -t 1 && ! test -t 0 && ! test -t 2 && cat && echo err >&2")
	cmd.Stdin = strings.NewReader("a\x00\x04\x03\r\nb\n")
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil || string(out) != "a\x00\x04\x03\r\nb\n" || errOut.String() != "err\n" {
		t.Errorf("%v: %q, %q", err, out, errOut.String())
	}
}

func TestResizeOfAStartedTerminal(t *testing.T) {
	addr, _ := newDaemon(t)
	pipectl := func(args ...string) string {
		out, err := exec.Command("pipectl", append([]string{"--addr", addr}, args...)...).CombinedOutput()
		if err != nil {
			return string(out) + err.Error()
		}
		return string(out)
	}
	dir := t.TempDir()
	if got := pipectl("start", "-t", "--name", "it", "--env", "OUT="+dir+"/size", "--", "sh", "-c",
		`trap 'stty size > "$OUT"; exit' WINCH; echo ready; while :; do sleep 0.05; done`); got != "it\n" {
		t.Fatal(got)
	}
	if got := pipectl("recv", "it"); got != "ready\r\n" {
		t.Fatalf("%q", got)
	}
	if got := pipectl("resize", "it", "12x34"); got != "" {
		t.Fatal(got)
	}
	pipectl("wait", "it")
	if got, err := os.ReadFile(dir + "/size"); err != nil || string(got) != "12 34\n" {
		t.Errorf("%q, %v", got, err)
	}
	for _, text := range []string{"12", "0x1", "1x0", "12x", "70000x1", "x"} {
		if _, err := parseSize(text); !isUsage(err) {
			t.Errorf("%q: got %v, want wrong use", text, err)
		}
	}
}
