package pipe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// numbered is message n as a line of 16 bytes, newline included.
func numbered(n int) string { return fmt.Sprintf("message %07d", n) }

func feedNumbered(in *Inbox, from, to int) {
	for n := from; n <= to; n++ {
		feed(in, []byte(numbered(n)+"\n"))
	}
}

func TestAcknowledgingFreesWholePagesButKeepsTheTail(t *testing.T) {
	spec := Spec{LogSize: 1 << 20, TailSize: 100_000, MaxMessage: 1 << 20}
	in := newTestInbox(t, Framing{Name: "line"}, spec)
	feedNumbered(in, 1, 1<<16) // 1 MiB
	if room := in.roomLocked(); room || in.Info().BlockedSince.IsZero() {
		t.Errorf("room %t in a full log", room)
	}
	for acked := uint64(1); acked <= 1<<16+1; acked += 999 {
		if err := in.Ack(Position{Message: acked}); err != nil {
			t.Fatal(err)
		}
		needed := uint64(1<<20) - (acked-1)*16 + min((acked-1)*16, spec.TailSize)
		if held := held(&in.direction); held < needed || held > needed+2*maxStep {
			t.Fatalf("%d bytes are held where %d are needed", held, needed)
		}
	}
	if err := in.Ack(Position{Message: 1<<16 + 1}); err != nil {
		t.Fatal(err)
	}
	if !in.roomLocked() || !in.Info().BlockedSince.IsZero() {
		t.Error("no room in an empty log")
	}
	c := in.Observer()
	defer c.Close()
	first := c.Position().Message
	if have := (1<<16 + 1 - first) * 16; have < spec.TailSize-maxStep || have > spec.TailSize+2*maxStep {
		t.Errorf("the tail is %d bytes", have)
	}
	if b := nextBatch(t, c, Limits{}); string(b.Data) != numbered(int(first)) {
		t.Errorf("message %d is %q", first, b.Data)
	}
}

func TestAcknowledgementsAreCheckedAndMayBeRepeated(t *testing.T) {
	in := newTestInbox(t, Framing{Name: "line"}, memorySpec())
	feed(in, []byte("ab\ncd\nef"))
	for _, to := range []Position{{3, 3}, {4, 0}, {1, 3}, {1 << 60, 0}} {
		if err := in.Ack(to); !errors.Is(err, ErrPosition) {
			t.Errorf("%v: %v", to, err)
		}
	}
	for _, to := range []Position{{1, 1}, {2, 0}, {1, 0}, {2, 0}, {2, 2}, {3, 2}} {
		if err := in.Ack(to); err != nil {
			t.Errorf("%v: %v", to, err)
		}
	}
	if in.Acked() != (Position{3, 2}) || in.Arrived() != (Position{3, 2}) {
		t.Errorf("acked %v, arrived %v", in.Acked(), in.Arrived())
	}
	feedEnd(in)
	if err := in.Ack(Position{4, 0}); err != nil {
		t.Error(err)
	}
	raw := newTestInbox(t, Framing{Name: "raw"}, memorySpec())
	feed(raw, []byte("abc"))
	if err := raw.Ack(Position{3, 0}); err != nil {
		t.Error(err)
	}
	if err := raw.Ack(Position{5, 0}); !errors.Is(err, ErrPosition) {
		t.Error(err)
	}
}

func TestUnacknowledgedMessagesGoToTheNextConsumer(t *testing.T) {
	in := newTestInbox(t, Framing{Name: "line"}, memorySpec())
	feed(in, []byte("a\nb\nc\n"))
	first := in.Consumer()
	nextBatch(t, first, Limits{})
	nextBatch(t, first, Limits{})
	if err := in.Ack(Position{Message: 2}); err != nil {
		t.Fatal(err)
	}
	first.Close()
	second := in.Consumer()
	defer second.Close()
	if b := nextBatch(t, second, Limits{}); string(b.Data) != "b" || b.First.Message != 2 {
		t.Errorf("got %q at %v", b.Data, b.First)
	}
}

