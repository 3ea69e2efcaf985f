package pipe

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var kindNames = map[Kind]string{Duplex: "duplex", OneWay: "one-way", Stdio: "stdio", StdinOnly: "stdin", StdoutOnly: "stdout"}

// eachPipe runs a test for every kind, framing and sealing.
func eachPipe(t *testing.T, test func(t *testing.T, spec Spec)) {
	t.Helper()
	for kind, name := range kindNames {
		for _, framing := range FramingNames() {
			for _, sealed := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/sealed %t", name, framing, sealed), func(t *testing.T) {
					test(t, testSpec(kind, framing, sealed))
				})
			}
		}
	}
}

// ways calls f for each direction that the pipe has.
func ways(one, two *Endpoint, f func(from, to *Endpoint)) {
	if one.out != nil {
		f(one, two)
	}
	if two.out != nil {
		f(two, one)
	}
}

func TestMessagesGoThroughBothWays(t *testing.T) {
	eachPipe(t, func(t *testing.T, spec Spec) {
		one, two := open(t, spec)
		ways(one, two, func(from, to *Endpoint) {
			c := to.in.Consumer()
			defer c.Close()
			want := []string{"123456", "", strings.Repeat("x", 100<<10), "end"}
			if spec.In.Name == "raw" {
				want = []string{"123456"}
			}
			for _, m := range want {
				send(t, from, m)
			}
			for _, m := range want {
				if b := nextBatch(t, c, Limits{}); string(b.Data) != m {
					t.Fatalf("got %d bytes, want %d", len(b.Data), len(m))
				}
			}
			none(t, c)
			c.Rest()
			if err := to.in.Ack(c.Position()); err != nil {
				t.Fatal(err)
			}
			if to.in.Acked() != c.Position() {
				t.Fatalf("acked %v, at %v", to.in.Acked(), c.Position())
			}
		})
	})
}

func TestDirectionThatAnEndDoesNotHave(t *testing.T) {
	one, two := open(t, testSpec(OneWay, "mp", false))
	if _, err := one.Outbox(); err != ErrWrongDirection { //nolint:errorlint // the sentinel itself
		t.Error(err)
	}
	if _, err := two.Inbox(); err != ErrWrongDirection { //nolint:errorlint // as above
		t.Error(err)
	}
	if err := one.CloseSend(false); err != ErrWrongDirection { //nolint:errorlint // as above
		t.Error(err)
	}
	if err := one.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if r, w := one.Descriptors(); r < 0 || w >= 0 {
		t.Errorf("end 1 has %d, %d", r, w)
	}
	if one.Sealed() || two.Sealed() {
		t.Error("sealed")
	}
}

func nonblocking(t *testing.T, fd int) bool {
	t.Helper()
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	return flags&unix.O_NONBLOCK != 0
}

func TestEndThatAProcessMayHoldStaysBlocking(t *testing.T) {
	eachPipe(t, func(t *testing.T, spec Spec) {
		one, two := open(t, spec)
		look := func() {
			for _, e := range []*Endpoint{one, two} {
				r, w := e.Descriptors()
				for _, fd := range []int{r, w} {
					if fd >= 0 && nonblocking(t, fd) != e.Sealed() {
						t.Fatalf("O_NONBLOCK is %t on descriptor %d of an end with sealed %t", !e.Sealed(), fd, e.Sealed())
					}
				}
			}
		}
		look()
		ways(one, two, func(from, to *Endpoint) {
			c := to.in.Consumer()
			defer c.Close()
			none(t, c)
			for range 50 { // more than the kernel takes
				send(t, from, strings.Repeat("x", 16<<10))
			}
			for got := 0; got < 50*16<<10; {
				got += len(nextBatch(t, c, Limits{}).Data)
			}
			if _, err := to.in.Ready(); err != nil {
				t.Fatal(err)
			}
		})
		look()
	})
}

func TestDescriptorsAreCloseOnExec(t *testing.T) {
	eachPipe(t, func(t *testing.T, spec Spec) {
		one, two := open(t, spec)
		for _, e := range []*Endpoint{one, two} {
			r, w := e.Descriptors()
			for _, fd := range []int{r, w} {
				if fd < 0 {
					continue
				}
				if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
					t.Errorf("descriptor %d: flags %x, %v", fd, flags, err)
				}
			}
		}
	})
}

