package pipe

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRetiredEndGivesItsDescriptorsBackAndKeepsWhatCameOut(t *testing.T) {
	poller := newTestPoller(t)
	one, two, err := Open(poller, exactly(t, Spec{Kind: Stdio, LogSize: 64 << 10, TailSize: 4 << 10, MaxMessage: 1 << 20, Sealed: true}))
	if err != nil {
		t.Fatal(err)
	}
	read, write := one.Descriptors()
	_, farWrite := two.Descriptors()
	if _, err := unix.Write(farWrite, []byte("last words\n")); err != nil {
		t.Fatal(err)
	}
	two.Close(true)
	<-two.Closed()
	poll(t, "the end", func() bool { return one.in.End() != nil })
	if !one.HungUp() {
		t.Fatal("the other end is closed, and yet not hung up")
	}
	one.Retire()
	for _, fd := range []int{read, write} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
			t.Errorf("descriptor %d is still open: %v", fd, err)
		}
	}
	c := one.in.Consumer()
	defer c.Close()
	if ev, err := c.Next(nil, Limits{}); err != nil || ev.Batch == nil || string(ev.Batch.Data) != "last words" {
		t.Errorf("got %+v, %v", ev, err)
	}
	if err := one.out.Append(Part{Data: []byte("x")}); !errors.Is(err, ErrBrokenPipe) {
		t.Errorf("sending gave %v", err)
	}
	if _, err := one.Copy(); !errors.Is(err, ErrClosed) {
		t.Errorf("a copy of a retired end: %v", err)
	}
	if !one.HungUp() {
		t.Error("retired, and not hung up any more")
	}
	one.Close(false)
	<-one.Closed()
}

func TestCopyKeepsTheEndOpenWhenTheEndpointCloses(t *testing.T) {
	poller := newTestPoller(t)
	one, two, err := Open(poller, exactly(t, Spec{Kind: Duplex, LogSize: 64 << 10, MaxMessage: 1 << 20}))
	if err != nil {
		t.Fatal(err)
	}
	c, err := one.Copy()
	if err != nil || c.Read != c.Write {
		t.Fatalf("%+v, %v", c, err)
	}
	one.Close(false)
	<-one.Closed()
	if two.HungUp() {
		t.Error("hung up although a copy is open")
	}
	c.Close()
	if !two.HungUp() {
		t.Error("the last copy is closed, and not hung up")
	}
	two.Close(false)
	<-two.Closed()
}

func TestConsumerThatComesAfterDropsIsToldOfThem(t *testing.T) {
	one, two := open(t, Spec{Kind: Duplex, LogSize: 8 << 10, MaxMessage: 1 << 20, Overflow: DropOldest, Sealed: true})
	for range 4000 {
		sendWaiting(t, two, Part{Data: []byte("0123456789")})
	}
	two.Close(false)
	<-two.Closed()
	poll(t, "the end", func() bool { return one.in.End() != nil })
	for range 2 {
		c := one.in.Consumer()
		if got := c.Position(); got != (Position{Message: 1}) {
			t.Errorf("starts at %v, before the gap stands 1", got)
		}
		c.Close() // told nothing, so the next one must be told
	}
	c := one.in.Consumer()
	ev, err := c.Next(nil, Limits{})
	if err != nil || ev.Gap == nil || ev.Gap.From != (Position{Message: 1}) || ev.Gap.To.Message != one.in.Info().Drops.Messages+1 {
		t.Fatalf("%+v, %v", ev, err)
	}
	c.Close() // the gap may not have come through
	c = one.in.Consumer()
	if again, err := c.Next(nil, Limits{}); err != nil || again.Gap == nil || *again.Gap != *ev.Gap {
		t.Errorf("a gap that nobody acknowledged is told again as %+v, %v", again, err)
	}
	if err := one.in.Ack(ev.Gap.To); err != nil {
		t.Fatal(err)
	}
	c.Close()
	c = one.in.Consumer()
	defer c.Close()
	if ev, err := c.Next(nil, Limits{}); err != nil || ev.Batch == nil {
		t.Errorf("the gap is told after it was acknowledged: %+v, %v", ev, err)
	}
}

func TestDropsBelowAnAcknowledgementAreNoGapForTheNextConsumer(t *testing.T) {
	one, two := open(t, Spec{Kind: Duplex, LogSize: 8 << 10, MaxMessage: 1 << 20, Overflow: DropOldest, Sealed: true})
	c := one.in.Consumer()
	sendWaiting(t, two, Part{Data: []byte("0123456789")})
	nextBatch(t, c, Limits{}) // and not acknowledged
	for range 4000 {
		sendWaiting(t, two, Part{Data: []byte("0123456789")})
	}
	closeEnd(t, two, false)
	poll(t, "the end", func() bool { return one.in.End() != nil })
	if err := one.in.Ack(one.in.Arrived()); err != nil {
		t.Fatal(err)
	}
	c.Close()
	c = one.in.Consumer()
	defer c.Close()
	nextEnd(t, c)
}

func TestClosingARetiredEndLeavesAloneWhoGotItsNumber(t *testing.T) {
	for _, halfClose := range []bool{false, true} {
		poller := newTestPoller(t)
		one, two, err := Open(poller, exactly(t, testSpec(Duplex, "line", true)))
		if err != nil {
			t.Fatal(err)
		}
		number, _ := one.Descriptors()
		closeEnd(t, two, true)
		poll(t, "the end", func() bool { return one.in.End() != nil })
		one.Retire()
		// The kernel gives out the lowest free number, so these get the old ones.
		a, b := socketPair(t)
		if a != number && b != number {
			t.Fatalf("descriptors %d and %d, and neither is %d", a, b, number)
		}
		if halfClose {
			if err := one.CloseSend(true); err != nil {
				t.Fatal(err)
			}
		}
		closeEnd(t, one, true)
		for _, way := range [][2]int{{a, b}, {b, a}} {
			if _, err := unix.Write(way[0], []byte("x")); err != nil {
				t.Errorf("half-close first %t: a foreign socket was shut down: %v", halfClose, err)
			}
			if n, err := unix.Read(way[1], make([]byte, 1)); n != 1 || err != nil {
				t.Errorf("half-close first %t: a foreign socket reads %d, %v", halfClose, n, err)
			}
		}
	}
}

// socketPair returns two connected sockets that are closed after the test.
func socketPair(t *testing.T) (a, b int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Close(pair[0])
		_ = unix.Close(pair[1])
	})
	return pair[0], pair[1]
}

func TestIdlePipeTellsThatNobodyReadsItAnyMore(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		ended := make(chan struct{})
		spec := testSpec(Stdio, "line", sealed)
		spec.Ended = func(end int, sent bool) {
			if end == 1 && sent {
				close(ended)
			}
		}
		one, two := open(t, spec)
		send(t, one, "one")
		p := takePeer(t, two)
		if got := p.read(t, 4); got != "one\n" {
			t.Fatalf("got %q", got)
		}
		p.close()
		await(t, "the end of what is sent", ended)
		if end := one.out.End(); end.Cause != CauseBrokenPipe || end.Position != (Position{Message: 2}) {
			t.Errorf("end %+v", end)
		}
		if all, known := one.AllRead(); !all || !known {
			t.Errorf("all read is %t, known %t", all, known)
		}
	}
}
