//go:build linux

package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestBoundProgramIsStoppedWhenPipectlIsKilled(t *testing.T) {
	addr, _ := newDaemon(t)
	c, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	// The test binary is pipectl when it is called so.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	killed := func(name string, flags ...string) {
		t.Helper()
		in, holds, err := os.Pipe() // its input does not end before it is killed
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = in.Close(); _ = holds.Close() }()
		args := append(append([]string{"--addr", addr, "run", "-q", "--name", name}, flags...), "--", "cat")
		cmd := exec.Command(self, args...)
		cmd.Args[0], cmd.Stdin = "pipectl", in
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool {
			s, err := c.Get(t.Context(), name)
			return err == nil && s.GetPipes()[0].GetEndpoints()[0].GetInbox().GetClient() != ""
		})
		last := time.Time{}
		for range 3 * len(flags) { // it is kept alive
			eventually(t, func() bool {
				s, err := c.Get(t.Context(), name)
				now := s.GetLease().GetExpireTime().AsTime()
				longer := err == nil && now.After(last)
				last = now
				return longer
			})
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
	}
	killed("free")
	killed("bound", "--bound=3s")
	process, err := c.Wait(t.Context(), "bound", "", client.Forever)
	if err != nil || process.GetExit().GetCause() != pipedv1.Exit_CAUSE_LEASE_ENDED {
		t.Errorf("%v, %v", process, err)
	}
	if got := exitCauseText(process); !strings.HasSuffix(got, "(its creator was gone)") {
		t.Errorf("told as %q", got)
	}
	var out, errOut strings.Builder
	if code := run(t.Context(), []string{"--addr", addr, "inspect", "bound"}, strings.NewReader(""), &out, &errOut); code != exitOK || !strings.Contains(out.String(), "its creator was gone at ") {
		t.Errorf("inspect exits with %d: %s%s", code, out.String(), errOut.String())
	}
	if process, err := c.Wait(t.Context(), "free", "", 0); err != nil || process.GetState() != pipedv1.Process_STATE_RUNNING {
		t.Errorf("one that is not bound: %v, %v", process, err)
	}
}

func TestBoundProgramEndsAsAnyOther(t *testing.T) {
	addr, _ := newDaemon(t)
	for want, args := range map[exitCode][]string{
		3:         {"run", "-q", "--bound", "--", "sh", "-c", "exit 3"},
		exitError: {"run", "-q", "--bound=-1s", "--", "true"},
	} {
		var out, errOut strings.Builder
		code := run(t.Context(), append([]string{"--addr", addr}, args...), strings.NewReader(""), &out, &errOut)
		if refused := want == exitError; refused != strings.Contains(errOut.String(), "give a duration above 0") || !refused && (code != want || errOut.String() != "") {
			t.Errorf("%v exits with %d: %s", args, code, errOut.String())
		}
	}
}
