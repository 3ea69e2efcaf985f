//go:build linux

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestUsageIsKnownToADaemonThatDidNotSeeTheExit(t *testing.T) {
	addr, _ := newDaemon(t)
	c, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	session, err := c.Create(t.Context(), &pipedv1.CreateSessionRequest{Name: "burnt", Process: &pipedv1.ProcessSpec{
		Args: []string{"sh", "-c", "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"}}})
	if err != nil {
		t.Fatal(err)
	}
	pid := int(session.GetProcesses()[0].GetPid())
	eventually(t, func() bool { return isDead(pid) })
	usage := func() *pipedv1.ProcessUsage {
		t.Helper()
		process, err := c.Wait(t.Context(), "burnt", "", client.Forever)
		if err != nil {
			t.Fatal(err)
		}
		return process.GetExit().GetUsage()
	}
	restart(t, addr)
	first := usage()
	if first.GetUserTime().AsDuration()+first.GetSystemTime().AsDuration() < 10*time.Millisecond || first.GetPeakMemoryBytes() < 1<<20 {
		t.Errorf("usage %v", first)
	}
	restart(t, addr)
	rekeep(t, addr)
	restart(t, addr)
	if diff := cmp.Diff(first, usage(), protocmp.Transform()); diff != "" {
		t.Errorf("after more kills (-before +after):\n%s", diff)
	}
	var out, errOut strings.Builder
	if code := run(t.Context(), []string{"--addr", addr, "inspect", "burnt"}, strings.NewReader(""), &out, &errOut); code != exitOK {
		t.Fatalf("inspect exits with %d: %s", code, errOut.String())
	}
	if !strings.Contains(out.String(), "\n  "+usageText(first)+"\n") {
		t.Errorf("inspect shows\n%s\nwithout %q", out.String(), usageText(first))
	}
}
