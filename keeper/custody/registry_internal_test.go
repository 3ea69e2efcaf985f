package custody

import (
	"bytes"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/piped-dev/piped/keeper/wire"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden are the records of the golden registry, by slot.
var golden = map[int]record{
	headerSlot: {kind: recordHeader, version: registryVersion, text: registryMagic + "00000000-0000-4000-8000-000000000000"},
	frontSlot:  {kind: recordFront, process: wire.Process{Pid: 100, Start: 1000}, epoch: 7},
	2:          {kind: recordSession, uid: [16]byte{1, 15: 1}, text: "a session"},
	3:          {kind: recordFile, uid: [16]byte{1, 15: 1}, key: 17, id: identity{device: 8, inode: 1 << 40, kind: 0o140002}},
	4:          {kind: recordProcess, uid: [16]byte{1, 15: 1}, key: 1, process: wire.Process{Pid: 4000, Start: 99}},
	5: {kind: recordProcess, uid: [16]byte{1, 15: 1}, key: 2, process: wire.Process{Pid: 4001, Start: 100, Exited: true, CoreDumped: true,
		Code: -1, Signal: 11, Time: 1234567890}},
	7: {kind: recordLost, uid: [16]byte{2}, text: strings.Repeat("x", recordText), reboot: true},
}

// image returns the bytes of a registry.
func image(records map[int]record) []byte {
	var out []byte
	for slot := range 8 {
		var p [recordSize]byte
		if r, there := records[slot]; there {
			r.encode(&p)
		}
		out = append(out, p[:]...)
	}
	return out
}

func TestRegistryOfEarlierVersionsIsRead(t *testing.T) {
	path := filepath.Join("testdata", "registry-1")
	if *update {
		if err := os.WriteFile(path, image(golden), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	held, size, free, err := readRegistry(path, bytes.NewReader(data), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	want := map[int]record{}
	for slot, r := range golden {
		if slot != headerSlot {
			want[slot] = r
		}
	}
	if diff := cmp.Diff(want, held.records, cmp.AllowUnexported(record{}, identity{})); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if !held.known || !held.reboot || size != 8 || !cmp.Equal(free, []int{6}) {
		t.Errorf("known %v, after a reboot %v, %d slots, free %v", held.known, held.reboot, size, free)
	}
}

func TestNewerRegistryIsRefusedAndLeftAsItIs(t *testing.T) {
	path := filepath.Join("testdata", "registry-newer")
	if *update {
		header := golden[headerSlot]
		header.version = 1000
		if err := os.WriteFile(path, image(map[int]record{headerSlot: header, 2: golden[2]}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "registry")
	if err := os.WriteFile(copied, data, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = openRegistry(copied, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "newer piped-keeper") || !strings.Contains(err.Error(), "version 1000") {
		t.Errorf("error %v", err)
	}
	if after, err := os.ReadFile(copied); err != nil || !bytes.Equal(after, data) {
		t.Errorf("the registry was changed (error %v)", err)
	}
}

func TestFileThatIsNoRegistryIsLeftAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry")
	text := []byte(strings.Repeat("something that matters to somebody\n", 10))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openRegistry(path, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("it is taken for one")
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, text) {
		t.Errorf("the file was changed (error %v)", err)
	}
}

func TestNothingIsWrittenAfterRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry")
	reg, _, err := openRegistry(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	slot := reg.add(&record{kind: recordSession, text: "x"})
	reg.remove()
	reg.set(slot, &record{kind: recordSession, text: "y"})
	reg.drop(slot)
	reg.remove()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("there is a registry again: %v", err)
	}
}

func TestFreeSlotsAreUsedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry")
	reg, _, err := openRegistry(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer reg.close()
	for range 1000 {
		reg.drop(reg.add(&record{kind: recordSession, text: "x"}))
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 4*recordSize {
		t.Errorf("size %v, error %v", info.Size(), err)
	}
}

func TestSlotKeepsWhatAProcessHasUsed(t *testing.T) {
	plain := golden[5]
	used := plain
	used.process.Used = &wire.Usage{User: 1, System: 1 << 40, Peak: 1<<62 + 3}
	var before, after [recordSize]byte
	plain.encode(&before)
	used.encode(&after)
	var got record
	if err := got.decode(&after); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(used, got, cmp.AllowUnexported(record{}, identity{})); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
	// Earlier versions read up to there, and what follows as a text of this length.
	if !bytes.Equal(before[4:64], after[4:64]) || after[60] != 0 {
		t.Error("an earlier version would read something else")
	}
}

func TestStateIsWhatItWasForEarlierVersions(t *testing.T) {
	s := sampleSnapshot()
	before := s.encode()
	s.accounts[1].processes[9].Used = &wire.Usage{User: 1, System: 2, Peak: 3}
	if !bytes.Equal(before, s.encode()) {
		t.Error("an earlier version would not understand the state")
	}
}

func TestUsageOfAnotherProcessIsNotTakenForItsOwn(t *testing.T) {
	s := sampleSnapshot()
	p := s.accounts[1].processes[9]
	used := &wire.Usage{User: 1, System: 2, Peak: 3}
	own := record{kind: recordProcess, uid: p.uid, key: p.key, process: wire.Process{Pid: p.Pid, Used: used}}
	other := own
	other.key++
	for _, row := range []struct {
		slot int
		r    record
		want *wire.Usage
	}{{p.slot, other, nil}, {p.slot + 1, own, nil}, {p.slot, own, used}} {
		s.recall(&contents{records: map[int]record{row.slot: row.r}})
		if p.Used != row.want {
			t.Errorf("slot %d, key %d: %+v, want %+v", row.slot, row.r.key, p.Used, row.want)
		}
	}
}

func FuzzRegistry(f *testing.F) {
	f.Add(image(golden))
	f.Add(image(golden)[:200])
	f.Fuzz(func(t *testing.T, data []byte) {
		held, size, free, err := readRegistry("registry", bytes.NewReader(data), slog.New(slog.DiscardHandler))
		if err != nil {
			return
		}
		if len(free)+len(held.records) > size || size > len(data)/recordSize {
			t.Errorf("%d free, %d records, %d slots in %d bytes", len(free), len(held.records), size, len(data))
		}
		for slot, r := range held.records {
			var p [recordSize]byte
			r.encode(&p)
			var again record
			if err := again.decode(&p); err != nil || !cmp.Equal(r, again, cmp.AllowUnexported(record{}, identity{})) {
				t.Errorf("slot %d: %+v becomes %+v, error %v", slot, r, again, err)
			}
		}
	})
}

// sampleSnapshot has something everywhere.
func sampleSnapshot() *snapshot {
	a := newAccount([16]byte{1})
	a.name, a.slot = "a session", 2
	a.files[3] = &file{fd: 4, id: identity{device: 5, inode: 6, kind: 7}, slot: 8}
	a.processes[9] = &process{Process: wire.Process{Pid: 10, Start: 11, Exited: true, Code: 12, Signal: 13, Time: 14}, uid: a.uid, key: 9,
		slot: 15, pidfd: -1, child: true, asked: true, told: true}
	return &snapshot{
		started: time.Unix(1, 2), gone: time.Unix(3, 4), lock: 5, listener: 6, registry: 7, passed: true, notify: "@x",
		again: wire.Front{Args: []string{"piped", "-x"}, Env: []string{"A=1"}, Dir: "/"},
		front: &frontier{pid: 1, start: 2, pidfd: 3, epoch: 4, left: true, parting: true, ends: true}, connected: true, fresh: true, unadopted: true,
		accounts: []*account{newAccount(own), a}, losses: []*loss{{uid: [16]byte{9}, name: "lost", reboot: true, slot: 10}},
		peers: []peerSnapshot{{conn: 1, pid: 2, pidfd: 3, start: 4, state: peerServe, id: 5, flags: 6, epoch: 7, version: "v", front: wire.Front{Dir: "/x"}}},
		wards: []ward{{1, 2}},
	}
}

var snapshotTypes = cmp.AllowUnexported(snapshot{}, frontier{}, account{}, file{}, identity{}, process{}, loss{}, peerSnapshot{}, ward{})

func TestStateOfEarlierVersionsIsRead(t *testing.T) {
	path := filepath.Join("testdata", "state-1")
	if *update {
		if err := os.WriteFile(path, sampleSnapshot().encode(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := decodeSnapshot(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sampleSnapshot(), s, snapshotTypes); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
}

func TestNewerStateIsRefused(t *testing.T) {
	data := sampleSnapshot().encode()
	data[0]++
	if _, err := decodeSnapshot(data); err == nil || !strings.Contains(err.Error(), "newer piped-keeper") {
		t.Errorf("error %v", err)
	}
}

func FuzzState(f *testing.F) {
	f.Add(sampleSnapshot().encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := decodeSnapshot(data); err == nil {
			_ = s.descriptors()
			if _, err := decodeSnapshot(s.encode()); err != nil {
				t.Errorf("what was read cannot be written and read again: %v", err)
			}
		}
	})
}