func TestEndOfFileComesWithTheLastCopy(t *testing.T) {
	eachPipe(t, func(t *testing.T, spec Spec) {
		if spec.Kind == StdinOnly {
			return // end 1 receives nothing
		}
		one, two := open(t, spec)
		kept := copyPeer(t, two)
		send(t, two, "last")
		closeEnd(t, two, false)
		c := one.in.Consumer()
		defer c.Close()
		if b := nextBatch(t, c, Limits{}); string(b.Data) != "last" {
			t.Fatalf("got %q", b.Data)
		}
		none(t, c)
		if r, err := one.in.Ready(); err != nil || r.End {
			t.Fatalf("ready %+v, %v while a copy is open", r, err)
		}
		kept.close()
		end := nextEnd(t, c)
		if end.Cause != CauseClosed || end.Position != c.Position() {
			t.Fatalf("end %+v at %v", end, c.Position())
		}
		none(t, c)
		late := one.in.Observer() // whoever comes late gets it all, once
		defer late.Close()
		nextBatch(t, late, Limits{})
		if diff := cmp.Diff(end, nextEnd(t, late)); diff != "" {
			t.Error(diff)
		}
		none(t, late)
		poll(t, "the hangup to be seen", one.HungUp)
	})
}

func TestResetComesAfterTheDataAndOnce(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		t.Run(fmt.Sprintf("sealed %t", sealed), func(t *testing.T) {
			one, two := open(t, testSpec(Duplex, "mp", sealed))
			send(t, one, "never read")
			p := takePeer(t, two)
			p.write(t, mpHeader(3)+"abc")
			p.close()
			poll(t, "the end to be seen", func() bool {
				r, err := one.in.Ready() // looking does not eat it
				return err == nil && r.End && r.Data
			})
			c := one.in.Consumer()
			defer c.Close()
			if b := nextBatch(t, c, Limits{}); string(b.Data) != "abc" {
				t.Fatalf("got %q", b.Data)
			}
			want := &End{Cause: CauseReset, Position: Position{Message: 2}, Bytes: 7, Detail: "the other end closed with input unread"}
			if diff := cmp.Diff(want, nextEnd(t, c)); diff != "" {
				t.Error(diff)
			}
			none(t, c)
			if !one.in.EndRead() || one.in.EndRead() {
				t.Error("the cause is told once to unary readers")
			}
			if err := trySend(one, []byte("x")); !errors.Is(err, ErrBrokenPipe) {
				t.Errorf("sending: %v", err)
			}
		})
	}
}

func TestBrokenPipeStaysAndLeavesTheOtherDirection(t *testing.T) {
	eachPipe(t, func(t *testing.T, spec Spec) {
		if spec.Kind == StdoutOnly || spec.Kind == OneWay {
			return // end 1 sends nothing
		}
		one, two := open(t, spec)
		if two.out != nil {
			send(t, two, "answer")
		}
		closeEnd(t, two, false)
		for range 2 {
			if err := trySend(one, []byte("x")); !errors.Is(err, ErrBrokenPipe) {
				t.Fatalf("got %v", err)
			}
		}
		info := one.out.Info()
		if info.End == nil || info.End.Cause != CauseBrokenPipe || info.QueuedBytes != 0 {
			t.Errorf("info %+v", info)
		}
		if err := one.Flush(t.Context()); !errors.Is(err, ErrBrokenPipe) {
			t.Errorf("flush: %v", err)
		}
		if one.in != nil {
			c := one.in.Consumer()
			defer c.Close()
			if b := nextBatch(t, c, Limits{}); string(b.Data) != "answer" {
				t.Errorf("got %q", b.Data)
			}
			nextEnd(t, c)
		}
		poll(t, "the hangup to be seen", one.HungUp)
		if err := one.CloseSend(false); err != nil {
			t.Fatal(err)
		}
		await(t, "flushed", one.out.Flushed())
	})
}

