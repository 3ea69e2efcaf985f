package main

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/protobuf/testing/protocmp"
)

func TestAttributeFlagsFillTheSpec(t *testing.T) {
	flags := attributeFlags{user: "daemon:4", groups: []string{"mail", "7"}, limits: []string{"nofile=40:50", "core=0", "as=unlimited"},
		nice: "-3", umask: "027", noNewPrivileges: true}
	got := &pipedv1.ProcessSpec{}
	if err := flags.fill(got); err != nil {
		t.Fatal(err)
	}
	want := &pipedv1.ProcessSpec{User: "daemon", Group: "4", Groups: []string{"mail", "7"}, Nice: new(int32(-3)), Umask: new(uint32(0o27)), NoNewPrivileges: true,
		Limits: []*pipedv1.ResourceLimit{
			{Resource: "nofile", Soft: new(uint64(40)), Hard: new(uint64(50))},
			{Resource: "core", Soft: new(uint64(0)), Hard: new(uint64(0))},
			{Resource: "as"},
		}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, wrong := range []attributeFlags{
		{user: ":x"}, {user: "x:"}, {nice: "x"}, {umask: "9"}, {limits: []string{"nofile"}}, {limits: []string{"=1"}}, {limits: []string{"nofile=x"}}, {limits: []string{"nofile=1:-1"}},
	} {
		if err := wrong.fill(&pipedv1.ProcessSpec{}); !isUsage(err) {
			t.Errorf("%+v: got %v, want wrong use", wrong, err)
		}
	}
}

func TestEachFlagThatAnOlderDaemonWouldNotSeeNeedsAFeature(t *testing.T) {
	for _, feature := range []struct {
		want string
		spec *pipedv1.ProcessSpec
	}{
		{"process/attributes", &pipedv1.ProcessSpec{User: "nobody"}},
		{"process/attributes", &pipedv1.ProcessSpec{Groups: []string{"mail"}}},
		{"process/attributes", &pipedv1.ProcessSpec{Limits: []*pipedv1.ResourceLimit{{Resource: "core"}}}},
		{"process/attributes", &pipedv1.ProcessSpec{Nice: new(int32(0))}},
		{"process/attributes", &pipedv1.ProcessSpec{Umask: new(uint32(0))}},
		{"process/attributes", &pipedv1.ProcessSpec{NoNewPrivileges: true}},
		{"process/after-exit", &pipedv1.ProcessSpec{AfterExit: &pipedv1.AfterExit{}}},
		{"process/merged", &pipedv1.ProcessSpec{Stderr: pipedv1.StdioMode_STDIO_MODE_MERGED}},
		{"process/restart", &pipedv1.ProcessSpec{Restart: &pipedv1.RestartPolicy{}}},
		{"process/stop", &pipedv1.ProcessSpec{Stop: &pipedv1.StopPolicy{}}},
	} {
		if needed := features(feature.spec); len(needed) != 1 || needed[feature.want] == "" {
			t.Errorf("%v needs %v, want %s", feature.spec, needed, feature.want)
		}
	}
	if needed := features(&pipedv1.ProcessSpec{Args: []string{"cat"}}); len(needed) > 0 {
		t.Errorf("a program alone needs %v", needed)
	}
}

func TestRunGivesTheProgramItsAttributes(t *testing.T) {
	addr, _ := newDaemon(t)
	begin(t, addr, "run", "-q", "--umask", "027", "--nice", "5", "--limit", "nofile=40:50", "--no-new-privileges", "--",
		"sh", "-c", "umask; nice; ulimit -Sn; ulimit -Hn; grep -c 'NoNewPrivs.*1' /proc/self/status").ends("run", "0027\n5\n40\n50\n1\n")
	if os.Geteuid() == 0 {
		begin(t, addr, "run", "-q", "--user", "nobody", "--", "sh", "-c", "id -un; id -Gn; echo $HOME $USER $LOGNAME; pwd").
			ends("run", "nobody\nnogroup\n/ nobody nobody\n/\n")
	}
	v := begin(t, addr, "run", "--user", "nobody-knows-me", "--", "true")
	if code := <-v.exited; code == exitOK {
		t.Error("a user that is not there is accepted")
	}
	v.says(&v.errOut, `user "nobody-knows-me"`)
}
