package pipe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// newJournal makes a control file for its journal.
func newJournal(t cleaner) (*Control, *Journal) {
	t.Helper()
	c, err := NewControl(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, c.Journal()
}

// reopened is the control file as whoever comes after a kill finds it. Close it.
func reopened(t rapid.TB, c *Control) *Control {
	t.Helper()
	fd, err := duplicate(c.Descriptor())
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenControl(fd, nil)
	if err != nil {
		t.Fatal(err)
	}
	again.journal.limit = c.journal.limit
	return again
}

func texts(all map[string][]byte) map[string]string {
	m := make(map[string]string, len(all))
	for k, v := range all {
		m[k] = string(v)
	}
	return m
}

func TestJournalKeepsTheNewestValueOfEachKey(t *testing.T) {
	c, j := newJournal(t)
	big := strings.Repeat("x", 5<<20)
	for _, kv := range [][2]string{{"a", "1"}, {"b", ""}, {"", "no name"}, {"a", "2"}, {"big", big}, {"gone", "3"}} {
		if err := j.Put(kv[0], []byte(kv[1])); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"gone", "never there"} {
		if err := j.Remove(key); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{"a": "2", "b": "", "": "no name", "big": big}
	again := reopened(t, c)
	defer again.Close()
	for name, j := range map[string]*Journal{"this process": j, "the next": again.Journal()} {
		if diff := cmp.Diff(want, texts(j.All())); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestJournalThatIsNoneDoesNothing(t *testing.T) {
	var c *Control
	j := c.Journal()
	if err := errors.Join(j.Put("a", nil), j.Remove("a")); err != nil || j != nil || j.All() != nil {
		t.Errorf("%v, %v", j, err)
	}
	c, j = newJournal(t)
	if err := j.Put("a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	c.Retire()
	if err := errors.Join(j.Put("b", nil), j.Remove("a")); err != nil || len(j.All()) != 0 {
		t.Errorf("retired: %v, %v", err, j.All())
	}
	c.Close()
	if err := j.Put("b", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("put after close: %v", err)
	}
	if err := j.Remove("a"); !errors.Is(err, ErrClosed) {
		t.Errorf("remove after close: %v", err)
	}
}

func TestFullJournalRefusesAndStillRemoves(t *testing.T) {
	c, j := newJournal(t)
	j.limit = 4096
	want := make(map[string]string)
	value := strings.Repeat("v", 100)
	var err error
	for n := 0; err == nil; n++ {
		if key := fmt.Sprint(n); n > 100 {
			t.Fatal("it is never full")
		} else if err = j.Put(key, []byte(value)); err == nil {
			want[key] = value
		}
	}
	if !errors.Is(err, ErrNoSpace) || len(want) < 25 {
		t.Fatalf("full after %d values: %v", len(want), err)
	}
	if err := j.Put("0", []byte(strings.Repeat("w", 100))); !errors.Is(err, ErrNoSpace) {
		t.Errorf("another value for a key, with no room for both: %v", err)
	}
	if err := j.Put(strings.Repeat("k", maxJournalKey+1), nil); !errors.Is(err, ErrNoSpace) {
		t.Errorf("a key that is too long: %v", err)
	}
	for _, key := range []string{"0", "1", "7"} {
		if err := j.Remove(key); err != nil {
			t.Fatal(err)
		}
		delete(want, key)
	}
	if err := j.Put("new", []byte(value)); err != nil {
		t.Errorf("after something was removed: %v", err)
	}
	want["new"] = value
	again := reopened(t, c)
	defer again.Close()
	if diff := cmp.Diff(want, texts(again.Journal().All())); diff != "" {
		t.Error(diff)
	}
}

func TestJournalTakesNoMoreMemoryThanItsValuesNeed(t *testing.T) {
	c, j := newJournal(t)
	value := make([]byte, 1000)
	for n := range 20_000 {
		if err := j.Put(fmt.Sprint(n%10), value); err != nil {
			t.Fatal(err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(c.Descriptor(), &st); err != nil {
		t.Fatal(err)
	}
	if held := st.Blocks * 512; held > 256<<10 {
		t.Errorf("10 kB of values hold %d bytes", held)
	}
}

// journalImage is the journal of a control file, without what lies before it.
func journalImage(t testing.TB, c *Control) []byte {
	t.Helper()
	b := make([]byte, 2*pageSize)
	n, err := unix.Pread(c.Descriptor(), b, journalBase)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// withJournal is a control file with this journal.
func withJournal(t testing.TB, image []byte) (*Control, error) {
	t.Helper()
	fd := memoryOf(t, writeImage(t))
	if _, err := unix.Pwrite(fd, image, journalBase); err != nil {
		t.Fatal(err)
	}
	return OpenControl(fd, nil)
}

// goldenJournal writes what is in testdata/journal-2.bin: in the first area a value
// that replaced another one, and one that was removed.
func goldenJournal(t testing.TB, j *Journal) {
	t.Helper()
	if err := errors.Join(j.Put("session", []byte("old")), j.Put("session", []byte("a longer one")), j.Put("pipe/in", []byte{0, 1, 2}),
		j.Put("gone", []byte("x")), j.Remove("gone")); err != nil {
		t.Fatal(err)
	}
}

func TestJournalIsWhatAnotherVersionWrote(t *testing.T) {
	image, err := os.ReadFile("testdata/journal-2.bin")
	if err != nil {
		t.Fatal(err)
	}
	c, err := withJournal(t, image)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want := map[string]string{"session": "a longer one", "pipe/in": "\x00\x01\x02"}
	if diff := cmp.Diff(want, texts(c.Journal().All())); diff != "" {
		t.Error(diff)
	}
	again, j := newJournal(t)
	goldenJournal(t, j)
	if diff := cmp.Diff(image, journalImage(t, again)); diff != "" {
		t.Errorf("written anew it is another one: %s", diff)
	}
}

func TestJournalInWhichABitWasTurnedIsRefused(t *testing.T) {
	c, j := newJournal(t)
	goldenJournal(t, j)
	image := journalImage(t, c)
	for at := pageSize; at < len(image); at++ {
		b := bytes.Clone(image)
		b[at] ^= 0x10
		c, err := withJournal(t, b)
		if err == nil {
			c.Close()
		}
		behind := uint64(at) >= pageSize+j.end
		// What ends the journal is not covered, nor are the bytes that fill an entry up.
		if err == nil && !behind && !padding(image, at) || err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("byte %d: %v", at-pageSize, err)
		}
	}
}

// padding reports whether the byte only fills an entry up.
func padding(image []byte, at int) bool {
	for from := pageSize; from <= at; {
		key, value := binary.LittleEndian.Uint32(image[from+12:]), binary.LittleEndian.Uint64(image[from+16:])
		used, size := entryHeader+int(key)+int(value), int(entrySize(uint64(key), value))
		if at < from+size {
			return at >= from+used
		}
		from += size
	}
	return false
}

// TestJournalThatWasKilledInTheMiddle cuts an entry that is being written short at
// each byte: the values before are there, and the journal goes on.
func TestJournalThatWasKilledInTheMiddle(t *testing.T) {
	c, j := newJournal(t)
	goldenJournal(t, j)
	before, end := journalImage(t, c), int(j.end)
	want := texts(j.All())
	if err := j.Put("session", bytes.Repeat([]byte{entryLive & 0xff}, 64)); err != nil {
		t.Fatal(err)
	}
	after := journalImage(t, c)
	for torn := pageSize + end + 8; torn <= len(after); torn++ {
		b := append(bytes.Clone(before[:pageSize+end]), make([]byte, 8)...)
		b = append(b, after[pageSize+end+8:torn]...)
		c, err := withJournal(t, b)
		if err != nil {
			t.Fatalf("torn after %d bytes: %v", torn-pageSize-end, err)
		}
		if diff := cmp.Diff(want, texts(c.Journal().All())); diff != "" {
			t.Errorf("torn after %d bytes: %s", torn-pageSize-end, diff)
		}
		if err := c.Journal().Put("next", []byte("n")); err != nil {
			t.Error(err)
		}
		again := reopened(t, c)
		if got := texts(again.Journal().All()); got["next"] != "n" || got["session"] != want["session"] || len(got) != len(want)+1 {
			t.Errorf("torn after %d bytes, and gone on: %q", torn-pageSize-end, got)
		}
		again.Close()
		c.Close()
	}
}

func TestJournalThatWasKilledBeforeItStruckTheOldValueForgetsBoth(t *testing.T) {
	c, j := newJournal(t)
	if err := errors.Join(j.Put("a", []byte("old")), j.Put("a", []byte("new"))); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Pwrite(c.Descriptor(), []byte("live"), int64(j.area(0))); err != nil { // as it was before
		t.Fatal(err)
	}
	again := reopened(t, c)
	defer again.Close()
	if got := texts(again.Journal().All()); got["a"] != "new" {
		t.Errorf("got %q", got)
	}
	if err := again.Journal().Remove("a"); err != nil {
		t.Fatal(err)
	}
	last := reopened(t, c)
	defer last.Close()
	if got := texts(last.Journal().All()); len(got) != 0 {
		t.Errorf("removed, and there is %q", got)
	}
}

func TestJournalBehavesLikeAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, j := newJournal(t)
		j.limit = uint64(rapid.IntRange(200, 3000).Draw(t, "limit"))
		model := make(map[string]string)
		current := j
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				key := rapid.StringN(0, 6, 12).Draw(t, "key")
				value := rapid.StringN(0, 300, 400).Draw(t, "value")
				live := uint64(0)
				for k, v := range model {
					live += entrySize(uint64(len(k)), uint64(len(v)))
				}
				fits := live+entrySize(uint64(len(key)), uint64(len(value)))+8 <= current.limit
				err := current.Put(key, []byte(value))
				if fits != (err == nil) || err != nil && !errors.Is(err, ErrNoSpace) {
					t.Fatalf("with %d of %d bytes used: %v", live, current.limit, err)
				}
				if err == nil {
					model[key] = value
				}
			},
			"remove": func(t *rapid.T) {
				key := rapid.StringN(0, 6, 12).Draw(t, "key")
				if keys := len(model); keys > 0 && rapid.Bool().Draw(t, "there") {
					for key = range maps.Keys(model) {
						break
					}
				}
				if err := current.Remove(key); err != nil {
					t.Fatal(err)
				}
				delete(model, key)
			},
			"kill": func(t *rapid.T) {
				again := reopened(t, c)
				t.Cleanup(again.Close)
				current = again.Journal()
			},
			"": func(t *rapid.T) {
				if diff := cmp.Diff(model, texts(current.All())); diff != "" {
					t.Fatal(diff)
				}
			},
		})
	})
}

func FuzzJournal(f *testing.F) {
	c, err := NewControl(nil)
	if err != nil {
		f.Fatal(err)
	}
	goldenJournal(f, c.Journal())
	f.Add(journalImage(f, c)[pageSize:], true)
	c.Close()
	f.Add([]byte("live\x00\x00\x00\x00"), false)
	f.Fuzz(func(t *testing.T, area []byte, mend bool) {
		image := append(make([]byte, pageSize), area[:min(len(area), pageSize)]...)
		if mend {
			mendJournal(image[pageSize:])
		}
		c, err := withJournal(t, image)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		defer c.Close()
		all := texts(c.Journal().All())
		again := reopened(t, c)
		defer again.Close()
		if diff := cmp.Diff(all, texts(again.Journal().All())); diff != "" {
			t.Error(diff)
		}
		if err := c.Journal().Put("new", []byte("1")); err != nil {
			t.Fatal(err)
		}
		all["new"] = "1"
		if diff := cmp.Diff(all, texts(c.Journal().All())); diff != "" {
			t.Error(diff)
		}
	})
}

// mendJournal makes checksums right, so that what is behind them is reached.
func mendJournal(area []byte) {
	for at := uint64(0); at+entryHeader <= uint64(len(area)); {
		b := area[at:]
		key, value := uint64(binary.LittleEndian.Uint32(b[12:])), binary.LittleEndian.Uint64(b[16:])
		if value > uint64(len(area)) || at+entrySize(key, value) > uint64(len(area)) {
			return
		}
		binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b[12:entryHeader+key+value], crcTable))
		at += entrySize(key, value)
	}
}
