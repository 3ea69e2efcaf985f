package exact

import (
	"strings"
	"testing"
)

// right is a history with nothing wrong: two writers, ten messages each, all
// acknowledged, received in turn.
func right() *history {
	h := newHistory("s", "p", "in", byClient)
	h.complete = true
	position := uint64(1)
	for n := uint64(1); n <= 10; n++ {
		for _, w := range []string{"a", "b"} {
			h.writer(w).sent, h.writer(w).acked = n, n
			h.got = append(h.got, observation{position: position, at: int64(n) * 2e6,
				body: stamp{session: "s", pipe: "p", direction: "in", writer: w, number: n, at: int64(n) * 1e6}.message(100)})
			position++
		}
	}
	return h
}

func TestCheckerAcceptsWhatIsRight(t *testing.T) {
	h := right()
	h.writer("a").sent = 12 // not acknowledged, not received: allowed
	var v verdict
	v.judge(h)
	if v.faults() != 0 || v.received != 20 || v.sent != 22 || v.acked != 20 {
		t.Errorf("%v\n%s", &v, v.explain())
	}
	if line := v.String(); !strings.Contains(line, "p50/p99/p999_us=5000/10000/10000") || !strings.Contains(line, "max_pause_ms=2") {
		t.Errorf("%s", line)
	}
}

func TestCheckerRefusesEachKindOfWrong(t *testing.T) {
	stray := func(s stamp) observation { return observation{body: s.message(0)} }
	for _, c := range []struct {
		name  string
		wrong func(h *history)
		count func(v *verdict) uint64
	}{
		{"an acknowledged message at the end is missing", func(h *history) { h.got = h.got[:19] }, func(v *verdict) uint64 { return v.lost }},
		{"an acknowledged message in the middle is missing", func(h *history) { h.got = append(h.got[:7:7], h.got[8:]...) }, func(v *verdict) uint64 { return v.lost }},
		{"everything is missing", func(h *history) { h.got = nil }, func(v *verdict) uint64 { return v.lost / 20 }},
		{"a message twice", func(h *history) { h.got = append(h.got, h.got[3]) }, func(v *verdict) uint64 { return v.duplicated }},
		{"a message twice under a new position", func(h *history) {
			again := h.got[3]
			again.position = 21
			h.got = append(h.got, again)
		}, func(v *verdict) uint64 { return v.duplicated }},
		{"two messages of a writer in the wrong order", func(h *history) {
			h.got[0].body, h.got[2].body = h.got[2].body, h.got[0].body
		}, func(v *verdict) uint64 { return v.reordered }},
		{"positions that go back", func(h *history) { h.got[5].position = 2 }, func(v *verdict) uint64 { return v.reordered }},
		{"a byte is another", func(h *history) { h.got[4].body[90] ^= 1 }, func(v *verdict) uint64 { return v.torn }},
		{"half a message", func(h *history) { h.got[4].body = h.got[4].body[:50] }, func(v *verdict) uint64 { return v.torn }},
		{"two messages in one", func(h *history) { h.got[4].body = append(h.got[4].body, h.got[5].body...) }, func(v *verdict) uint64 { return v.torn }},
		{"a message of another session", func(h *history) {
			h.got = append(h.got, stray(stamp{session: "t", pipe: "p", direction: "in", writer: "a", number: 1}))
		}, func(v *verdict) uint64 { return v.phantom }},
		{"a message of the other direction", func(h *history) {
			h.got = append(h.got, stray(stamp{session: "s", pipe: "p", direction: "out", writer: "a", number: 1}))
		}, func(v *verdict) uint64 { return v.phantom }},
		{"a message of an unknown writer", func(h *history) {
			h.got = append(h.got, stray(stamp{session: "s", pipe: "p", direction: "in", writer: "c", number: 1}))
		}, func(v *verdict) uint64 { return v.phantom }},
		{"a message that was never sent", func(h *history) {
			h.got = append(h.got, stray(stamp{session: "s", pipe: "p", direction: "in", writer: "a", number: 11}))
		}, func(v *verdict) uint64 { return v.phantom }},
		{"a hole in the positions", func(h *history) {
			for i := 5; i < 20; i++ {
				h.got[i].position++
			}
		}, func(v *verdict) uint64 { return v.gaps }},
		{"a message that was not acknowledged is missing between two that came", func(h *history) {
			h.writer("a").acked = 5
			h.got = append(h.got[:12:12], h.got[13:]...) // a/7
			for i := range h.got {
				h.got[i].position = 0
			}
		}, func(v *verdict) uint64 { return v.gaps }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := right()
			c.wrong(h)
			var v verdict
			v.judge(h)
			if c.count(&v) != 1 {
				t.Errorf("%v\n%s", &v, v.explain())
			}
		})
	}
}

func TestCheckerExcusesOnlyWhatAGapAnnounced(t *testing.T) {
	h := right()
	h.got = append(append(h.got[:4:4], observation{gap: 8}), h.got[7:]...) // positions 5, 6 and 7
	var v verdict
	v.judge(h)
	if v.faults() != 0 {
		t.Errorf("announced: %v\n%s", &v, v.explain())
	}
	h.got = append(h.got[:10:10], h.got[11:]...)
	v = verdict{}
	v.judge(h)
	if v.lost != 1 || v.gaps != 1 {
		t.Errorf("one more than announced: %v\n%s", &v, v.explain())
	}
}

func TestCheckerLeavesOpenWhatAReaderThatStoppedEarlyDidNotGet(t *testing.T) {
	h := right()
	h.got, h.complete = h.got[:10], false
	var v verdict
	v.judge(h)
	if v.faults() != 0 {
		t.Errorf("%v\n%s", &v, v.explain())
	}
}
