package pipe

import (
	"errors"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// A scarceSpace has no memory behind its first window while scarce.
type scarceSpace struct {
	memfdSpace
	scarce bool
}

func (s *scarceSpace) lacks(off uint64) bool { return s.scarce && off >= windowSize }

func (s *scarceSpace) allocate(from, to uint64) error {
	if s.lacks(from) {
		return unix.ENOMEM
	}
	return s.memfdSpace.allocate(from, to)
}

func (s *scarceSpace) window(off uint64) ([]byte, error) {
	if s.lacks(off) {
		return nil, unix.ENOMEM
	}
	return s.memfdSpace.window(off)
}

func TestMessageForWhichThereIsNoMemoryIsRefusedWholeAndTheNextGoes(t *testing.T) {
	_, two := open(t, testSpec(OneWay, "mp", false))
	fd, err := newMemfd("scarce")
	if err != nil {
		t.Fatal(err)
	}
	s := &scarceSpace{memfdSpace: memfdSpace{fd: fd}}
	two.out.log.open = func() (space, error) { return s, nil }
	part := make([]byte, 250<<10)
	for range 4 {
		if err := two.out.Append(Part{Data: part}); err != nil {
			t.Fatal(err)
		}
	}
	s.scarce = true
	if err := two.out.Append(Part{Data: part}); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("without memory: %v", err)
	}
	s.scarce = false
	if err := two.out.Append(Part{Data: part}); err != nil {
		t.Fatal(err)
	}
	if info := two.out.Info(); info.Messages != 5 || info.Bytes != 5*(4+uint64(len(part))) {
		t.Errorf("%d messages, %d bytes", info.Messages, info.Bytes)
	}
}

func TestInboxThatCannotGrowSaysSinceWhenAndPromisesNothing(t *testing.T) {
	if inMemory {
		return // that log is made before there is something for it
	}
	one, two := open(t, testSpec(Stdio, "raw", true))
	p := takePeer(t, two)
	var relieved atomic.Bool
	one.in.mu.Lock()
	opens := one.in.log.open
	one.in.log.open = func() (space, error) {
		if !relieved.Load() {
			return nil, unix.EMFILE
		}
		return opens()
	}
	one.in.mu.Unlock()
	p.write(t, "x")
	poll(t, "the inbox to starve", func() bool { return !one.in.Info().BlockedSince.IsZero() })
	since := one.in.Info().BlockedSince
	tries := 0
	poll(t, "further tries", func() bool { tries++; return tries > 300 })
	if again := one.in.Info().BlockedSince; !again.Equal(since) {
		t.Errorf("blocked since %v, and then since %v", since, again)
	}
	if one.in.Arriving() {
		t.Error("a change is promised that does not come")
	}
	relieved.Store(true)
	c := one.in.Consumer()
	defer c.Close()
	if b := nextBatch(t, c, Limits{}); string(b.Data) != "x" {
		t.Errorf("got %q", b.Data)
	}
	if !one.in.Info().BlockedSince.IsZero() {
		t.Error("it is still blocked")
	}
}

// A scarcePort is one to a kernel that has no memory for what is handed over.
type scarcePort struct {
	port
	relieved atomic.Bool
	tries    atomic.Int64
}

func (p *scarcePort) sendfile(n int) (int, error) {
	p.tries.Add(1)
	if !p.relieved.Load() {
		return 0, unix.ENOMEM
	}
	return p.port.sendfile(n)
}

func TestWhatWasAcceptedIsHandedOverWhenTheKernelHasMemoryAgain(t *testing.T) {
	if inMemory {
		return // that log has no port
	}
	for _, stopped := range []bool{false, true} {
		one, two := open(t, testSpec(Duplex, "raw", true))
		p := takePeer(t, two)
		s := &scarcePort{port: one.out.port}
		one.out.mu.Lock()
		one.out.port = s
		one.out.mu.Unlock()
		if err := one.out.Append(Part{Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		if err := one.out.Push(); err != nil {
			t.Fatalf("without memory: %v", err)
		}
		poll(t, "a try in the background", func() bool { return s.tries.Load() > 1 })
		if info := one.out.Info(); info.End != nil || info.BlockedSince.IsZero() {
			t.Errorf("without memory: %+v", info)
		}
		if stopped {
			continue // the end of the test waits for the goroutine
		}
		s.relieved.Store(true)
		if got := p.read(t, 1); got != "x" {
			t.Errorf("got %q", got)
		}
	}
}
