package pipe

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestObserverOfWhatIsSentNeedsNoReader(t *testing.T) {
	one, two := open(t, testSpec(Stdio, "line", true))
	takePeer(t, two) // and does not read
	c := one.out.Observer()
	defer c.Close()
	full := string(make([]byte, 100<<10))
	send(t, one, full) // more than the kernel takes: a drainer waits from now on
	if b := nextBatch(t, c, Limits{}); len(b.Data) != len(full) {
		t.Fatalf("got %d bytes", len(b.Data))
	}
	for len(c.Changed()) > 0 {
		<-c.Changed()
	}
	send(t, one, "behind it")
	select {
	case <-c.Changed():
	case <-time.After(patience):
		t.Error("nobody told the observer")
	}
	if b := nextBatch(t, c, Limits{}); string(b.Data) != "behind it" || b.First.Message != 2 {
		t.Errorf("got %q at %v", b.Data, b.First)
	}
}

func TestWhatWasHandedOverStaysForObserversWhenNobodyReadsAnyMore(t *testing.T) {
	one, two := open(t, testSpec(Stdio, "line", true))
	p := takePeer(t, two)
	send(t, one, "a")
	send(t, one, "b")
	p.close()
	poll(t, "the end of what is sent", func() bool { return one.out.End() != nil })
	c := one.out.Observer()
	defer c.Close()
	for i, want := range []string{"a", "b"} {
		if b := nextBatch(t, c, Limits{}); string(b.Data) != want || b.First.Message != uint64(i+1) {
			t.Fatalf("got %q at %v, want %q", b.Data, b.First, want)
		}
	}
	if end := nextEnd(t, c); end.Cause != CauseBrokenPipe || end.Position != (Position{Message: 3}) {
		t.Errorf("end %+v", end)
	}
}

// A leavingPort lets the reader go just after it has taken something.
type leavingPort struct {
	port
	leave func()
}

func (p *leavingPort) sendfile(n int) (int, error) {
	n, err := p.port.sendfile(n)
	if n > 0 {
		p.leave()
	}
	return n, err
}

func TestReaderThatGoesWhileSomethingIsHandedOverIsNoticed(t *testing.T) {
	if inMemory {
		return // it has no port
	}
	one, two := open(t, testSpec(Stdio, "line", true))
	p := takePeer(t, two)
	one.out.port = &leavingPort{one.out.port, func() {
		p.close()
		// The hangup is told while the write is under way.
		poll(t, "the hangup", func() bool { return one.out.desc.ready(unix.POLLOUT)&unix.POLLERR != 0 })
		poll(t, "the news of it", func() bool {
			one.out.mu.Lock()
			defer one.out.mu.Unlock()
			return one.out.maybeGone
		})
	}}
	send(t, one, "the last that it took")
	poll(t, "the end of what is sent", func() bool { return one.out.End() != nil })
}

func TestReaderThatHasReadAndGoneIsNotCalledGoneBeforeThatIsNoted(t *testing.T) {
	if inMemory {
		return // it has no port
	}
	one, two := open(t, testSpec(Stdio, "line", true))
	p := takePeer(t, two)
	one.out.port = &leavingPort{one.out.port, func() {
		p.read(t, len("a\n"))
		p.close()
		poll(t, "the hangup", func() bool { return one.out.desc.ready(unix.POLLOUT)&unix.POLLERR != 0 })
		if one.out.Gone() {
			t.Error("it is called gone, and what it has read is not called read")
		}
	}}
	send(t, one, "a")
	poll(t, "the end of what is sent", func() bool { return one.out.End() != nil })
	if at := one.out.Read(); at != (Position{Message: 2}) {
		t.Errorf("read up to %v", at)
	}
}
