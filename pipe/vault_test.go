package pipe

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// A fakeVault keeps real copies, in this process.
type fakeVault struct {
	t       testing.TB
	mu      sync.Mutex
	fds     map[Key]int
	from    map[Key]int // the descriptor that each is a copy of
	puts    int
	refuse  error
	changed func(*fakeVault) // after each call that changes something, if set
}

func newFakeVault(t testing.TB) *fakeVault {
	v := &fakeVault{t: t, fds: make(map[Key]int), from: make(map[Key]int)}
	t.Cleanup(v.close)
	return v
}

func (v *fakeVault) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for key, fd := range v.fds {
		_ = unix.Close(fd)
		delete(v.fds, key)
	}
}

func (v *fakeVault) Put(items ...Item) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.puts++
	if v.refuse != nil {
		return v.refuse
	}
	for _, it := range items {
		if _, there := v.fds[it.Key]; there {
			v.t.Errorf("key %d is put again", it.Key)
		}
		fd, err := duplicate(it.FD)
		if err != nil {
			return err
		}
		v.fds[it.Key], v.from[it.Key] = fd, it.FD
	}
	if v.changed != nil {
		v.changed(v)
	}
	return nil
}

func (v *fakeVault) Remove(keys ...Key) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, key := range keys {
		fd, there := v.fds[key]
		if !there {
			continue
		}
		if from := v.from[key]; !sameFile(fd, from) {
			v.t.Errorf("key %d was removed after descriptor %d was closed", key, from)
		}
		_ = unix.Close(fd)
		delete(v.fds, key)
	}
	if v.changed != nil {
		v.changed(v)
	}
}

func sameFile(a, b int) bool {
	var x, y unix.Stat_t
	return unix.Fstat(a, &x) == nil && unix.Fstat(b, &y) == nil && x.Ino == y.Ino && x.Dev == y.Dev
}

func (v *fakeVault) descriptor(key Key) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	if fd, ok := v.fds[key]; ok {
		return fd
	}
	return -1
}

func (v *fakeVault) keys() []Key {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Sorted(maps.Keys(v.fds))
}

// has compares the keys beside that of the control file.
func (v *fakeVault) has(t testing.TB, when string, want ...Key) {
	t.Helper()
	slices.Sort(want)
	got := slices.DeleteFunc(v.keys(), func(k Key) bool { return k == ControlKey })
	if !slices.Equal(got, want) {
		t.Errorf("%s the vault has %v, want %v", when, got, want)
	}
}

// openVaulted opens a pipe with a vault.
func openVaulted(t testing.TB, spec Spec) (v *fakeVault, control *Control, one, two *Endpoint) {
	t.Helper()
	if inMemory {
		t.Skip("logs are in memory")
	}
	v = newFakeVault(t)
	control, err := NewControl(v)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(control.Close)
	spec.Control, spec.Vault = control, v
	if one, two, err = Open(newTestPoller(t), spec); err != nil {
		t.Fatal(err)
	}
	return v, control, one, two
}

