package pipe

import "testing"

// TestSlotOfAPipeThatIsGoneIsUsedAgain holds that a session whose pipes come and go
// does not fill its control file, and that nothing of a pipe shows in the next one.
func TestSlotOfAPipeThatIsGoneIsUsedAgain(t *testing.T) {
	if inMemory {
		return
	}
	control, err := NewControl(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	poller, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer poller.Close()
	spec := Spec{Control: control, Kind: Duplex, LogSize: 64 << 10, MaxMessage: 1 << 20, Sealed: true}
	open := func() (one, two *Endpoint) {
		one, two, err := Open(poller, spec)
		if err != nil {
			t.Fatal(err)
		}
		return one, two
	}
	closeBoth := func(one, two *Endpoint) {
		one.Close(true)
		two.Close(true)
		<-one.Closed()
		<-two.Closed()
	}
	first, other := open()
	kept, keptOther := open()
	defer closeBoth(kept, keptOther)
	if err := first.out.Append(Part{Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	for range 3 * segmentSlots {
		slot := first.Slot()
		closeBoth(first, other)
		control.Release(slot)
		first, other = open()
		if first.Slot() != slot {
			t.Fatalf("the next pipe has slot %d, want %d", first.Slot(), slot)
		}
		if info := first.out.Info(); info.Messages != 0 || info.End != nil {
			t.Fatalf("it begins as %+v", info)
		}
		if r := control.record(slot, 1, true); r.head.Load() != 0 || r.flags.Load() != 0 || r.seq != 0 {
			t.Fatalf("its record begins with head %d, flags %#x, checkpoint %d", r.head.Load(), r.flags.Load(), r.seq)
		}
	}
	closeBoth(first, other)
	if n := control.Pipes(); n != 2 {
		t.Errorf("the file has %d slots", n)
	}
	// Whoever opens it finds the slots behind one that is used again.
	if d, err := control.describe(kept.Slot()); err != nil || d.spec.Kind != Duplex {
		t.Errorf("the one behind it: %v", err)
	}
}
