package pipe

import "slices"

// gather builds a batch at the cursor and moves the cursor past it. There must
// be something available.
func (c *Cursor) gather(buf []byte, lim Limits) *Batch {
	b := &Batch{First: c.at.position(), Data: buf[:0]}
	if isRaw(c.d.cut) {
		c.gatherRaw(b, lim)
		return b
	}
	keep := c.keeps(lim)
	for more := true; more; {
		m := c.measure()
		if b.Sizes == nil && (m.part || !c.at.fresh()) {
			b.grow(min(m.size, c.d.part) + uint64(m.around)) //nolint:gosec // not negative
			c.gatherPart(b, m, keep)
			break
		}
		if b.Sizes != nil && (m.part || keep && m.around != b.Prefix+b.Suffix || len(b.Data)+int(m.size) > c.bytes(lim)) { //nolint:gosec // at most a part
			break
		}
		b.grow(m.size + uint64(m.around)) //nolint:gosec // not negative
		c.gatherMessage(b, m, keep)
		more = !b.Partial && len(b.Sizes) < lim.Messages && (c.at.off < c.d.lastEnd || c.d.tailOpen && c.at.off < c.d.head.off)
	}
	if len(b.Sizes) == 1 {
		b.Sizes = nil
	}
	b.Next = c.at.position()
	return b
}

func (c *Cursor) bytes(lim Limits) int {
	if lim.Bytes <= 0 {
		return int(c.d.part) //nolint:gosec // a part fits an int
	}
	return min(lim.Bytes, int(c.d.part)) //nolint:gosec // as above
}

// grow makes room for n more bytes: growing in steps would leave several times
// the size of a part behind as garbage.
func (b *Batch) grow(n uint64) { b.Data = slices.Grow(b.Data, int(n)) } //nolint:gosec // at most a part

func (c *Cursor) gatherRaw(b *Batch, lim Limits) {
	b.grow(min(uint64(c.bytes(lim)), c.d.head.off-c.at.off)) //nolint:gosec // not negative
	for len(b.Data) < c.bytes(lim) && c.at.off < c.d.head.off {
		data := c.d.log.from(c.at.off)
		data = data[:min(len(data), c.bytes(lim)-len(b.Data))]
		b.Data = append(b.Data, data...)
		c.at.off += uint64(len(data))
		c.at.num += uint64(len(data))
	}
	b.Next = c.at.position()
}

// A measured is the rest of the message at a cursor.
type measured struct {
	size    uint64 // payload bytes
	around  int    // framing bytes around it
	part    bool   // more than one part, or not complete
	partial bool   // the end of file finished it
}

func (c *Cursor) measure() measured {
	var m measured
	p := c.at
	ended := p.message(c.d.cut, &c.d.log, c.d.part+1, c.d.head.off, func(b []byte, payload bool) {
		if payload {
			m.size += uint64(len(b))
		} else {
			m.around += len(b)
		}
	})
	if !ended && c.d.tailOpen && p.off == c.d.head.off {
		ended, m.partial = true, true
	}
	m.part = !ended || m.size > c.d.part
	return m
}

// keeps reports whether framing bytes stay in the data. A line end of one or
// two bytes cannot, because where it starts is known only behind it.
func (c *Cursor) keeps(lim Limits) bool { return lim.KeepFraming && !c.d.framing.StripCR }

// around sets the size of the framing bytes in b: a framing has them either
// before or after the payload.
func (c *Cursor) around(b *Batch, n int) {
	if c.d.cut.trailer() == "" {
		b.Prefix = n
	} else {
		b.Suffix = n
	}
}

// copyMessage appends what the cursor passes to b.
func (c *Cursor) copyMessage(b *Batch, most uint64, keep bool) (around int, ended bool) {
	ended = c.at.message(c.d.cut, &c.d.log, most, c.d.head.off, func(data []byte, payload bool) {
		if payload || keep {
			b.Data = append(b.Data, data...)
		}
		if !payload {
			around += len(data)
		}
	})
	return around, ended
}

func (c *Cursor) gatherMessage(b *Batch, m measured, keep bool) {
	c.copyMessage(b, ^uint64(0), keep)
	if keep {
		c.around(b, m.around)
	}
	if m.partial {
		if c.at.st.held {
			m.size++
		}
		c.finishPartial(b)
	}
	b.Sizes = append(b.Sizes, uint32(m.size)) //nolint:gosec // at most a part
}

// gatherPart takes one part of a large or cut message; it stands alone in its
// batch.
func (c *Cursor) gatherPart(b *Batch, m measured, keep bool) {
	most := c.d.part
	if !m.part {
		most = ^uint64(0) // the last one, and the line end behind it
	}
	b.Total = c.at.total()
	around, ended := c.copyMessage(b, most, keep)
	if keep {
		c.around(b, around)
	}
	b.Total = max(b.Total, c.at.total())
	atEnd := c.at.off == c.d.head.off
	switch {
	case ended:
	case atEnd && c.d.tailOpen:
		c.finishPartial(b)
	case atEnd && c.d.end != nil:
		b.Truncated = true
	default:
		b.More = true
	}
}

// finishPartial ends the line that has no newline at the end of the direction.
func (c *Cursor) finishPartial(b *Batch) {
	if c.at.st.held {
		b.Data = append(b.Data, '\r')
	}
	b.Partial = true
	c.at = c.d.head
}
