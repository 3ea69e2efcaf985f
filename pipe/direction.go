package pipe

import (
	"fmt"
	"sync"

	"github.com/piped-dev/piped/failpoint"
	"golang.org/x/sys/unix"
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
	part    uint64 // size of the parts that a cursor hands out
	// rec outlives the process; nil where the log is memory of this process alone.
	rec *record
	// port is for the exact moves; nil where the plain ones are used: without rec,
	// and on an end of which other holders move the kernel's counters too.
	port    port
	spliced bool // what the port receives moves the log's file position
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
	closed   bool // nothing can be received from it any more
	end      *End
	ended    func() // tells that there is an end; may be nil
	watchers map[chan struct{}]struct{}
}

// init makes a new direction of an end. The descriptor is that of the end.
func (d *direction) init(f Framing, spec *Spec, desc *descriptor, rec *record) error {
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
	d.framing, d.cut, d.limit, d.part = f, c, spec.LogSize, spec.partSize()
	d.base.num, d.head.num = 1, 1
	d.log.releaseStep = releaseStep(d.limit)
	d.log.open = func() (space, error) { return new(anonymousSpace), nil }
	if rec == nil {
		return nil
	}
	d.rec = rec
	d.log.open = func() (space, error) {
		fd, err := newMemfd("piped-log")
		if err != nil {
			return nil, err
		}
		if err := rec.log.put(fd); err != nil { // kept before anything is committed to it
			_ = unix.Close(fd)
			return nil, err
		}
		failpoint.Hit("log.after-keep")
		return &memfdSpace{fd: fd, kept: rec.log}, nil
	}
	d.log.account(desc.logs)
	if !desc.shared() {
		d.port = &cursorPort{desc, &d.log}
	}
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

// announce makes the direction tell when it has ended, or that it has.
func (d *direction) announce(ended func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = ended
	if d.end != nil {
		ended()
	}
}

// endLocked is the last word about the direction, unless there was one before
// that this one only makes more exact.
func (d *direction) endLocked(e *End) {
	if d.end == nil && d.ended != nil {
		d.ended()
	}
	d.end = e
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

// Arrived returns the position of the next message to arrive, or inside the one
// that is arriving: from the kernel in an inbox, from clients in an outbox.
func (d *direction) Arrived() Position {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.head.position()
}

// recoverLocked finds the place of a position from a place before it.
func (d *direction) recoverLocked(from place, to Position) (place, bool) {
	if d.tailOpen && to == d.head.position() {
		return d.head, true
	}
	return from.recover(d.cut, &d.log, to, d.head.off)
}

// amountLocked says in words what lies between two places.
func (d *direction) amountLocked(from, to *place) string {
	messages, bytes := d.betweenLocked(from, to)
	text := fmt.Sprintf("%d bytes", bytes)
	switch {
	case isRaw(d.cut):
		return text
	case messages == 1:
		return "1 message, " + text
	}
	return fmt.Sprintf("%d messages, %s", messages, text)
}

// queuedLocked counts the messages between a place and head.
func (d *direction) queuedLocked(from *place) (messages, bytes uint64) {
	return d.betweenLocked(from, &d.head)
}

// betweenLocked counts the messages between two places; a part of one counts as
// one.
func (d *direction) betweenLocked(from, to *place) (messages, bytes uint64) {
	messages = to.num - from.num
	if !isRaw(d.cut) && !to.fresh() && !d.tailOpen && to.off > from.off {
		messages++
	}
	return messages, to.off - from.off
}

// Framing returns the framing of the direction, with its limit filled in.
func (d *direction) Framing() Framing { return d.framing }