func TestSlowObserverGetsAnExactGap(t *testing.T) {
	spec := Spec{LogSize: 64 << 10, TailSize: 8 << 10, MaxMessage: 1 << 20}
	in := newTestInbox(t, Framing{Name: "line"}, spec)
	feedNumbered(in, 1, 4096)
	c := in.Observer()
	defer c.Close()
	nextBatch(t, c, Limits{Messages: 10})
	if err := in.Ack(Position{Message: 4097}); err != nil {
		t.Fatal(err)
	}
	gap := next(t, c, Limits{}).Gap
	if gap == nil || gap.From != (Position{Message: 11}) || gap.To.Offset != 0 {
		t.Fatalf("gap %+v", gap)
	}
	if b := nextBatch(t, c, Limits{}); b.First != gap.To || string(b.Data) != numbered(int(gap.To.Message)) {
		t.Errorf("after the gap to %v: %q at %v", gap.To, b.Data, b.First)
	}
	if err := c.Seek(Position{Message: 5}); err != nil {
		t.Fatal(err)
	}
	if again := next(t, c, Limits{}).Gap; again == nil || again.From != (Position{Message: 5}) || again.To != gap.To {
		t.Errorf("gap %+v after going back", again)
	}
	if err := c.Seek(Position{Message: 4098}); !errors.Is(err, ErrPosition) {
		t.Errorf("seek past the end: %v", err)
	}
	if err := c.Seek(Position{Message: 4096, Offset: 3}); err != nil {
		t.Fatal(err)
	}
	if b := nextBatch(t, c, Limits{}); string(b.Data) != numbered(4096)[3:] || b.First.Offset != 3 {
		t.Errorf("got %q at %v", b.Data, b.First)
	}
}

func TestConsumerNeverSeeksBehindWhatItAcknowledged(t *testing.T) {
	in := newTestInbox(t, Framing{Name: "line"}, memorySpec())
	feed(in, []byte("a\nb\nc\n"))
	if err := in.Ack(Position{Message: 3}); err != nil {
		t.Fatal(err)
	}
	c := in.Consumer()
	defer c.Close()
	if err := c.Seek(Position{Message: 1}); err != nil {
		t.Fatal(err)
	}
	want := &Gap{From: Position{Message: 1}, To: Position{Message: 3}}
	if diff := cmp.Diff(want, next(t, c, Limits{}).Gap); diff != "" {
		t.Error(diff)
	}
	if b := nextBatch(t, c, Limits{}); string(b.Data) != "c" {
		t.Errorf("got %q", b.Data)
	}
}

func TestSeekEndSeesWhatArrivesNext(t *testing.T) {
	for _, test := range []struct {
		framing, before, after, want string
		first                        Position
	}{
		{"line", "a\n", "b\n", "b", Position{Message: 2}},
		{"line", "a\nb", "c\n", "c", Position{Message: 2, Offset: 1}},
		{"mp", mpHeader(1) + "a\x00\x00", "\x00\x01b", "b", Position{Message: 2}},
		{"mp", mpHeader(1) + "a" + mpHeader(1), "b", "b", Position{Message: 2}},
		{"raw", "ab", "c", "c", Position{Message: 3}},
	} {
		in := newTestInbox(t, Framing{Name: test.framing}, memorySpec())
		feed(in, []byte(test.before))
		c := in.Observer()
		c.SeekEnd()
		none(t, c)
		feed(in, []byte(test.after))
		b := nextBatch(t, c, Limits{KeepFraming: false})
		if string(b.Data) != test.want || b.First != test.first {
			t.Errorf("%s %q: got %q at %v", test.framing, test.before, b.Data, b.First)
		}
		c.Close()
	}
}

