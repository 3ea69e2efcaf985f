package server

import (
	"testing"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/pipe"
)

// batchOf is a batch of n one-byte messages from a number on.
func batchOf(from, n uint64) *pipe.Batch {
	b := &pipe.Batch{First: pipe.Position{Message: from}, Data: make([]byte, n), Next: pipe.Position{Message: from + n}}
	if n > 1 {
		b.Sizes = make([]uint32, n)
	}
	return b
}

func TestCreditComesBackMessageByMessage(t *testing.T) {
	var c credit
	c.init(&pipedv1.RecvOpen{MaxUnackedMessages: 5}, pipe.Position{Message: 1}, true, false, 100)
	many := pipe.Limits{Messages: 50}
	want := func(messages int) {
		t.Helper()
		lim, ok := c.limits(many)
		if ok != (messages > 0) || ok && lim.Messages != messages {
			t.Errorf("credit for %d messages (%t), want %d", lim.Messages, ok, messages)
		}
	}
	want(5)
	c.gave(batchOf(1, 3))
	want(2)
	c.gave(batchOf(4, 2))
	want(0)
	c.acked(pipe.Position{Message: 3}) // 1 and 2
	want(2)
	c.acked(pipe.Position{Message: 3}) // again
	c.acked(pipe.Position{})
	want(2)
	c.gave(batchOf(6, 1))
	c.acked(pipe.Position{Message: 5, Offset: 1}) // inside 5
	want(3)
	if c.sent(pipe.Position{Message: 7, Offset: 1}) || !c.sent(pipe.Position{Message: 7}) {
		t.Error("what was sent ends at 7")
	}
	if c.settled() {
		t.Error("5 and 6 are not acknowledged")
	}
	c.acked(pipe.Position{Message: 7})
	want(5)
	if !c.settled() {
		t.Error("all is acknowledged")
	}
	c.skipped(pipe.Position{Message: 20})
	if !c.sent(pipe.Position{Message: 20}) {
		t.Error("a gap cannot be acknowledged")
	}
}

func TestCreditOfBytesComesBackBatchByBatch(t *testing.T) {
	var c credit
	c.init(&pipedv1.RecvOpen{MaxUnackedMessages: 100, MaxUnackedBytes: 10}, pipe.Position{Message: 1}, true, false, 100)
	c.gave(batchOf(1, 4))
	if lim, ok := c.limits(pipe.Limits{Bytes: 8}); !ok || lim.Bytes != 6 {
		t.Errorf("%d bytes (%t), want 6", lim.Bytes, ok)
	}
	c.gave(batchOf(5, 20)) // one message may exceed it
	if _, ok := c.limits(pipe.Limits{}); ok {
		t.Error("there is credit beyond the limit")
	}
	c.acked(pipe.Position{Message: 24})
	if _, ok := c.limits(pipe.Limits{}); ok {
		t.Error("a batch is free before its last message is acknowledged")
	}
	c.acked(pipe.Position{Message: 25})
	if lim, ok := c.limits(pipe.Limits{}); !ok || lim.Bytes != 10 {
		t.Errorf("%d bytes (%t), want 10", lim.Bytes, ok)
	}
}

func TestCreditInRawCountsBatches(t *testing.T) {
	var c credit
	c.init(&pipedv1.RecvOpen{}, pipe.Position{Message: 1}, true, true, 100)
	c.gave(&pipe.Batch{Data: make([]byte, 7), Next: pipe.Position{Message: 8}})
	c.acked(pipe.Position{Message: 5})
	if _, ok := c.limits(pipe.Limits{}); ok {
		t.Error("credit for a second batch")
	}
	c.acked(pipe.Position{Message: 8})
	if _, ok := c.limits(pipe.Limits{}); !ok {
		t.Error("no credit")
	}
}
