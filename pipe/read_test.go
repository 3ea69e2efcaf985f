package pipe

import (
	"errors"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReadIsKnownWhenTheReaderHasGone(t *testing.T) {
	one, two := open(t, testSpec(OneWay, "line", false))
	p := takePeer(t, one)
	for range 5 {
		send(t, two, "hello")
	}
	if got := p.read(t, 6); got != "hello\n" {
		t.Fatalf("got %q", got)
	}
	p.close()
	poll(t, "the end", func() bool { return two.out.End() != nil })
	if at := two.out.Read(); at != (Position{Message: 2}) {
		t.Errorf("read up to %v, one message was", at)
	}
}

func TestWhatAResetTookAwayIsNeverCalledRead(t *testing.T) {
	rounds := 300
	if long {
		rounds = 3000
	}
	poller := newTestPoller(t)
	for range rounds {
		one, two, err := Open(poller, testSpec(Duplex, "line", true))
		if err != nil {
			t.Fatal(err)
		}
		far, err := two.Copy()
		if err != nil {
			t.Fatal(err)
		}
		closeEnd(t, two, true)
		send(t, one, "hello")
		stop, looked := make(chan struct{}), make(chan bool)
		go func() {
			read := false
			for {
				all, _ := one.AllRead()
				read = read || all || one.out.Read().Message > 1
				select {
				case <-stop:
					looked <- read
					return
				default:
				}
			}
		}()
		far.Close()
		for one.in.End() == nil {
			runtime.Gosched()
		}
		close(stop)
		if <-looked {
			t.Error("what nobody read was called read")
		}
		closeEnd(t, one, true)
	}
}

// A scarceSpace has no memory behind its first window while scarce.
type scarceSpace struct {
	memfdSpace
	scarce bool
}

func (s *scarceSpace) allocate(from, to uint64) error {
	if s.scarce && from >= windowSize {
		return unix.ENOMEM
	}
	return s.memfdSpace.allocate(from, to)
}

func (s *scarceSpace) window(off uint64) ([]byte, error) {
	if s.scarce && off > 0 {
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
	s := &scarceSpace{memfdSpace: memfdSpace{fd}}
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
