package session

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/piped-dev/piped/pipe"
)

func TestRecordOfABoundSessionStaysReadable(t *testing.T) {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	want := &sessionRecord{Version: 1, Name: "s", UID: "u", Created: at, Ready: true,
		Lease: &creatorRecord{Token: []byte{1, 2}, Duration: time.Second, Ended: at}}
	text, err := os.ReadFile(filepath.Join("testdata", "records-1-bound.json"))
	if err != nil {
		t.Fatal(err)
	}
	got := new(sessionRecord)
	if err := decode(text, got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("as it was written (-want +got):\n%s", diff)
	}
}

func TestRequestWithoutLeaseHasTheDigestThatItHadBefore(t *testing.T) {
	before := struct {
		RequestID string
		Name      string
		Labels    map[string]string
		Pipes     []PipeSpec
		Process   *ProcessSpec
	}{Name: "s", Pipes: []PipeSpec{{Kind: pipe.Duplex}}}
	if digestOf(before) != digestOf(Spec{Name: before.Name, Pipes: before.Pipes}) {
		t.Error("a request that was made before an upgrade cannot be repeated after it")
	}
}
