package pipe

import (
	"fmt"
	"sync"
)

// DefaultPart is the size of the parts in which large messages travel. Each
// stream has a few of them in memory at a time; larger ones are not faster.
const DefaultPart = 256 << 10

// A direction is one log with its places. Inbox and Outbox are the two kinds.
type direction struct {
	mu sync.Mutex
	// framing and its cutter never change.
	framing Framing
	cut     cutter
	log     log
	// limit bounds the bytes between what the slowest obligation holds and
	// head: bytes unacknowledged (inbox) or not handed over (outbox).
	limit uint64
	// base is where retained bytes begin, head the commit point. Everything
	// between them has been stepped over without error.
	base, head place
	// lastEnd is the stream offset after the last complete message.
	lastEnd uint64
	// tailOpen: the message that ends at head has no end of its own (a line
	// without newline before the end of file).
	tailOpen bool
	end      *End
	watchers map[chan struct{}]struct{}
}

func (d *direction) init(f Framing, spec *Spec) error {
	if f.MaxMessage == 0 || f.MaxMessage > spec.MaxMessage {
		f.MaxMessage = spec.MaxMessage
	}
	c, err := f.cutter()
	if err != nil {
		return err
	}
	if f.Name == "" {
		f.Name = "line"
	}
	d.framing, d.cut, d.limit = f, c, spec.LogSize
	d.base.num, d.head.num = 1, 1
	return nil
}

// Watch returns a channel that gets a value when something changes in the
// direction: bytes committed, released or ended. Values do not queue up. The
// caller must call stop.
func (d *direction) Watch() (changed <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	d.mu.Lock()
	d.watchLocked(ch)
	d.mu.Unlock()
	return ch, func() { d.unwatch(ch) }
}

func (d *direction) watchLocked(ch chan struct{}) {
	if d.watchers == nil {
		d.watchers = make(map[chan struct{}]struct{})
	}
	d.watchers[ch] = struct{}{}
}

func (d *direction) unwatch(ch chan struct{}) {
	d.mu.Lock()
	delete(d.watchers, ch)
	d.mu.Unlock()
}

func (d *direction) wakeLocked() {
	for ch := range d.watchers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// End returns the last word about the direction, or nil while it goes on.
func (d *direction) End() *End {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.end == nil {
		return nil
	}
	e := *d.end
	return &e
}

// countLocked moves head over the bytes up to the end of the log: this is the
// commit. It stops before a payload byte over the limit and behind a header
// that cannot be, at the same offset however the bytes came.
func (d *direction) countLocked() error {
	for d.head.off < d.log.end {
		data := d.log.from(d.head.off)
		if room := d.framing.MaxMessage - d.head.pay; uint64(len(data)) > room {
			data = data[:max(room, 1)]
		}
		before := d.head
		seg, err := d.head.step(d.cut, data)
		if err != nil {
			return err
		}
		if want := d.head.pay; want > d.framing.MaxMessage {
			d.head = before
			return &frameError{cause: CauseOverLimit, want: want,
				detail: fmt.Sprintf("message is longer than the limit of %d bytes", d.framing.MaxMessage)}
		}
		if seg.end {
			d.lastEnd = d.head.off
		}
	}
	return nil
}

// amountLocked says in words what lies between a place and head.
func (d *direction) amountLocked(from *place) string {
	messages, bytes := d.queuedLocked(from)
	text := fmt.Sprintf("%d bytes", bytes)
	switch {
	case isRaw(d.cut):
		return text
	case messages == 1:
		return "1 message, " + text
	}
	return fmt.Sprintf("%d messages, %s", messages, text)
}

// queuedLocked counts the messages between a place and head; a part of one
// counts as one.
func (d *direction) queuedLocked(from *place) (messages, bytes uint64) {
	messages = d.head.num - from.num
	if !isRaw(d.cut) && !d.head.fresh() && !d.tailOpen && d.head.off > from.off {
		messages++
	}
	return messages, d.head.off - from.off
}

// Framing returns the framing of the direction, with its limit filled in.
func (d *direction) Framing() Framing { return d.framing }
