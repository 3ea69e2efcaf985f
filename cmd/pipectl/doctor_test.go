package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
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
