//go:build linux

package main

import (
	"strings"
	"testing"

	"github.com/piped-dev/piped/client"
)

// alternating writes to both streams in turns, and again for each line it reads.
const alternating = `say() { echo out $1; echo err $1 >&2; echo out again $1; }; say first; while read line; do say $line; done`

func said(line string) string {
	return "out " + line + "\nerr " + line + "\nout again " + line + "\n"
}

func TestRunMergesStderrIntoStdout(t *testing.T) {
	addr, _ := newDaemon(t)
	for _, framing := range []string{"raw", "line"} {
		var out, errOut strings.Builder
		code := run(t.Context(), []string{"--addr", addr, "run", "-q", "--framing", framing, "--merge-stderr", "--", "sh", "-c", alternating},
			strings.NewReader("second\nthird\n"), &out, &errOut)
		if want := said("first") + said("second") + said("third"); code != exitOK || out.String() != want || errOut.String() != "" {
			t.Errorf("%s: exit %d, stdout %q, want %q, stderr %q", framing, code, out.String(), want, errOut.String())
		}
	}
}

func TestMergedStderrGoesOnAfterADaemonThatWasKilled(t *testing.T) {
	addr, _ := newDaemon(t)
	pipectl := func(args ...string) string {
		t.Helper()
		var out, errOut strings.Builder
		if code := run(t.Context(), append([]string{"--addr", addr}, args...), strings.NewReader(""), &out, &errOut); code != exitOK {
			t.Fatalf("%v exits with %d: %s", args, code, errOut.String())
		}
		return out.String()
	}
	pipectl("start", "--name", "both", "--merge-stderr", "--", "sh", "-c", alternating)
	if got := pipectl("recv", "both", "-n", "3"); got != said("first") {
		t.Errorf("received %q", got)
	}
	restart(t, addr)
	pipectl("send", "both", "second")
	if got := pipectl("recv", "both", "-n", "3"); got != said("second") {
		t.Errorf("after a kill: received %q", got)
	}
	c, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	session, err := c.Inspect(t.Context(), "both")
	if err != nil {
		t.Fatal(err)
	}
	if pipes := session.GetPipes(); len(pipes) != 1 || pipes[0].GetName() != "stdio" {
		t.Errorf("pipes %v, want stdio alone", pipes)
	}
	pipectl("close", "both", "--send-only")
	if got := pipectl("wait", "both"); got != "exit 0\n" {
		t.Errorf("it ends with %q", got)
	}
}
