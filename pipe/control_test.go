package pipe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// goldenControl is what is in testdata/control-2.bin: one pipe, whose direction out
// of end 1 has a checkpoint in both copies.
func goldenControl() (Spec, checkpoint) {
	spec := Spec{Kind: Stdio, In: Framing{Name: "mp"}, Out: Framing{Name: "line", StripCR: true, MaxMessage: 4096},
		LogSize: 1 << 20, TailSize: 64 << 10, MaxMessage: 1 << 24, Overflow: DropOldest, Sealed: true}
	base := place{off: 8192, num: 7, pay: 3, st: state{head: [12]byte{1, 2, 3}, n: 3, body: true, held: true, total: 20, left: 17}}
	top := place{off: 10_000, num: 9, pay: 1, st: state{head: [12]byte{4, 5}, n: 2, total: 30, left: 29, body: true}}
	return spec, checkpoint{base: base, acked: 9000, drops: Drops{Messages: 5, Bytes: 800}, lost: &Position{Message: 2, Offset: 1},
		top: top, cause: CauseOverLimit, want: 5000}
}

// goldenSize is up to where the file is not empty.
const goldenSize = headerSize + slotSize

func TestControlFileIsWhatAnotherVersionWrote(t *testing.T) {
	image, err := os.ReadFile("testdata/control-2.bin")
	if err != nil {
		t.Fatal(err)
	}
	spec, want := goldenControl()
	control := openImage(t, image)
	d, err := control.describe(0)
	if err != nil || control.Pipes() != 1 {
		t.Fatalf("%d pipes, %v", control.Pipes(), err)
	}
	if diff := cmp.Diff(spec, d.spec, cmp.AllowUnexported(Spec{}, Framing{}), cmp.Comparer(func(a, b func(int, bool)) bool { return (a == nil) == (b == nil) })); diff != "" {
		t.Error(diff)
	}
	r := control.record(0, 1, false)
	got, err := r.latest()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(checkpoint{}, place{}, state{})); diff != "" {
		t.Error(diff)
	}
	if r.head.Load() != 10_000 || r.moved.Load() != 9_500 || r.acked.Load() != 9_000 || r.flags.Load() != flagReset|flagEnded || r.seq != 2 {
		t.Errorf("words %d %d %d %#x, checkpoint %d", r.head.Load(), r.moved.Load(), r.acked.Load(), r.flags.Load(), r.seq)
	}
	if diff := cmp.Diff(image, writeImage(t)); diff != "" {
		t.Errorf("written anew it is another file: %s", diff)
	}
}

// writeImage writes the golden file.
func writeImage(t testing.TB) []byte {
	t.Helper()
	control, err := NewControl(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	spec, k := goldenControl()
	slot, err := control.add(&description{spec}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := control.record(slot, 1, false)
	r.head.Store(10_000)
	r.moved.Store(9_500)
	r.acked.Store(9_000)
	r.set(flagReset | flagEnded)
	r.checkpoint(checkpoint{base: place{num: 1}})
	r.checkpoint(k)
	image := make([]byte, goldenSize)
	if _, err := unix.Pread(control.Descriptor(), image, 0); err != nil {
		t.Fatal(err)
	}
	return image
}

// openImage opens a control file with these bytes.
func openImage(t testing.TB, image []byte) *Control {
	t.Helper()
	control, err := OpenControl(memoryOf(t, image), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(control.Close)
	return control
}

// memoryOf makes a memfd with these bytes.
func memoryOf(t testing.TB, b []byte) int {
	t.Helper()
	fd, err := newMemfd("test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Pwrite(fd, b, 0); err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestControlFileThatIsNoneIsRefused(t *testing.T) {
	image := writeImage(t)
	change := func(at int, v byte) []byte {
		b := bytes.Clone(image)
		b[at] ^= v
		return b
	}
	for name, b := range map[string][]byte{"empty": nil, "short": image[:10], "other magic": change(0, 1)} {
		if c, err := OpenControl(memoryOf(t, b), nil); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
	control := openImage(t, change(headerSize+88, 1))
	if _, err := control.describe(0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a description that is torn: %v", err)
	}
}

func TestControlFileOfAnotherVersionIsRefusedAndLeftAsItIs(t *testing.T) {
	for name, version := range map[string]string{"testdata/control-1.bin": "version 1", "testdata/control-newer.bin": "version 3"} {
		image, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		v := newFakeVault(t)
		fd := memoryOf(t, image)
		if err := v.Put(Item{ControlKey, fd}); err != nil {
			t.Fatal(err)
		}
		c, err := OpenControl(fd, v)
		if !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), version) || !strings.Contains(err.Error(), "version 2") {
			t.Errorf("%s: %v, %v", name, c, err)
		}
		again := make([]byte, len(image)+1)
		if n, err := unix.Pread(v.descriptor(ControlKey), again, 0); err != nil || !bytes.Equal(again[:n], image) {
			t.Errorf("%s: it was changed, or the vault has lost it: %v", name, err)
		}
	}
}

func TestPipeWhoseDescriptionWasBegunIsNotThere(t *testing.T) {
	image := writeImage(t)
	clear(image[headerSize : headerSize+8]) // the word that is written last
	control := openImage(t, image)
	if n := control.Pipes(); n != 0 {
		t.Errorf("there are %d pipes", n)
	}
}

func TestNewestWholeCheckpointCounts(t *testing.T) {
	r := newRecord(make([]byte, recordSize))
	for n := range uint64(6) {
		before, err := r.latest()
		if err != nil || before.acked != n {
			t.Fatalf("checkpoint %d: %v", before.acked, err)
		}
		r.checkpoint(checkpoint{base: place{num: 1}, acked: n + 1})
		whole := bytes.Clone(r.slots[r.newest])
		for torn := range whole[:checkpointSum] { // as if it was killed there
			clear(r.slots[r.newest][torn:])
			again := *r
			if k, err := again.latest(); err != nil || k.acked != n {
				t.Fatalf("torn after %d bytes: %d, %v", torn, k.acked, err)
			}
			copy(r.slots[r.newest], whole)
		}
	}
	for _, b := range r.slots {
		b[0] ^= 1
	}
	if _, err := r.latest(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("no checkpoint is whole: %v", err)
	}
}

// repair makes checksums of a fuzzed control file right, so that what is behind
// them is reached.
func repair(image []byte) {
	if len(image) < goldenSize {
		return
	}
	le := binary.LittleEndian
	d := image[headerSize:][:descriptionSize]
	le.PutUint32(d[descriptionSize-4:], crc32.Checksum(d[:descriptionSize-4], crcTable))
	for n := range 4 {
		r := newRecord(image[headerSize+descriptionSize+n*recordSize:][:recordSize])
		for _, b := range r.slots {
			if !allZero(b) {
				le.PutUint32(b[checkpointSum:], crc32.Checksum(b[:checkpointSum], crcTable))
			}
		}
	}
}
