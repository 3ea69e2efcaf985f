package pipe

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// A fuzzedPipe is what is kept of a pipe, made of bytes that nobody wrote.
type fuzzedPipe struct {
	control, inbox, outbox []byte
	received, sent         uint64
}

// fuzzLog bounds the files, so that the kernel takes all of what is queued at once.
const fuzzLog = 16 << 10

func (f *fuzzedPipe) keep(t *testing.T) (Kept, bool) {
	fd := memoryOf(t, f.control)
	control, err := OpenControl(fd, nil)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			t.Fatal(err)
		}
		return Kept{}, false
	}
	t.Cleanup(control.Close)
	kept := Kept{Control: control}
	for i := range kept.Ends {
		kept.Ends[i] = KeptEnd{Read: -1, Write: -1, Inbox: f.log(t, f.inbox, f.received), Outbox: f.log(t, f.outbox, f.sent)}
	}
	f.descriptors(t, &kept)
	return kept, true
}

func (f *fuzzedPipe) log(t *testing.T, b []byte, at uint64) int {
	if len(b) == 0 {
		return -1
	}
	fd := memoryOf(t, b[:min(len(b), fuzzLog)])
	if b[0] != 0xff { // whole pages, as they should be
		if err := unix.Ftruncate(fd, fuzzLog); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := unix.Seek(fd, int64(at%(2*fuzzLog)), unix.SEEK_SET); err != nil {
		t.Fatal(err)
	}
	return fd
}

// descriptors gives the ends what their kind needs, each with another side of its
// own, on which nothing happens.
func (f *fuzzedPipe) descriptors(t *testing.T, kept *Kept) {
	if kept.Control.Pipes() == 0 {
		return
	}
	d, err := kept.Control.describe(0)
	if err != nil {
		return
	}
	for i := range kept.Ends {
		k := &kept.Ends[i]
		receives, sends := directions(d.spec.Kind, i+1)
		if d.spec.Kind == Duplex {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			k.Read = half(t, pair, err, 0)
			k.Write = k.Read
			continue
		}
		if receives {
			k.Read = pipeHalf(t, 0)
		}
		if sends {
			k.Write = pipeHalf(t, 1)
		}
	}
}

func pipeHalf(t testing.TB, which int) int {
	var pair [2]int
	err := unix.Pipe2(pair[:], unix.O_CLOEXEC)
	return half(t, pair, err, which)
}

// half keeps the other descriptor open until the test is over.
func half(t testing.TB, pair [2]int, err error, which int) int {
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(pair[1-which]) })
	return pair[which]
}

// A recovered is what can be seen of a pipe and must be the same after each
// recovery.
type recovered struct {
	Err      string
	Messages [4]uint64
	Bytes    [4]uint64
	Acked    [2]Position
	Drops    [2]Drops
}

func look(one, two *Endpoint) (r recovered) {
	for i, e := range []*Endpoint{one, two} {
		if e.in != nil {
			info := e.in.Info()
			r.Messages[i], r.Bytes[i] = info.Messages, info.Bytes
			if !e.Closing() && !e.in.drop { // otherwise they move on
				r.Acked[i], r.Drops[i] = e.in.Acked(), info.Drops
			}
			drainAll(e.in.Consumer())
			drainAll(e.in.Observer())
		}
		if e.out != nil {
			r.Messages[2+i], r.Bytes[2+i] = e.out.Info().Messages, e.out.Info().Bytes
		}
	}
	return r
}

// drainAll reads what is there; it must come to an end.
func drainAll(c *Cursor) {
	defer c.Close()
	for {
		if ev, err := c.Next(nil, Limits{Messages: 10}); err != nil || ev.None() {
			return
		}
	}
}

func FuzzRecover(f *testing.F) {
	poller, err := NewPoller()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = poller.Close() })
	for _, seed := range fuzzSeeds(f) {
		f.Add(seed.control, seed.inbox, seed.outbox, seed.received, seed.sent, true)
		f.Add(seed.control, seed.inbox, seed.outbox, seed.received, seed.sent, false)
	}
	f.Fuzz(func(t *testing.T, control, inbox, outbox []byte, received, sent uint64, mend bool) {
		p := fuzzedPipe{control: append([]byte(nil), control...), inbox: inbox, outbox: outbox, received: received, sent: sent}
		if mend {
			repair(p.control)
		}
		kept, ok := p.keep(t)
		if !ok {
			return
		}
		one, two, err := Recover(poller, kept, func(int, bool) {})
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		first := look(one, two)
		kept.Ends = [2]KeptEnd{one.kill(), two.kill()}
		one, two, err = Recover(poller, kept, func(int, bool) {})
		if err != nil {
			t.Fatalf("the second recovery: %v", err)
		}
		if diff := cmp.Diff(first, look(one, two)); diff != "" {
			t.Errorf("the second recovery finds something else: %s", diff)
		}
		for _, e := range []*Endpoint{one, two} {
			e.Close(true)
			<-e.Closed()
		}
	})
}

// fuzzSeeds are pipes as they are.
func fuzzSeeds(f testing.TB) (seeds []fuzzedPipe) {
	stream := []byte("\x00\x00\x00\x05hello\x00\x00\x00\x00\x00\x00\x00\x03abc")
	for _, kind := range []Kind{Duplex, Stdio, OneWay, StdinOnly, StdoutOnly} {
		for _, framing := range []string{"mp", "line", "raw"} {
			control, err := NewControl(nil)
			if err != nil {
				f.Fatal(err)
			}
			spec := testSpec(kind, framing, framing != "raw")
			slot, err := control.add(&description{spec}, nil)
			if err != nil {
				f.Fatal(err)
			}
			for end := 1; end <= 2; end++ {
				for _, sent := range []bool{false, true} {
					r := control.record(slot, end, sent)
					r.head.Store(uint64(len(stream)))
					r.moved.Store(9)
					r.acked.Store(9)
					r.checkpoint(checkpoint{base: place{num: 1}})
				}
			}
			image := make([]byte, goldenSize)
			if _, err := unix.Pread(control.Descriptor(), image, 0); err != nil {
				f.Fatal(err)
			}
			control.Close()
			seeds = append(seeds, fuzzedPipe{control: image, inbox: stream, outbox: stream, received: uint64(len(stream)), sent: 9})
		}
	}
	return seeds
}
