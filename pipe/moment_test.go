package pipe

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// A moment is what would be left of a pipe if the process were killed then.
type moment struct {
	fds     map[Key]int
	control []byte
}

// momentLocked takes a moment down: copies of what the vault has, and the control
// file and the logs as they are. A copy of half a pipe would hold up what comes
// after, so that is half of another one. It is nil when there is no control file any
// more.
func (v *fakeVault) momentLocked() *moment {
	control, ok := v.fds[ControlKey]
	if !ok {
		return nil
	}
	m := &moment{fds: make(map[Key]int), control: make([]byte, segmentSize)}
	if _, err := unix.Pread(control, m.control, 0); err != nil {
		v.t.Fatal(err)
	}
	for key, fd := range v.fds {
		_, _, part, err := key.Split()
		switch {
		case key == ControlKey:
		case err != nil:
			v.t.Fatal(err)
		case part >= PartInbox:
			m.fds[key] = copyFile(v.t, fd)
		case isPipe(fd):
			m.fds[key] = pipeHalf(v.t, int(part-PartRead))
		default:
			m.fds[key] = dup(v.t, fd)
		}
	}
	return m
}

// copyFile copies a log's file as it is, with its position.
func copyFile(t testing.TB, fd int) int {
	t.Helper()
	size, err := (&memfdSpace{fd: fd}).size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := unix.Pread(fd, b, 0); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Seek(fd, 0, unix.SEEK_CUR)
	if err != nil {
		t.Fatal(err)
	}
	copied := memoryOf(t, b)
	if _, err := unix.Seek(copied, at, unix.SEEK_SET); err != nil {
		t.Fatal(err)
	}
	return copied
}

func isPipe(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO
}

func (v *fakeVault) moment() *moment {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.momentLocked()
}

// recovered makes the pipe again as it was at a moment; both ends are closed when
// the test ends.
func (m *moment) recovered(t *testing.T) (one, two *Endpoint) {
	t.Helper()
	control, err := OpenControl(memoryOf(t, m.control), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(control.Close)
	kept := keptOf(m.fds, 0)
	kept.Control = control
	if one, two, err = Recover(newTestPoller(t), kept, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closeEnd(t, one, true)
		closeEnd(t, two, true)
	})
	return one, two
}

// accepted is what is known of what was sent into an end.
type accepted struct {
	Messages, Bytes uint64
	At              Position
	Unfinished      *UnfinishedError
}

func acceptedBy(e *Endpoint) accepted {
	info := e.out.Info()
	return accepted{Messages: info.Messages, Bytes: info.Bytes, At: info.Accepted, Unfinished: e.out.Unfinished()}
}

// sendHalf sends a message and parts of another one, until the kernel takes no more
// if that is much.
func sendHalf(t *testing.T, e *Endpoint, much bool) {
	t.Helper()
	if err := trySend(e, []byte("first")); err != nil {
		t.Fatal(err)
	}
	part := Part{Data: bytes.Repeat([]byte("x"), 50_000), Total: 10 << 20, More: true}
	for e.out.Info().QueuedBytes < 100_000 {
		if err := errors.Join(e.out.Append(part), e.out.Push()); err != nil {
			t.Fatal(err)
		}
		if part.Offset += uint64(len(part.Data)); !much {
			return
		}
	}
}

func TestWhatWasAcceptedIsKnownAtEveryMomentOfTheEnd(t *testing.T) {
	ways := map[string]func(*testing.T, *Endpoint, *Endpoint){
		"half close": func(t *testing.T, one, _ *Endpoint) {
			if err := one.CloseSend(true); err != nil {
				t.Fatal(err)
			}
			await(t, "the half close", one.out.Flushed())
		},
		"close": func(t *testing.T, one, two *Endpoint) {
			closeEnd(t, one, true)
			closeEnd(t, two, true)
		},
		"break": func(t *testing.T, one, two *Endpoint) {
			closeEnd(t, two, true)
			poll(t, "the end", func() bool { return one.in.End() != nil && one.HungUp() && !one.out.Draining() })
			one.Retire()
			one.RetireLogs()
		},
		"taken": func(t *testing.T, one, two *Endpoint) {
			if err := one.CloseSend(false); err != nil {
				t.Fatal(err)
			}
			c := two.in.Consumer()
			for ev := next(t, c, Limits{}); ev.End == nil; ev = next(t, c, Limits{}) {
				if err := two.in.Ack(c.Position()); err != nil {
					t.Fatal(err)
				}
			}
			c.Close()
			closeEnd(t, one, false)
		},
	}
	for name, end := range ways {
		for _, kind := range []Kind{Duplex, Stdio} {
			for _, framing := range []string{"line", "mp"} {
				for _, much := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%d/%s/%t", name, kind, framing, much), func(t *testing.T) {
						spec := testSpec(kind, framing, true)
						spec.LogSize, spec.MaxMessage = 1<<20, 16<<20
						v, _, one, two := openVaulted(t, spec)
						sendHalf(t, one, much)
						compareMoments(t, v, one, two, name, end)
					})
				}
			}
		}
	}
}