func TestDropOldestCountsExactlyAndNeverShiftsNumbers(t *testing.T) {
	for _, size := range []uint64{4 << 10, 64 << 10, 100_000} {
		for _, chunk := range []int{1, 7, 5000, 1 << 20} {
			t.Run(fmt.Sprintf("log %d/chunk %d", size, chunk), func(t *testing.T) {
				spec := Spec{LogSize: size, TailSize: 1000, MaxMessage: 1 << 20, Overflow: DropOldest}
				in := newTestInbox(t, Framing{Name: "line"}, spec)
				c := in.Consumer()
				in.consumer = nil // there is no descriptor
				defer c.Close()
				const n = 20_000
				var stream bytes.Buffer
				for i := 1; i <= n; i++ {
					stream.WriteString(numbered(i) + "\n")
				}
				for data := stream.Bytes(); len(data) > 0; {
					in.mu.Lock()
					if !in.roomLocked() {
						t.Fatal("no room")
					}
					b := room(in)
					got := copy(b[:min(len(b), chunk)], data)
					in.filledLocked(got, nil)
					in.mu.Unlock()
					data = data[got:]
					if held := held(&in.direction); held > spec.LogSize+spec.TailSize+2*maxStep {
						t.Fatalf("%d bytes are held", held)
					}
				}
				feedEnd(in)
				drops := in.Info().Drops
				if drops.Bytes != drops.Messages*16 || drops.Messages == 0 {
					t.Errorf("drops %+v", drops)
				}
				want := &Gap{From: Position{Message: 1}, To: Position{Message: drops.Messages + 1}}
				if diff := cmp.Diff(want, next(t, c, Limits{}).Gap); diff != "" {
					t.Fatal(diff)
				}
				for i := drops.Messages + 1; i <= n; i++ {
					if b := nextBatch(t, c, Limits{}); b.First.Message != i || string(b.Data) != numbered(int(i)) {
						t.Fatalf("message %v is %q, want %d", b.First, b.Data, i)
					}
				}
				if end := nextEnd(t, c); *end != closed(n+1, n*16) {
					t.Errorf("end %+v", end)
				}
			})
		}
	}
}

func TestDropOldestInsideOneHugeMessage(t *testing.T) {
	spec := Spec{LogSize: 64 << 10, TailSize: 1000, MaxMessage: 1 << 20, Overflow: DropOldest}
	in := newTestInbox(t, Framing{Name: "line"}, spec)
	c := in.Consumer()
	in.consumer = nil // there is no descriptor
	defer c.Close()
	huge := bytes.Repeat([]byte("x"), 500_000)
	put := func(data []byte) {
		for len(data) > 0 {
			in.mu.Lock()
			in.roomLocked()
			n := copy(room(in), data)
			in.filledLocked(n, nil)
			in.mu.Unlock()
			data = data[n:]
		}
	}
	put(huge)
	gap := next(t, c, Limits{}).Gap
	if gap == nil || gap.From != (Position{Message: 1}) || gap.To.Message != 1 || gap.To.Offset != in.Info().Drops.Bytes {
		t.Fatalf("gap %+v after drops %+v", gap, in.Info().Drops)
	}
	put([]byte("\nnext\n"))
	got := gap.To.Offset
	for more := true; more; {
		b := nextBatch(t, c, Limits{})
		if b.First != (Position{Message: 1, Offset: got}) {
			t.Fatalf("part at %v, want offset %d", b.First, got)
		}
		got, more = got+uint64(len(b.Data)), b.More
	}
	if got != uint64(len(huge)) {
		t.Errorf("it ends at %d", got)
	}
	if b := nextBatch(t, c, Limits{}); string(b.Data) != "next" || b.First.Message != 2 {
		t.Errorf("got %q at %v", b.Data, b.First)
	}
}

func TestUnreadStderrNeverBlocksTheChild(t *testing.T) {
	spec := testSpec(StdoutOnly, "line", true)
	spec.LogSize, spec.Overflow = 64<<10, DropOldest
	one, two := open(t, spec)
	p := takePeer(t, two)
	const n = 50_000
	for i := 1; i <= n; i++ {
		p.write(t, numbered(i)+"\n")
	}
	p.close()
	changed, stop := one.in.Watch()
	defer stop()
	until(t, "the end", changed, func() bool { return one.in.End() != nil })
	info := one.in.Info()
	if info.Messages != n || info.QueuedMessages+info.Drops.Messages != n || info.QueuedBytes+info.Drops.Bytes != n*16 {
		t.Errorf("info %+v", info)
	}
}