func TestVaultHasEachDescriptorFromItsBeginningUntilBeforeItsEnd(t *testing.T) {
	v, control, one, two := openVaulted(t, testSpec(Stdio, "line", true))
	key := func(end int, part KeyPart) Key { return KeyOf(one.Slot(), end, part) }
	ends := []Key{key(1, PartRead), key(1, PartWrite), key(2, PartRead), key(2, PartWrite)}
	v.has(t, "at the beginning", ends...)
	if v.puts != 2 {
		t.Errorf("%d calls of Put for a control file and a pipe", v.puts)
	}
	if v.descriptor(ControlKey) < 0 || !sameFile(v.descriptor(ControlKey), control.Descriptor()) {
		t.Error("the control file is not there")
	}
	if err := trySend(one, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	v.has(t, "after something was sent", append(ends, key(1, PartOutbox))...)
	if _, err := unix.Write(two.write.fd(), []byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	poll(t, "the message", func() bool { return one.in.Info().Messages == 1 })
	v.has(t, "after something came", append(ends, key(1, PartOutbox), key(1, PartInbox))...)
	closeEnd(t, two, false)
	v.has(t, "with end 2 closed", key(1, PartRead), key(1, PartWrite), key(1, PartOutbox), key(1, PartInbox))
	poll(t, "the end", func() bool { return one.in.End() != nil && one.HungUp() })
	one.Retire()
	v.has(t, "with end 1 retired", key(1, PartOutbox), key(1, PartInbox))
	one.RetireLogs()
	v.has(t, "without logs")
	if got := one.in.Info(); got.QueuedMessages != 1 {
		t.Errorf("what came out is gone: %+v", got)
	}
	closeEnd(t, one, false)
	control.Close()
	if got := v.keys(); len(got) != 0 {
		t.Errorf("in the end the vault has %v", got)
	}
}

func TestCloseLeavesNothingInTheVaultAndEndOfFileComes(t *testing.T) {
	for _, kind := range []Kind{Duplex, OneWay, Stdio, StdinOnly, StdoutOnly} {
		v, control, one, two := openVaulted(t, testSpec(kind, "line", true))
		for _, e := range []*Endpoint{one, two} {
			if e.out != nil {
				if err := trySend(e, []byte("x")); err != nil {
					t.Fatal(err)
				}
			}
		}
		closeEnd(t, one, false)
		if two.in != nil {
			c := two.in.Consumer()
			for ev := next(t, c, Limits{}); ev.End == nil; ev = next(t, c, Limits{}) {
				continue
			}
			c.Close()
		}
		closeEnd(t, two, true)
		v.has(t, "with both ends closed")
		control.Close()
		if got := v.keys(); len(got) != 0 {
			t.Errorf("in the end the vault has %v", got)
		}
	}
}

func TestHalfCloseLeavesNothingOfThatHalfInTheVault(t *testing.T) {
	v, _, one, two := openVaulted(t, testSpec(Stdio, "line", true))
	if err := trySend(one, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := one.CloseSend(false); err != nil {
		t.Fatal(err)
	}
	await(t, "the half to be closed", one.out.Flushed())
	v.has(t, "half closed", KeyOf(0, 1, PartRead), KeyOf(0, 1, PartOutbox), KeyOf(0, 2, PartRead), KeyOf(0, 2, PartWrite))
	c := two.in.Consumer()
	defer c.Close()
	nextBatch(t, c, Limits{})
	nextEnd(t, c)
	closeEnd(t, one, true)
	closeEnd(t, two, true)
}

func TestControlFileThatWasOpenedAgainLeavesTheVaultWhenItIsClosed(t *testing.T) {
	for name, end := range map[string]func(*Control){"close": (*Control).Close, "retire": (*Control).Retire} {
		v := newFakeVault(t)
		fd := memoryOf(t, writeImage(t))
		if err := v.Put(Item{ControlKey, fd}); err != nil {
			t.Fatal(err)
		}
		c, err := OpenControl(fd, v)
		if err != nil {
			t.Fatal(err)
		}
		if end(c); len(v.keys()) != 0 {
			t.Errorf("%s: the vault has %v", name, v.keys())
		}
		c.Close()
	}
}

func TestPipeThatTheVaultRefusesIsNotMade(t *testing.T) {
	v, control, one, two := openVaulted(t, testSpec(Duplex, "line", true))
	v.refuse = errors.New("full")
	spec := testSpec(Duplex, "line", true)
	spec.Control, spec.Vault = control, v
	if _, _, err := Open(one.read.poller, spec); !errors.Is(err, ErrNoSpace) || !errors.Is(err, v.refuse) {
		t.Errorf("opening a pipe: %v", err)
	}
	if n := control.Pipes(); n != 1 {
		t.Errorf("the control file describes %d pipes", n)
	}
	if err := trySend(one, []byte("x")); !errors.Is(err, ErrNoSpace) || !errors.Is(err, v.refuse) {
		t.Errorf("sending the first message: %v", err)
	}
	if _, err := NewControl(v); !errors.Is(err, ErrNoSpace) {
		t.Errorf("another control file: %v", err)
	}
	v.mu.Lock()
	v.refuse = nil
	v.mu.Unlock()
	if err := trySend(one, []byte("x")); err != nil {
		t.Errorf("once it takes copies again: %v", err)
	}
	closeEnd(t, one, true)
	closeEnd(t, two, true)
	v.has(t, "in the end")
}