// compareMoments lets a pipe come to its end and compares what was accepted before
// with what is known at each moment of that.
func compareMoments(t *testing.T, v *fakeVault, one, two *Endpoint, name string, end func(t *testing.T, one, two *Endpoint)) {
	want := acceptedBy(one)
	if want.At.Message != 2 || want.Unfinished == nil || want.Unfinished.Total != 10<<20 {
		t.Fatalf("%+v", want)
	}
	var moments []*moment
	v.changed = func(v *fakeVault) {
		if m := v.momentLocked(); m != nil {
			moments = append(moments, m)
		}
	}
	end(t, one, two)
	if diff := cmp.Diff(want, acceptedBy(one)); diff != "" {
		t.Errorf("in the end: %s", diff)
	}
	closeEnd(t, one, true)
	closeEnd(t, two, true)
	for n, m := range moments {
		again, _ := m.recovered(t)
		if diff := cmp.Diff(want, acceptedBy(again)); diff != "" {
			t.Errorf("at moment %d of %d: %s", n, len(moments), diff)
		}
		// What is sent into a socket at a moment meets the other end as it is now.
		if end := again.out.End(); end != nil && end.Cause == CauseBrokenPipe && name == "taken" && !again.write.socket {
			t.Errorf("at moment %d of %d all was handed over, and it ended as %+v", n, len(moments), end)
		}
	}
}

// ending is what is known of an end at which nothing can flow any more.
type ending struct {
	In, Out    *End
	Messages   uint64
	All, Known bool
	Closing    bool
}

func endingOf(e *Endpoint) (end ending) {
	end = ending{In: e.in.End(), Out: e.out.End(), Messages: e.in.Info().Messages, Closing: e.out.Info().Closing}
	end.All, end.Known = e.AllRead()
	return end
}

func TestEndIsTheSameAfterAKill(t *testing.T) {
	for name, last := range map[string]string{"whole": "\x00\x00\x00\x02hi", "truncated": "\x00\x00\x00\x02h", "bad": "\xff\xff\xff\xfe", "too long": "\x7f\xff\xff\xff"} {
		for _, kind := range []Kind{Duplex, Stdio} {
			t.Run(fmt.Sprintf("%s/%d", name, kind), func(t *testing.T) {
				v, _, one, two := openVaulted(t, testSpec(kind, "mp", true))
				if err := trySend(one, []byte("x")); err != nil {
					t.Fatal(err)
				}
				p := takePeer(t, two)
				p.read(t, 5)
				p.write(t, "\x00\x00\x00\x01a"+last)
				p.close()
				poll(t, "the ends", func() bool { return one.in.End() != nil && one.HungUp() })
				moments := map[string]*moment{"before": v.moment()}
				one.Retire()
				moments["retired"] = v.moment()
				want := endingOf(one)
				if !want.All || !want.Known {
					t.Errorf("all was read: %t, %t", want.All, want.Known)
				}
				one.RetireLogs()
				if diff := cmp.Diff(want, endingOf(one)); diff != "" {
					t.Errorf("without logs: %s", diff)
				}
				moments["without logs"] = v.moment()
				closeEnd(t, one, true)
				for name, m := range moments {
					again, _ := m.recovered(t)
					if name == "before" {
						again.Retire()
					}
					got := endingOf(again)
					if name == "without logs" && got.In != nil { // the cause says it
						got.In.Detail = want.In.Detail
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%s: %s", name, diff)
					}
					again.checkLeft(t, name != "without logs")
				}
			})
		}
	}
}

// checkLeft looks at what can still be received: the message, or that it is gone.
func (e *Endpoint) checkLeft(t *testing.T, there bool) {
	t.Helper()
	c := e.in.Consumer()
	defer c.Close()
	ev := next(t, c, Limits{})
	switch {
	case there && (ev.Batch == nil || string(ev.Batch.Data) != "a"):
		t.Errorf("got %+v", ev)
	case !there && (ev.Gap == nil || ev.Gap.From != Position{Message: 1} || ev.Gap.To != e.in.Arrived()):
		t.Errorf("got %+v", ev)
	case !there && e.in.Info().Drops.Messages != e.in.Info().Messages:
		t.Errorf("dropped %+v of %+v", e.in.Info().Drops, e.in.Info())
	case !there:
		nextEnd(t, c)
	}
}

func TestWhatWasHandedOverBeforeABreakStaysForObserversAlsoAfterAKill(t *testing.T) {
	v, _, one, two := openVaulted(t, testSpec(Stdio, "line", true))
	p := takePeer(t, two)
	send(t, one, "a")
	p.close()
	poll(t, "the end of what is sent", func() bool { return one.out.End() != nil })
	m := v.moment()
	closeEnd(t, one, true)
	again, _ := m.recovered(t)
	c := again.out.Observer()
	defer c.Close()
	if b := nextBatch(t, c, Limits{}); string(b.Data) != "a" {
		t.Errorf("got %q", b.Data)
	}
	nextEnd(t, c)
}

func TestWhatIsAcknowledgedWithoutALogIsNotDropped(t *testing.T) {
	v, _, one, two := openVaulted(t, testSpec(Stdio, "line", true))
	p := takePeer(t, two)
	p.write(t, "a\nb\nc\n")
	p.close()
	poll(t, "the ends", func() bool { return one.in.End() != nil && one.HungUp() })
	one.Retire()
	one.RetireLogs()
	if err := one.in.Ack(Position{Message: 3}); err != nil {
		t.Fatal(err)
	}
	m := v.moment()
	closeEnd(t, one, true)
	again, _ := m.recovered(t)
	c := again.in.Consumer()
	defer c.Close()
	if ev := next(t, c, Limits{}); ev.Gap == nil || *ev.Gap != (Gap{From: Position{Message: 3}, To: Position{Message: 4}}) {
		t.Errorf("got %+v", ev)
	}
	if got := again.in.Info().Drops; got != (Drops{Messages: 1, Bytes: 2}) {
		t.Errorf("dropped %+v", got)
	}
}
