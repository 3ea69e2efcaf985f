package server

import (
	"sync"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/pipe"
)

// A credit is what may be on its way unacknowledged. Bytes are counted by
// batch: a batch is freed as a whole, once all of it is acknowledged.
type credit struct {
	mu       sync.Mutex
	messages uint64 // 0: no limit
	bytes    uint64
	raw      bool // count batches, every byte being a message
	at       pipe.Position
	// flying are the batches on their way, flyingMessages and flyingBytes what
	// they hold together.
	flying                      []flight
	flyingMessages, flyingBytes uint64
}

type flight struct {
	next     pipe.Position
	messages uint64
	bytes    uint64
}

func (c *credit) init(open *pipedv1.RecvOpen, at pipe.Position, manual, raw bool, logSize uint64) {
	c.at = at
	c.messages, c.bytes, c.raw = open.GetMaxUnackedMessages(), open.GetMaxUnackedBytes(), raw
	if c.messages == 0 && manual {
		c.messages = 1
	}
	if c.bytes == 0 {
		c.bytes = logSize
	}
}

// limits narrows lim to the credit that is left; false when there is none.
func (c *credit) limits(lim pipe.Limits) (pipe.Limits, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flyingBytes >= c.bytes {
		return lim, false
	}
	left := c.bytes - c.flyingBytes
	if lim.Bytes == 0 || uint64(lim.Bytes) > left { //nolint:gosec // not negative
		lim.Bytes = int(min(left, pipe.DefaultPart))
	}
	if c.messages == 0 {
		return lim, true
	}
	if c.flyingMessages >= c.messages {
		return lim, false
	}
	if left := c.messages - c.flyingMessages; uint64(lim.Messages) > left { //nolint:gosec // not negative
		lim.Messages = int(left) //nolint:gosec // less than an int
	}
	return lim, true
}

func (c *credit) gave(b *pipe.Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := flight{next: b.Next, messages: max(uint64(len(b.Sizes)), 1), bytes: uint64(len(b.Data))}
	c.at = b.Next
	c.flying = append(c.flying, f)
	c.flyingMessages += f.messages
	c.flyingBytes += f.bytes
}

func (c *credit) skipped(to pipe.Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = to
}

func (c *credit) acked(to pipe.Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.flying) > 0 {
		f := &c.flying[0]
		if to.Before(f.next) {
			// Messages of a batch come back one by one.
			if !c.raw && f.messages > 1 {
				left := min(f.messages, f.next.Message-to.Message)
				c.flyingMessages -= f.messages - left
				f.messages = left
			}
			return
		}
		c.flyingMessages -= f.messages
		c.flyingBytes -= f.bytes
		c.flying = c.flying[1:]
	}
}

// sent reports whether everything below to was sent.
func (c *credit) sent(to pipe.Position) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.at.Before(to)
}

func (c *credit) position() pipe.Position {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// settled reports whether everything that was sent is acknowledged.
func (c *credit) settled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.flying) == 0
}
