package pipe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHalfCloseHappensWhenTheEndCloses(t *testing.T) {
	one, two := open(t, testSpec(Duplex, "line", false))
	other := copyPeer(t, one)
	p := takePeer(t, two)
	send(t, one, strings.Repeat("x", 1<<20))
	if err := one.CloseSend(false); err != nil {
		t.Fatal(err)
	}
	one.Close(false) // before all is handed over
	p.read(t, 1<<20+1)
	if n, err := unix.Read(p.r, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("read %d, %v, want end of file", n, err)
	}
	other.close()
}

func TestCloseHandsOverWhatWasAccepted(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		for _, kind := range []Kind{Duplex, Stdio} {
			t.Run(fmt.Sprintf("%s/sealed %t", kindNames[kind], sealed), func(t *testing.T) {
				one, two := open(t, testSpec(kind, "mp", sealed))
				p := takePeer(t, two)
				if err := one.out.Append(Part{Data: make([]byte, 1<<20)}); err != nil {
					t.Fatal(err)
				}
				one.Close(false) // nobody has pushed
				select {
				case <-one.Closed():
					t.Fatal("closed with messages on their way")
				default:
				}
				if !one.Closing() || !one.HungUp() {
					t.Error("not closing")
				}
				p.read(t, 1<<20+4)
				await(t, "the end to be closed", one.Closed())
				if n, err := unix.Read(p.r, make([]byte, 1)); n != 0 || err != nil {
					t.Errorf("read %d, %v, want end of file", n, err)
				}
				one.Close(true)
			})
		}
	}
}

// A program that writes without end before it reads must not keep an end open
// that is being closed.
func TestCloseDoesNotWaitForAnEchoThatNobodyReads(t *testing.T) {
	for _, kind := range []Kind{Duplex, Stdio} {
		t.Run(kindNames[kind], func(t *testing.T) {
			spec := testSpec(kind, "raw", true)
			spec.LogSize = 64 << 10
			one, two := open(t, spec)
			child := startOnEnd(t, two, `
import signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
out = 4 if os.path.exists('/proc/self/fd/4') else 3
while b := os.read(3, 65536):
    while b: b = b[os.write(out, b):]
`)
			poll(t, "both ways to be full", func() bool {
				for err := error(nil); err == nil; {
					err = trySend(one, make([]byte, 32<<10))
				}
				return !one.in.Info().BlockedSince.IsZero()
			})
			one.Close(false)
			await(t, "the end to be closed", one.Closed())
			await(t, "the child to exit", child.done)
		})
	}
}

