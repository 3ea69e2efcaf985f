package pipe

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// inKernel is how many bytes wait in a descriptor.
func inKernel(t testing.TB, fd int) int {
	t.Helper()
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// eachShared runs a test on shared ends.
func eachShared(t *testing.T, test func(t *testing.T, spec Spec)) {
	t.Helper()
	for _, kind := range []Kind{Duplex, OneWay} {
		for _, framing := range []string{"mp", "line"} {
			t.Run(kindNames[kind]+"/"+framing, func(t *testing.T) { test(t, testSpec(kind, framing, false)) })
		}
	}
}

func frame(framing, payload string) string {
	if framing == "mp" {
		return mpHeader(uint64(len(payload))) + payload
	}
	return payload + "\n"
}

func TestSharedEndReadsOneMessageAndNoByteMore(t *testing.T) {
	eachShared(t, func(t *testing.T, spec Spec) {
		one, two := open(t, spec)
		p := takePeer(t, two)
		r, _ := one.Descriptors()
		var frames []string
		for i := range 5 {
			frames = append(frames, frame(spec.Out.Name, strings.Repeat("x", i*40)))
		}
		p.write(t, strings.Join(frames, ""))
		observer := one.in.Observer()
		defer observer.Close()
		none(t, observer)
		if left := inKernel(t, r); left != len(strings.Join(frames, "")) {
			t.Fatalf("an observer reads: %d bytes are left", left)
		}
		c := one.in.Consumer()
		defer c.Close()
		for i := range frames {
			b := nextBatch(t, c, Limits{Messages: 10})
			if len(b.Data) != i*40 {
				t.Fatalf("message %d has %d bytes", i, len(b.Data))
			}
			if left, want := inKernel(t, r), len(strings.Join(frames[i+1:], "")); left != want {
				t.Fatalf("%d bytes are left, want %d", left, want)
			}
		}
		if b := nextBatch(t, observer, Limits{Messages: 10}); len(b.Sizes) != 5 {
			t.Errorf("the observer sees %d messages", len(b.Sizes))
		}
	})
}

func TestReaderThatRestsTakesNothing(t *testing.T) {
	eachShared(t, func(t *testing.T, spec Spec) {
		one, two := open(t, spec)
		p := takePeer(t, two)
		r, _ := one.Descriptors()
		message := frame(spec.Out.Name, "abc")
		for i := range 300 {
			c := one.in.Consumer()
			none(t, c) // a filler runs
			switch i % 3 {
			case 0:
				c.Rest()
			case 1:
				c.Close()
			case 2: // a rest while the bytes come
				done := make(chan struct{})
				go func() {
					defer close(done)
					c.Rest()
				}()
				p.write(t, message)
				<-done
				left := inKernel(t, r)
				for range 10 {
					runtime.Gosched()
				}
				if now := inKernel(t, r); now != left {
					t.Fatalf("%d bytes were taken after the rest", left-now)
				}
				if read := int(one.in.Info().QueuedBytes); left+read != len(message) {
					t.Fatalf("%d bytes in the kernel, %d in the log", left, read)
				}
				nextBatch(t, c, Limits{})
				if err := one.in.Ack(c.Position()); err != nil {
					t.Fatal(err)
				}
				c.Close()
				continue
			}
			p.write(t, message)
			for range 10 {
				runtime.Gosched()
			}
			if left := inKernel(t, r); left != len(message) {
				t.Fatalf("%d bytes are left of %d", left, len(message))
			}
			p2 := one.in.Consumer()
			nextBatch(t, p2, Limits{})
			if err := one.in.Ack(p2.Position()); err != nil {
				t.Fatal(err)
			}
			p2.Close()
			c.Close()
		}
	})
}

func TestReaderThatGotItsMessageWantsNoOther(t *testing.T) {
	eachShared(t, func(t *testing.T, spec Spec) {
		one, two := open(t, spec)
		p := takePeer(t, two)
		r, _ := one.Descriptors()
		message := frame(spec.Out.Name, "abc")
		c := one.in.Consumer()
		defer c.Close()
		for range 200 {
			none(t, c) // a filler runs
			p.write(t, message)
			nextBatch(t, c, Limits{})
			p.write(t, message)
			for range 10 {
				runtime.Gosched()
			}
			if left := inKernel(t, r); left != len(message) {
				t.Fatalf("%d bytes are left of %d: it reads ahead", left, len(message))
			}
			nextBatch(t, c, Limits{})
			if err := one.in.Ack(c.Position()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestNextReaderGetsTheFrameThatTheLastOneBegan(t *testing.T) {
	eachShared(t, func(t *testing.T, spec Spec) {
		one, two := open(t, spec)
		p := takePeer(t, two)
		message := frame(spec.Out.Name, "abcdef")
		for i := range message {
			c := one.in.Consumer()
			none(t, c)
			c.Close()
			p.write(t, message[i:i+1])
		}
		c := one.in.Consumer()
		defer c.Close()
		if b := nextBatch(t, c, Limits{}); string(b.Data) != "abcdef" || b.First != (Position{Message: 1}) {
			t.Errorf("got %q at %v", b.Data, b.First)
		}
	})
}

func TestReaderThatTakesOverIsServed(t *testing.T) {
	eachShared(t, func(t *testing.T, spec Spec) {
		one, two := open(t, spec)
		p := takePeer(t, two)
		for range 100 {
			old := one.in.Consumer()
			none(t, old)
			fresh := one.in.Consumer()
			none(t, fresh)
			none(t, old) // it may not take the wish over again
			p.write(t, frame(spec.Out.Name, "abc"))
			if b := nextBatch(t, fresh, Limits{}); string(b.Data) != "abc" {
				t.Fatalf("got %q", b.Data)
			}
			if err := one.in.Ack(fresh.Position()); err != nil {
				t.Fatal(err)
			}
			old.Close()
			fresh.Close()
		}
	})
}

func TestSharedEndRespectsItsLog(t *testing.T) {
	eachShared(t, func(t *testing.T, spec Spec) {
		spec.LogSize = 4096
		one, two := open(t, spec)
		p := takePeer(t, two)
		message := frame(spec.Out.Name, strings.Repeat("x", 251)) // 252 or 255 bytes
		p.write(t, strings.Repeat(message, 40))
		c := one.in.Consumer()
		defer c.Close()
		got := 0
		for {
			ev, err := c.Next(nil, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if ev.None() {
				break
			}
			got++
		}
		if queued := one.in.Info().QueuedBytes; queued != spec.LogSize || one.in.Info().BlockedSince.IsZero() {
			t.Fatalf("%d bytes of %d are queued after %d messages", queued, spec.LogSize, got)
		}
		if err := one.in.Ack(c.Position()); err != nil {
			t.Fatal(err)
		}
		for ; got < 40; got++ {
			b := nextBatch(t, c, Limits{})
			if err := one.in.Ack(b.Next); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestSharedEndDropsTheOldestToo(t *testing.T) {
	spec := testSpec(OneWay, "line", false)
	spec.LogSize, spec.Overflow = 4096, DropOldest
	one, two := open(t, spec)
	p := takePeer(t, two)
	c := one.in.Consumer()
	defer c.Close()
	for i := 1; i <= 1000; i++ { // it never acknowledges
		p.write(t, numbered(i)+"\n")
		if b := nextBatch(t, c, Limits{}); b.First.Message != uint64(i) || string(b.Data) != numbered(i) {
			t.Fatalf("got %q at %v", b.Data, b.First)
		}
	}
	if info := one.in.Info(); info.Drops.Messages+info.QueuedMessages != 1000 {
		t.Errorf("info %+v", info)
	}
}

func TestReaderThatWaitsIsWokenByEachByte(t *testing.T) {
	eachShared(t, func(t *testing.T, spec Spec) {
		one, two := open(t, spec)
		p := takePeer(t, two)
		c := one.in.Consumer()
		defer c.Close()
		for i := range 20 {
			want := fmt.Sprint("message ", i)
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				for _, b := range []byte(frame(spec.Out.Name, want)) {
					p.write(t, string(b))
				}
			})
			if b := nextBatch(t, c, Limits{}); string(b.Data) != want {
				t.Fatalf("got %q, want %q", b.Data, want)
			}
			wg.Wait()
		}
		p.close()
		nextEnd(t, c)
	})
}
