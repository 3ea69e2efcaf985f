package session

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
)

// records are one of each kind, with a value in each field.
func records() map[string]any {
	at := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	return map[string]any{
		"session": &sessionRecord{Version: 1, Name: "s", UID: "u", Labels: map[string]string{"a": "b"}, Created: at, Ended: at, Request: "r", Digest: []byte{1},
			Ready: true, Gone: true, Shed: true},
		"pipe": &pipeRecord{Order: 1, Slot: 2, Kind: pipe.OneWay, In: pipe.Framing{Name: "mp", MaxMessage: 3}, Out: pipe.Framing{Name: "line", StripCR: true},
			Ends: [2][]keeper.End{{{Device: 1, Inode: 2, Kind: keeper.PipeReader}}, {{Device: 1, Inode: 2, Kind: keeper.PipeWriter}}}, For: "p", Request: "r", Digest: []byte{1}},
		"process": &processRecord{Order: 1, Key: 2, Args: []string{"cat"}, Created: at, Inherits: []Inherit{{Pipe: "p", End: 2, FD: 3, HandOver: true}},
			Inputs: []endRecord{{Pipe: "p", End: 1}}, Given: []endRecord{{Pipe: "p", End: 2, HandOver: true}}, Started: true, Request: "r", Digest: []byte{1}},
		"lease":  &leaseRecord{Holder: "h", Named: true, Token: []byte{1}, Epoch: 2, Life: "l", Last: "m", Duration: time.Second, Kept: true, Force: true},
		"writer": &writerState{ID: "w", Epoch: 1, Next: 2, At: 3, Used: 4, Kept: true},
	}
}

// stopped is a record of a process with what came with the ladder.
func stopped() *processRecord {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	grace, yes := time.Second, true
	return &processRecord{Order: 1, Key: 2, Args: []string{"cat"}, Created: at, Started: true,
		Stop: StopPolicy{CloseGrace: &grace, KeepInput: &yes, Signal: syscall.SIGINT, Grace: &grace, SkipSignal: &yes, SkipKill: &yes, Scope: ScopeTree,
			OnDelete: &yes},
		Deadline: at,
		Ladder: &ladder{Cause: CauseTimeout, Signal: syscall.SIGINT, Tree: true, Due: [steps]time.Time{StepClose: at, StepSignal: at, StepKill: at, StepOver: at},
			Step: StepSignal, Taken: at},
		Signals: []syscall.Signal{syscall.SIGUSR1}}
}

func TestRecordOfAStoppedProcessStaysReadable(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "records-1-stop.json"))
	if err != nil {
		t.Fatal(err)
	}
	got := new(processRecord)
	if err := decode(text, got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(stopped(), got); diff != "" {
		t.Errorf("as it was written (-want +got):\n%s", diff)
	}
}

func TestRequestWithoutStopHasTheDigestThatItHadBefore(t *testing.T) {
	const before = "b03338b03e71d7aa7c9a536fff4df8528ce58ad76d065ca154c9740902c23e28"
	if got := digestOf(Spec{Name: "s", Process: &ProcessSpec{Args: []string{"cat"}}}); hex.EncodeToString(got[:]) != before {
		t.Errorf("got %x, want %s", got, before)
	}
}

// TestRecordsStayReadable holds what daemons before have written: a field may be
// added, and then the file gets it; none may change or go.
func TestRecordsStayReadable(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "records-1.json"))
	if err != nil {
		t.Fatal(err)
	}
	var written map[string]json.RawMessage
	if err := json.Unmarshal(text, &written); err != nil {
		t.Fatal(err)
	}
	for kind, want := range records() {
		got := map[string]any{
			"session": new(sessionRecord), "pipe": new(pipeRecord), "process": new(processRecord), "lease": new(leaseRecord), "writer": new(writerState),
		}[kind]
		if err := decode(written[kind], got); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s as it was written (-want +got):\n%s", kind, diff)
		}
	}
}

func TestDamagedRecordIsCorrupt(t *testing.T) {
	if err := decode([]byte(`{"version":`), new(sessionRecord)); err == nil {
		t.Error("it was taken")
	}
}
