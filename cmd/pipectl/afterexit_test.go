//go:build linux

package main

import (
	"context"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// leaver leaves a descendant with its output, and exits.
const leaver = `sleep 1000 & exit 3`

func TestGivingUpAPipeSurvivesADaemonThatIsKilled(t *testing.T) {
	addr, _ := newDaemon(t)
	begin(t, addr, "start", "--name", "left", "--after-exit", "end", "--after-exit-grace", "1500ms", "--", "sh", "-c", leaver).ends("start", "left\n")
	begin(t, addr, "wait", "left").ends("wait", "exit 3\n")
	restart(t, addr)
	begin(t, addr, "wait", "left", "--end", "--timeout", "20s").ends("wait", "exit 3\n")
	c, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	s, err := c.Inspect(t.Context(), "left")
	if err != nil {
		t.Fatal(err)
	}
	end := s.GetPipes()[0].GetEndpoints()[0].GetInbox().GetEnd()
	if end.GetCause() != pipedv1.EndCause_END_CAUSE_ABANDONED || !strings.Contains(end.GetDetail(), "sleep") {
		t.Errorf("end %v", end)
	}
	begin(t, addr, "rm", "left").ends("rm", "")
}

func TestWaitExplainsWhyTheEndOfFileDoesNotCome(t *testing.T) {
	addr, _ := newDaemon(t)
	begin(t, addr, "start", "--name", "held", "--", "sh", "-c", "read x; "+leaver).ends("start", "held\n")
	v := begin(t, addr, "wait", "held", "--end", "--explain")
	v.says(&v.errOut, "sh (pid ")
	v.says(&v.errOut, "input through held/stdio:1 may still come: pipectl close held/stdio:1 --send-only ends it")
	begin(t, addr, "close", "held", "--send-only").ends("close", "")
	v.says(&v.errOut, "the end of file of held/stdio:1 has not come: held by sleep 1000 (pid ")
	c, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	s, err := c.Inspect(t.Context(), "held")
	if err != nil {
		t.Fatal(err)
	}
	reasons := strings.Join(reasonsOf(s, ""), "\n")
	if want := regexp.MustCompile(`held by sleep 1000 \(pid \d+, since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\), which is sh or a descendant of it`); !want.MatchString(reasons) {
		t.Errorf("it explains %q, want %v", reasons, want)
	}
	begin(t, addr, "rm", "--force", "held").ends("rm", "")
	killHolders(t, s)
	if code := <-v.exited; code != exitOK {
		t.Errorf("wait exits with %d: %s", code, v.errOut.String())
	}
}

func TestWaitForTheEndHasATimeout(t *testing.T) {
	addr, _ := newDaemon(t)
	begin(t, addr, "start", "--name", "slow", "--", "sh", "-c", leaver).ends("start", "slow\n")
	v := begin(t, addr, "wait", "slow", "--end", "--timeout", "300ms")
	if code := <-v.exited; code != exitTimeout {
		t.Errorf("it exits with %d", code)
	}
	v.says(&v.errOut, "--explain says why")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	s, err := c.Inspect(ctx, "slow")
	if err != nil {
		t.Fatal(err)
	}
	killHolders(t, s)
}

// killHolders ends the descendants that were left.
func killHolders(t *testing.T, s *pipedv1.Session) {
	t.Helper()
	for _, h := range s.GetPipes()[0].GetEndpoints()[1].GetHolders() {
		if !h.GetDaemon() {
			_ = syscall.Kill(int(h.GetPid()), syscall.SIGKILL)
		}
	}
}