func TestBrokenPipeReleasesABlockedSender(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		for _, kind := range []Kind{Duplex, Stdio} {
			t.Run(fmt.Sprintf("%s/sealed %t", kindNames[kind], sealed), func(t *testing.T) {
				one, two := open(t, testSpec(kind, "mp", sealed))
				p := takePeer(t, two)
				send(t, one, strings.Repeat("x", 1<<20))
				if one.out.Info().BlockedSince.IsZero() {
					t.Fatal("it is not blocked")
				}
				changed, stop := one.out.Watch()
				defer stop()
				p.close()
				until(t, "the broken pipe", changed, func() bool {
					end := one.out.End()
					return end != nil && end.Cause == CauseBrokenPipe
				})
				if info := one.out.Info(); info.QueuedBytes != 0 || !info.BlockedSince.IsZero() {
					t.Errorf("info %+v", info)
				}
			})
		}
	}
}

func TestHalfClose(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		for _, kind := range []Kind{Duplex, Stdio} {
			t.Run(fmt.Sprintf("%s/sealed %t", kindNames[kind], sealed), func(t *testing.T) {
				one, two := open(t, testSpec(kind, "line", sealed))
				other := copyPeer(t, one) // another process with a copy of our end
				p := takePeer(t, two)
				send(t, one, "question")
				if err := one.CloseSend(false); err != nil {
					t.Fatal(err)
				}
				await(t, "the half-close", one.out.Flushed())
				if err := one.out.Append(Part{Data: []byte("x")}); err != ErrClosed { //nolint:errorlint // the sentinel itself
					t.Errorf("sending: %v", err)
				}
				if got := p.read(t, 9); got != "question\n" {
					t.Errorf("got %q", got)
				}
				if kind == Stdio {
					if poll := pollFd(t, p.r); poll != 0 {
						t.Errorf("the other copy keeps a pipe open, but poll says %x", poll)
					}
					other.closeWrite()
				}
				if n, err := unix.Read(p.r, make([]byte, 1)); n != 0 || err != nil {
					t.Errorf("read %d, %v, want end of file", n, err)
				}
				p.write(t, "answer\n")
				c := one.in.Consumer()
				defer c.Close()
				if b := nextBatch(t, c, Limits{}); string(b.Data) != "answer" {
					t.Errorf("got %q", b.Data)
				}
				if one.HungUp() {
					t.Error("hung up by half")
				}
				if end := one.out.End(); end == nil || *end != (End{Cause: CauseClosed, Position: Position{Message: 2}, Bytes: 9}) {
					t.Errorf("end %+v", end)
				}
				p.close()
				nextEnd(t, c)
			})
		}
	}
}

func pollFd(t *testing.T, fd int) int16 {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, 0); err != nil {
		t.Fatal(err)
	}
	return fds[0].Revents
}

func TestEndIsHungUpWhenNothingCanFlow(t *testing.T) {
	one, two := open(t, testSpec(Stdio, "line", true))
	p := takePeer(t, two)
	p.closeWrite()
	c := one.in.Consumer()
	defer c.Close()
	nextEnd(t, c)
	if one.HungUp() {
		t.Error("hung up while the other end reads")
	}
	p.closeRead()
	poll(t, "the hangup to be seen", one.HungUp)

	for _, kind := range []Kind{StdinOnly, Stdio} {
		one, two := open(t, testSpec(kind, "line", true))
		p := takePeer(t, two)
		if err := one.CloseSend(false); err != nil {
			t.Fatal(err)
		}
		await(t, "flushed", one.out.Flushed())
		if one.HungUp() != (kind == StdinOnly) {
			t.Errorf("%s: hung up is %t after a half-close", kindNames[kind], one.HungUp())
		}
		p.close()
	}
}

func TestOpenWithoutDescriptorsLeavesNone(t *testing.T) {
	poller := newTestPoller(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	setLimit := func(soft uint64) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: soft, Max: limit.Max}); err != nil {
			t.Fatal(err)
		}
	}
	spec := exactly(t, testSpec(Stdio, "line", true))
	before := len(descriptors())
	highest := dup(t, 0)
	_ = unix.Close(highest)
	for free := range uint64(4) {
		setLimit(uint64(highest) + free)
		one, two, err := Open(poller, spec)
		setLimit(limit.Cur)
		if !errors.Is(err, unix.EMFILE) {
			t.Errorf("with %d free descriptors: %v, %v, %v", free, one, two, err)
		}
	}
	if after := len(descriptors()); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
