package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestVersionsThatDifferAreFound(t *testing.T) {
	for _, row := range []struct {
		own, daemon string
		passed      bool
	}{
		{"v1.2.0", "v1.2.0", true}, {"v1.2.0", "v1.3.0", false}, {unreleased, "v1.3.0", true}, {"v1.2.0", unreleased, true},
	} {
		found := versionFinding(row.own, row.daemon)
		if found.Passed != row.passed || found.Passed == (found.Advice != "") {
			t.Errorf("%s and %s: got %+v", row.own, row.daemon, found)
		}
	}
}

func TestFullDaemonIsFound(t *testing.T) {
	info := &pipedv1.GetServerInfoResponse{ActiveSessions: 50, EndedSessions: 39, Limits: &pipedv1.Limits{MaxSessions: 100}}
	if found := sessionsFinding(info); !found.Passed {
		t.Errorf("89 of 100: got %+v", found)
	}
	info.EndedSessions++
	if found := sessionsFinding(info); found.Passed || found.Advice == "" {
		t.Errorf("90 of 100: got %+v", found)
	}
}

func TestKeeperThatIsNotThereIsFound(t *testing.T) {
	const kernel, memory = pipedv1.Durability_DURABILITY_KERNEL, pipedv1.Durability_DURABILITY_MEMORY
	there := &pipedv1.Keeper{Pid: 7, Version: "v1.2.0", StartTime: timestamppb.Now()}
	for name, row := range map[string]struct {
		info   *pipedv1.GetServerInfoResponse
		passed bool
	}{
		"there":            {&pipedv1.GetServerInfoResponse{Durability: kernel, Version: "v1.2.0", Keeper: there}, true},
		"of another time":  {&pipedv1.GetServerInfoResponse{Durability: kernel, Version: "v1.3.0", Keeper: there}, true},
		"away":             {&pipedv1.GetServerInfoResponse{Durability: kernel, Keeper: &pipedv1.Keeper{AwaySince: timestamppb.Now()}}, false},
		"none":             {&pipedv1.GetServerInfoResponse{Durability: kernel}, false},
		"none, not of use": {&pipedv1.GetServerInfoResponse{Durability: memory}, true},
	} {
		found := keeperFinding(row.info)
		if found.Passed != row.passed || found.Passed == (found.Advice != "") {
			t.Errorf("%s: got %+v", name, found)
		}
	}
}

func TestPromiseSaysWhetherSessionsOutliveTheDaemon(t *testing.T) {
	const kernel, memory = pipedv1.Durability_DURABILITY_KERNEL, pipedv1.Durability_DURABILITY_MEMORY
	for want, info := range map[string]*pipedv1.GetServerInfoResponse{
		"is lost with it":            {Durability: memory},
		"still end with the daemon":  {Durability: kernel},
		"by SIGKILL at any instant":  {Durability: kernel, SurvivesDaemonDeath: true},
		"that this pipectl does not": {Durability: 99, SurvivesDaemonDeath: true},
	} {
		if got := promise(info); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestRestartIsToldWithItsPauseAndSessions(t *testing.T) {
	at := timestamppb.New(time.Date(2026, 11, 29, 23, 0, 0, 0, time.UTC))
	for want, restart := range map[string]*pipedv1.Restart{
		"none": nil,
		"2026-11-29T23:00:00Z, 2 sessions found again, 0 lost": {Time: at, RecoveredSessions: 2},
		"2026-11-29T23:00:00Z, after a pause of 71.2ms, 1 session found again, 3 lost": {
			Time: at, Pause: durationpb.New(71234 * time.Microsecond), RecoveredSessions: 1, LostSessions: 3},
	} {
		if got := restartText(restart); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if restartFinding(&pipedv1.Restart{Time: at, LostSessions: 1}).Advice == "" {
		t.Error("lost sessions are told without the next step")
	}
}

func TestOneFailedCheckMakesADiagnosisBad(t *testing.T) {
	d := diagnosis{Passed: true}
	d.add(finding{Name: "a", Passed: true})
	d.add(finding{Name: "b"})
	d.add(finding{Name: "c", Passed: true})
	want := diagnosis{Checks: []finding{{Name: "a", Passed: true}, {Name: "b"}, {Name: "c", Passed: true}}}
	if diff := cmp.Diff(want, d, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