func TestFullLogStopsReadingUntilAcknowledged(t *testing.T) {
	for _, kind := range []Kind{Duplex, Stdio} {
		t.Run(kindNames[kind], func(t *testing.T) {
			spec := testSpec(kind, "line", true)
			spec.LogSize = 64 << 10
			one, two := open(t, spec)
			p := takePeer(t, two)
			const n = 100_000
			done := make(chan struct{})
			go func() {
				defer close(done)
				for i := 1; i <= n; i++ {
					p.write(t, numbered(i)+"\n")
				}
			}()
			poll(t, "the log to be full", func() bool { return !one.in.Info().BlockedSince.IsZero() })
			if bytes := one.in.Info().QueuedBytes; bytes != spec.LogSize {
				t.Errorf("%d bytes are queued", bytes)
			}
			c := one.in.Consumer()
			defer c.Close()
			for want := uint64(1); want <= n; {
				b := nextBatch(t, c, Limits{Messages: 100})
				if b.First.Message != want || !bytes.HasPrefix(b.Data, []byte(numbered(int(want)))) {
					t.Fatalf("got %v, want %d", b.First, want)
				}
				want = b.Next.Message
				if err := one.in.Ack(b.Next); err != nil {
					t.Fatal(err)
				}
				if held := held(&one.in.direction); held > spec.LogSize+spec.TailSize+2*maxStep {
					t.Fatalf("%d bytes are held", held)
				}
			}
			await(t, "the writer", done)
		})
	}
}

func TestMessageLargerThanTheLogComesInParts(t *testing.T) {
	for _, framing := range []string{"mp", "line"} {
		for _, sealed := range []bool{false, true} {
			for _, kind := range []Kind{Duplex, OneWay} {
				t.Run(fmt.Sprintf("%s/%s/sealed %t", kindNames[kind], framing, sealed), func(t *testing.T) {
					spec := testSpec(kind, framing, sealed)
					spec.LogSize = 64 << 10
					one, two := open(t, spec)
					const size = 300_000
					send(t, two, strings.Repeat("x", size))
					c := one.in.Consumer()
					defer c.Close()
					got := 0
					for more := true; more; {
						b := nextBatch(t, c, Limits{})
						got, more = got+len(b.Data), b.More
						if err := one.in.Ack(b.Next); err != nil {
							t.Fatal(err)
						}
					}
					if got != size {
						t.Errorf("got %d bytes", got)
					}
				})
			}
		}
	}
}

func TestReadinessLooksAndConsumesNothing(t *testing.T) {
	eachPipe(t, func(t *testing.T, spec Spec) {
		if spec.Kind == StdinOnly || spec.In.Name == "raw" {
			return
		}
		one, two := open(t, spec)
		p := takePeer(t, two)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if r, err := one.in.WaitReady(ctx); !errors.Is(err, context.Canceled) || r.Any() {
			t.Fatalf("idle: %+v, %v", r, err)
		}
		stream := "a\n"
		if spec.In.Name == "mp" {
			stream = mpHeader(1) + "a"
		}
		expect := func(what string, want Readiness) {
			t.Helper()
			poll(t, what, func() bool {
				r, err := one.in.WaitReady(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return r == want
			})
		}
		p.write(t, stream[:1])
		expect("one byte", Readiness{Data: true})
		p.write(t, stream[1:])
		// On a shared end nobody has looked for the message boundary yet.
		expect("a message", Readiness{Data: true, Message: one.Sealed()})
		p.close()
		expect("the end behind it", Readiness{Data: true, Message: one.Sealed(), End: true})
		c := one.in.Consumer()
		defer c.Close()
		b := nextBatch(t, c, Limits{})
		if string(b.Data) != "a" {
			t.Fatalf("got %q", b.Data)
		}
		if err := one.in.Ack(b.Next); err != nil {
			t.Fatal(err)
		}
		nextEnd(t, c)
		for range 3 {
			expect("the end, for ever", Readiness{End: true})
		}
	})
}

func TestArrivingTellsThatAChangeIsCertain(t *testing.T) {
	one, two := open(t, testSpec(Duplex, "line", true))
	if one.in.Arriving() {
		t.Error("arriving on an idle end")
	}
	changed, stop := one.in.Watch()
	defer stop()
	for n := range uint64(1000) {
		send(t, two, "a")
		until(t, "the message", changed, func() bool { return one.in.Info().Messages == n+1 })
		if one.in.Arriving() {
			t.Fatal("arriving after it has arrived")
		}
	}
	if two.in.Arriving() {
		t.Error("arriving on a shared end")
	}
}
