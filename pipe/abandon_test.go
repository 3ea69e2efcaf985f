package pipe

import (
	"errors"
	"strings"
	"testing"
)

func TestAbandonedDirectionEndsAndItsSenderGoesOn(t *testing.T) {
	for _, kind := range []Kind{Stdio, Duplex} {
		t.Run(kindNames[kind], func(t *testing.T) {
			one, two := open(t, testSpec(kind, "line", true))
			p := takePeer(t, two)
			p.write(t, "kept\n")
			poll(t, "the message", func() bool { return one.in.Info().Messages == 1 })
			if err := one.Abandon("pid 1 has it"); err != nil {
				t.Fatal(err)
			}
			// More than the kernel takes, and than a log does: somebody reads it.
			for range 64 {
				p.write(t, strings.Repeat("x", 1<<20))
			}
			wantAbandoned(t, one, "kept")
			poll(t, "all to be thrown away", func() bool { return one.in.Info().Thrown == 64<<20 })
			if got := one.in.Info(); got.Bytes != 5 || got.QueuedBytes != 5 {
				t.Errorf("info %+v", got)
			}
			if abandoned, going := one.Abandoned(); !abandoned || !going {
				t.Errorf("abandoned %t, going %t", abandoned, going)
			}
			if one.CloseSend(true) != nil || !one.HungUp() && kind == Stdio {
				t.Error("something can flow")
			}
			one.Retire()
			p.write(t, "no SIGPIPE\n")
			p.close()
			poll(t, "its real end", func() bool { _, going := one.Abandoned(); return !going })
		})
	}
}

// wantAbandoned receives one message and the end.
func wantAbandoned(t *testing.T, one *Endpoint, message string) {
	t.Helper()
	c := one.in.Consumer()
	defer c.Close()
	if b := nextBatch(t, c, Limits{}); string(b.Data) != message {
		t.Errorf("got %q", b.Data)
	}
	if end := nextEnd(t, c); end.Cause != CauseAbandoned || end.Position.Message != 2 || end.Detail == "" {
		t.Errorf("end %+v", end)
	}
}

func TestAbandonedWhileTheLogIsFull(t *testing.T) {
	one, two := open(t, testSpec(Stdio, "line", true))
	p := takePeer(t, two)
	written := make(chan struct{})
	go func() {
		defer close(written)
		for range 8 {
			p.write(t, strings.Repeat("y", 1<<20)+"\n")
		}
	}()
	poll(t, "a full log", func() bool { return !one.in.Info().BlockedSince.IsZero() })
	if err := one.Abandon("it is full"); err != nil {
		t.Fatal(err)
	}
	await(t, "the writer", written)
}

func TestAbandonedInsideAFrameIsTruncated(t *testing.T) {
	one, two := open(t, testSpec(Duplex, "mp", true))
	p := takePeer(t, two)
	p.write(t, "\x00\x00\x00\x05he")
	poll(t, "the bytes", func() bool { return one.in.Info().Bytes == 6 })
	if err := one.Abandon("it was too slow"); err != nil {
		t.Fatal(err)
	}
	if end := one.in.End(); end == nil || end.Cause != CauseTruncated || end.Want != 5 || end.Got != 2 {
		t.Errorf("end %+v", end)
	}
}

func TestAbandonedStaysSoAfterAKill(t *testing.T) {
	if inMemory {
		return
	}
	for _, kind := range []Kind{Stdio, Duplex} {
		poller := newTestPoller(t)
		spec := exactly(t, testSpec(kind, "line", true))
		one, two, err := Open(poller, spec)
		if err != nil {
			t.Fatal(err)
		}
		p := takePeer(t, two)
		p.write(t, "kept\n")
		poll(t, "the message", func() bool { return one.in.Info().Messages == 1 })
		if err := one.Abandon("pid 1 has it"); err != nil {
			t.Fatal(err)
		}
		kept := Kept{Control: spec.Control, Ends: [2]KeptEnd{one.kill(), two.kill()}}
		if one, two, err = Recover(poller, kept, nil); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			p.write(t, strings.Repeat("x", 1<<20))
		}
		wantAbandoned(t, one, "kept")
		p.close()
		poll(t, "its real end", func() bool { _, going := one.Abandoned(); return !going })
		closeEnd(t, one, true)
		closeEnd(t, two, true)
	}
}

func TestOnlyASealedEndThatReceivesIsAbandoned(t *testing.T) {
	one, two := open(t, testSpec(Duplex, "line", false))
	if err := one.Abandon(""); !errors.Is(err, ErrNotSealed) {
		t.Errorf("shared: %v", err)
	}
	_ = two
	in, out := open(t, testSpec(StdinOnly, "line", true))
	if err := in.Abandon(""); !errors.Is(err, ErrWrongDirection) {
		t.Errorf("without receiving: %v", err)
	}
	_ = out
}