func TestCloseDiscardsAndReleases(t *testing.T) {
	eachPipe(t, func(t *testing.T, spec Spec) {
		if spec.Kind == StdoutOnly || spec.Kind == OneWay {
			return // end 1 sends nothing
		}
		spec.LogSize = 256 << 10
		one, two := open(t, spec)
		takePeer(t, two) // it never reads
		sent := 0
		for {
			err := trySend(one, make([]byte, 1000))
			if err == ErrNoRoom { //nolint:errorlint // as Append returns it
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			sent++
		}
		info := one.out.Info()
		if info.QueuedBytes > spec.LogSize || info.BlockedSince.IsZero() {
			t.Fatalf("info %+v", info)
		}
		changed, stop := one.out.Watch()
		defer stop()
		released := make(chan struct{})
		go func() {
			defer close(released)
			for trySend(one, make([]byte, 1000)) == ErrNoRoom { //nolint:errorlint // as above
				<-changed
			}
		}()
		one.Close(false)
		one.Close(true)
		await(t, "the sender to be released", released)
		await(t, "the end to be closed", one.Closed())
		end := one.out.End()
		if end.Bytes != info.Bytes-info.QueuedBytes || !strings.HasSuffix(end.Detail, fmt.Sprintf(" %d bytes", info.QueuedBytes)) {
			t.Errorf("end %+v after %+v", end, info)
		}
		if err := one.Flush(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("flush: %v", err)
		}
	})
}

func TestCloseReleasesReaders(t *testing.T) {
	eachPipe(t, func(t *testing.T, spec Spec) {
		if spec.Kind == StdinOnly {
			return // end 1 receives nothing
		}
		one, _ := open(t, spec)
		var wg sync.WaitGroup
		read := func(c *Cursor) {
			defer c.Close()
			for {
				ev, err := c.Next(nil, Limits{})
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil || !ev.None() {
					t.Errorf("got %+v, %v", ev, err)
					return
				}
				<-c.Changed()
			}
		}
		wg.Go(func() { read(one.in.Consumer()) })
		wg.Go(func() { read(one.in.Observer()) })
		wg.Go(func() {
			if r, err := one.in.WaitReady(t.Context()); !errors.Is(err, ErrClosed) {
				t.Errorf("waiting: %+v, %v", r, err)
			}
		})
		poll(t, "all three to wait", func() bool {
			one.in.mu.Lock()
			defer one.in.mu.Unlock()
			return len(one.in.watchers) == 3
		})
		one.Close(false)
		one.Close(false)
		wg.Wait()
		await(t, "the end to be closed", one.Closed())
		if _, err := one.in.Ready(); !errors.Is(err, ErrClosed) {
			t.Errorf("ready: %v", err)
		}
		if end := one.in.End(); end.Cause != CauseEndpointClosed {
			t.Errorf("end %+v", end)
		}
	})
}

func TestFlushWaitsForTheKernelToTakeAll(t *testing.T) {
	one, two := open(t, testSpec(Duplex, "raw", true))
	p := takePeer(t, two)
	if err := one.out.Append(Part{Data: make([]byte, 1<<20)}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := one.Flush(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("flush: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := one.Flush(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	p.read(t, 1<<20)
	await(t, "the flush", done)
}

// Everything that may be called at the same time is called at the same time.
func TestClosingAtAnyMomentIsSafe(t *testing.T) {
	poller := newTestPoller(t)
	for _, kind := range []Kind{Duplex, Stdio} {
		for _, sealed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/sealed %t", kindNames[kind], sealed), func(t *testing.T) {
				for i := range 150 {
					spec := testSpec(kind, "line", sealed)
					spec.LogSize = 64 << 10
					one, two, err := Open(poller, exactly(t, spec))
					if err != nil {
						t.Fatal(err)
					}
					closeWhileBusy(t, one, two, i)
				}
			})
		}
	}
}

func closeWhileBusy(t *testing.T, one, two *Endpoint, i int) {
	t.Helper()
	var wg sync.WaitGroup
	sender := func(e *Endpoint) {
		changed, stop := e.out.Watch()
		defer stop()
		for {
			err := trySend(e, make([]byte, 5000))
			if err != nil && !errors.Is(err, ErrNoRoom) {
				return
			}
			if err != nil {
				<-changed
			}
		}
	}
	reader := func(e *Endpoint, c *Cursor) {
		defer c.Close()
		for {
			ev, err := c.Next(nil, Limits{Messages: 3})
			switch {
			case err != nil || ev.End != nil:
				return
			case ev.Batch != nil:
				_ = e.in.Ack(ev.Batch.Next)
			case ev.None():
				<-c.Changed()
			}
		}
	}
	wg.Go(func() { sender(one) })
	wg.Go(func() { sender(two) })
	for _, e := range []*Endpoint{one, two} {
		wg.Go(func() { reader(e, e.in.Consumer()) })
		wg.Go(func() { _, _ = e.in.WaitReady(t.Context()) })
		wg.Go(func() { _ = e.HungUp(); _, _ = e.in.Ready(); e.in.Info(); e.out.Info() })
	}
	wg.Go(func() {
		if i%3 == 0 {
			_ = one.CloseSend(i%2 == 0)
		}
		one.Close(i%4 == 1)
		if i%5 == 0 {
			one.Close(true)
		}
	})
	wg.Go(func() { two.Close(i%4 != 2); two.Close(true) })
	await(t, "end 1 to be closed", one.Closed())
	await(t, "end 2 to be closed", two.Closed())
	wg.Wait()
}
