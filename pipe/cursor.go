package pipe

import "fmt"

// A Cursor is a reader's place in a direction. The consumer's cursor starts at
// the first message of an inbox that is not acknowledged; an observer's looks at
// whatever is retained and holds nothing back. A Cursor belongs to one goroutine.
// Close it.
type Cursor struct {
	d       *direction
	in      *Inbox // the consumer's; nil for an observer
	at      place
	changed chan struct{}
	ended   bool
	// missed is the position before a jump that the reader was not told yet.
	missed *Position
}

// Limits bound what one [Cursor.Next] returns.
type Limits struct {
	// Messages in a batch; 0 means 1.
	Messages int
	// Bytes of payload in a batch; one message may exceed it up to the part
	// size. 0 means the part size.
	Bytes int
	// MaxMessage refuses a longer message with a TooLongError and leaves it; 0
	// means no limit, use Zero for a limit of nothing.
	MaxMessage uint64
	// Zero refuses every message that is not empty.
	Zero bool
	// KeepFraming leaves the framing bytes in Batch.Data.
	KeepFraming bool
}

// An Event is what a cursor found: exactly one of the three, or none.
type Event struct {
	Batch *Batch
	Gap   *Gap
	End   *End
}

// None reports whether nothing was there.
func (e Event) None() bool { return e.Batch == nil && e.Gap == nil && e.End == nil }

// Consumer returns a cursor at the first message that is not acknowledged.
// There should be one consumer at a time; who calls sees to that. Of several the
// latest alone makes a shared end read.
func (in *Inbox) Consumer() *Cursor {
	in.mu.Lock()
	defer in.mu.Unlock()
	c := &Cursor{d: &in.direction, in: in, at: in.acked, missed: in.lost, changed: make(chan struct{}, 1)}
	in.restLocked(in.wants)
	in.consumer = c
	in.watchLocked(c.changed)
	return c
}

// Observer returns a cursor at the oldest message start that is retained: of what
// came out of an end, or of what was sent into it.
func (d *direction) Observer() *Cursor {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &Cursor{d: d, at: d.oldestLocked(), changed: make(chan struct{}, 1)}
	d.watchLocked(c.changed)
	return c
}

// oldestLocked is the first message start from base on, or base where there is
// none.
func (d *direction) oldestLocked() place {
	p := d.base
	if !p.fresh() && p.off < d.lastEnd {
		p.message(d.cut, &d.log, ^uint64(0), d.head.off, nil)
	}
	return p
}

// oldestLocked is the first place that the cursor may stand at.
func (c *Cursor) oldestLocked() place {
	if c.in != nil {
		return c.in.acked
	}
	return c.d.oldestLocked()
}

// Seek moves the cursor to a position that has arrived or is the next to come;
// otherwise ErrPosition. A position before what is retained (what is not
// acknowledged, for a consumer) moves it to the oldest, and the next event is
// the gap.
func (c *Cursor) Seek(to Position) error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	floor := c.d.base
	if c.in != nil {
		floor = c.in.acked
	}
	c.missed, c.ended = nil, false
	if to.Before(floor.position()) {
		c.at, c.missed = c.oldestLocked(), &to
		return nil
	}
	p, ok := c.d.recoverLocked(floor, to)
	if !ok {
		return fmt.Errorf("%w: %v, the next to come is %v", ErrPosition, to, c.d.head.position())
	}
	c.at = p
	return nil
}

// SeekEnd moves an observer to what arrives next: the next message, or the rest
// of the one that is arriving.
func (c *Cursor) SeekEnd() {
	d := c.d
	d.mu.Lock()
	defer d.mu.Unlock()
	c.missed, c.ended = nil, false
	c.at = d.head
	if c.at.pay == 0 && d.lastEnd >= d.base.off && !d.tailOpen && !isRaw(d.cut) {
		c.at = place{off: d.lastEnd, num: d.head.num} // not inside its header
	}
}

