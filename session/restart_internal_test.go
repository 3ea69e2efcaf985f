package session

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
)

// restarted are records with what came with restarts.
func restarted() map[string]any {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	jitter := 0.5
	healthy := time.Minute
	return map[string]any{
		"pipe": &pipeRecord{Order: 1, Slot: 2, Kind: pipe.Stdio, In: pipe.Framing{Name: "line"}, Out: pipe.Framing{Name: "line"}, For: "p", Incarnation: 2},
		"process": &processRecord{Order: 1, Key: 2, Args: []string{"cat"}, Created: at, Inputs: []endRecord{{Pipe: "stdio", End: 1, Incarnation: 2}}, Started: true,
			Incarnation: 2, Restarts: 3, Streak: 4, Fate: fateAgain, Again: &plan{Request: "r", Digest: []byte{1}},
			Plan: &plan{Due: at, Streak: 5, Failure: "f", Request: "r", Digest: []byte{1}}, Failure: "g", Unread: map[string]uint64{"stdio": 6}},
		"origin": &origin{Spec: ProcessSpec{Args: []string{"cat"}, Env: []string{"A=b"}, Restart: &RestartPolicy{Mode: RestartAlways, Backoff: time.Second,
			MaxBackoff: time.Minute, Multiplier: 3, Jitter: &jitter, MaxRestarts: 7, HealthyAfter: &healthy}}, Stdio: "stdio", Stderr: "stderr",
			Pipes: []PipeSpec{{Name: "ctl", Kind: pipe.Duplex}}, Request: "r", Digest: []byte{1}},
	}
}

func TestRecordsOfARestartedProcessStayReadable(t *testing.T) {
	for kind, want := range restarted() {
		text, err := os.ReadFile(filepath.Join("testdata", "records-1-restart-"+kind+".json"))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]any{"pipe": new(pipeRecord), "process": new(processRecord), "origin": new(origin)}[kind]
		if err := decode(text, got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s as it was written (-want +got):\n%s", kind, diff)
		}
	}
}

func TestBackoffGrowsUpToItsLongest(t *testing.T) {
	none, half := 0.0, 0.5
	for name, tc := range map[string]struct {
		policy RestartPolicy
		chance float64
		want   []time.Duration
	}{
		"by default": {RestartPolicy{Jitter: &none}, 0.9, []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond,
			1600 * time.Millisecond, 3200 * time.Millisecond, 6400 * time.Millisecond, 12800 * time.Millisecond, 25600 * time.Millisecond, 30 * time.Second, 30 * time.Second}},
		"as asked for":              {RestartPolicy{Backoff: time.Second, MaxBackoff: 10 * time.Second, Multiplier: 3, Jitter: &none}, 0, []time.Duration{1e9, 3e9, 9e9, 10e9}},
		"always the same":           {RestartPolicy{Backoff: time.Second, Multiplier: 1, Jitter: &none}, 0, []time.Duration{1e9, 1e9, 1e9}},
		"less a random part":        {RestartPolicy{Backoff: time.Second, Jitter: &half}, 0.5, []time.Duration{750 * time.Millisecond, 1500 * time.Millisecond}},
		"a first one above 30 s":    {RestartPolicy{Backoff: time.Minute, Jitter: &none}, 0, []time.Duration{time.Minute, time.Minute}},
		"less a tenth unless asked": {RestartPolicy{Backoff: time.Second}, 1, []time.Duration{900 * time.Millisecond}},
	} {
		for i, want := range tc.want {
			if got := tc.policy.wait(uint32(i+1), tc.chance); got != want {
				t.Errorf("%s: wait %d is %v, want %v", name, i+1, got, want)
			}
		}
		if got := tc.policy.wait(4_000_000_000, 0); got > tc.policy.longest() || got <= 0 {
			t.Errorf("%s: the last wait is %v", name, got)
		}
	}
}

// exits is a process that has exited so.
type exits struct {
	forgotten
	exit keeper.ExitStatus
}

func (e exits) Exit() keeper.ExitStatus { return e.exit }

func TestProcessThatWasHealthyBeginsItsBackoffAnew(t *testing.T) {
	policy := &RestartPolicy{Mode: RestartOnFailure, Backoff: time.Hour, MaxBackoff: 24 * time.Hour, Jitter: new(0.0), MaxRestarts: 4}
	for _, tc := range []struct {
		name   string
		ran    time.Duration
		streak uint32
		want   uint32        // 0: none
		wait   time.Duration // from the exit on
	}{
		{"a first failure", time.Second, 0, 1, time.Hour},
		{"the next", time.Second, 1, 2, 2 * time.Hour},
		{"the last that is allowed", 9 * time.Second, 3, 4, 8 * time.Hour},
		{"one too many", 9 * time.Second, 4, 0, 0},
		{"after a healthy time", 11 * time.Second, 4, 1, time.Hour},
	} {
		exit := time.Now().Add(-time.Minute)
		p := &Process{session: &Session{}, name: "p", incarnation: 1, started: exit.Add(-tc.ran), origin: &origin{Spec: ProcessSpec{Restart: policy}},
			child: exits{exit: keeper.ExitStatus{Code: 1, Time: exit}}, record: processRecord{Streak: tc.streak}}
		p.decideLocked()
		plan := p.record.Plan
		if tc.want == 0 {
			if plan != nil || p.record.Failure == "" {
				t.Errorf("%s: got %+v, %q", tc.name, plan, p.record.Failure)
			}
			continue
		}
		if plan == nil || plan.Streak != tc.want || plan.Due.Sub(exit).Round(time.Second) != tc.wait {
			t.Errorf("%s: got %+v for an exit at %v", tc.name, plan, exit)
		}
	}
}

func TestWhatAClientWantsComesBeforeThePolicy(t *testing.T) {
	always, never := &RestartPolicy{Mode: RestartAlways}, (*RestartPolicy)(nil)
	for name, tc := range map[string]struct {
		policy *RestartPolicy
		fate   fate
		barred bool
		want   bool
	}{
		"the policy":                {always, 0, false, true},
		"no policy":                 {never, 0, false, false},
		"stopped":                   {always, fateStay, false, false},
		"restarted":                 {never, fateAgain, false, true},
		"restarted, and it is over": {never, fateAgain, true, false},
	} {
		p := &Process{session: &Session{}, name: "p", incarnation: 1, origin: &origin{Spec: ProcessSpec{Restart: tc.policy}}, barred: tc.barred,
			child: exits{}, record: processRecord{Fate: tc.fate}}
		p.decideLocked()
		if got := p.record.Plan != nil; got != tc.want {
			t.Errorf("%s: it is started again: %t", name, got)
		}
	}
}