// Position returns where the cursor stands, before a gap that Next has yet to
// tell.
func (c *Cursor) Position() Position {
	if c.missed != nil {
		return *c.missed
	}
	return c.at.position()
}

// Changed has a value when Next may find more than before.
func (c *Cursor) Changed() <-chan struct{} { return c.changed }

// Close releases the cursor.
func (c *Cursor) Close() {
	c.Rest()
	c.d.unwatch(c.changed)
}

// Rest takes back the wish of a consumer that waited on a shared end: when it
// returns, what is not read from the kernel yet stays there. Unlike the other
// methods it may be called by any goroutine.
func (c *Cursor) Rest() {
	if c.in == nil {
		return
	}
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.restLocked(c)
}

// Next returns what is at the cursor and moves past it, without waiting; an
// empty Event means that nothing is there yet. On a shared end a consumer that
// finds nothing makes the inbox read from the kernel until one message is there,
// [Cursor.Rest] is called, or another consumer takes over. The data is appended
// to buf[:0].
func (c *Cursor) Next(buf []byte, lim Limits) (Event, error) {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	in := c.in
	if in == nil {
		return c.nextLocked(buf, lim)
	}
	if in.wants == c {
		in.wants = nil
	}
	ev, err := c.nextLocked(buf, lim)
	if err != nil || !ev.None() || in.end != nil || in.consumer != c || !in.desc.shared() {
		return ev, err
	}
	if in.pullLocked(c) == nil {
		return c.nextLocked(buf, lim)
	}
	in.wantLocked(c)
	return Event{}, nil
}

func (c *Cursor) nextLocked(buf []byte, lim Limits) (Event, error) {
	d := c.d
	if d.closed {
		return Event{}, ErrClosed
	}
	if gap := c.gapLocked(); gap != nil {
		return Event{Gap: gap}, nil
	}
	if c.availableLocked() {
		if err := c.refuseLocked(lim); err != nil {
			return Event{}, err
		}
		return Event{Batch: c.gather(buf, lim)}, nil
	}
	if d.end == nil || c.ended {
		return Event{}, nil
	}
	c.ended = true
	end := *d.end
	return Event{End: &end}, nil
}

// gapLocked jumps over what is not retained any more, or was dropped.
func (c *Cursor) gapLocked() *Gap {
	if c.missed != nil {
		from := *c.missed
		c.missed = nil
		return &Gap{From: from, To: c.at.position()}
	}
	floor := &c.d.base
	if c.in != nil {
		floor = &c.in.acked
	}
	if c.at.off >= floor.off {
		return nil
	}
	from := c.at.position()
	c.at = c.oldestLocked()
	return &Gap{From: from, To: c.at.position()}
}

// availableLocked reports whether there is a message, or a part of one that is
// to be delivered in parts.
func (c *Cursor) availableLocked() bool {
	d := c.d
	if c.at.off >= d.head.off {
		return false
	}
	if isRaw(d.cut) || c.at.off < d.lastEnd || d.tailOpen {
		return true
	}
	there := d.head.pay - c.at.pay // payload of the unfinished message
	if d.end != nil {
		return there > 0
	}
	return there >= d.part
}

// refuseLocked refuses the message at the cursor if it is too long for lim.
func (c *Cursor) refuseLocked(lim Limits) error {
	limit := lim.MaxMessage
	if isRaw(c.d.cut) || limit == 0 && !lim.Zero {
		return nil
	}
	p := c.at
	p.message(c.d.cut, &c.d.log, 1, c.d.head.off, nil) // past the header
	size := p.total()
	if size == 0 {
		p, size = c.at, c.at.pay
		p.message(c.d.cut, &c.d.log, ^uint64(0), c.d.head.off, func(b []byte, payload bool) {
			if payload {
				size += uint64(len(b))
			}
		})
	}
	if size > limit {
		return &TooLongError{Size: size, Max: limit}
	}
	return nil
}
