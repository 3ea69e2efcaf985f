package pipe

// A place is a boundary in a direction with all that is needed to read on from
// there: offset, number, payload offset and the cutter's state. Places are
// values; keeping one costs nothing.
type place struct {
	off uint64 // stream offset
	num uint64 // number of the message the next byte belongs to
	pay uint64 // payload bytes of that message before off
	st  state
}

func (p *place) position() Position { return Position{Message: p.num, Offset: p.pay} }

// fresh reports whether p is the start of a message.
func (p *place) fresh() bool { return p.pay == 0 && p.st == state{} }

// total is the payload size of the message p stands in, 0 where unknown.
func (p *place) total() uint64 { return p.st.total }

// step takes the next segment of data, which begins at p and is not empty.
func (p *place) step(c cutter, data []byte) (segment, error) {
	seg, err := c.cut(&p.st, data)
	p.off += uint64(seg.n) //nolint:gosec // seg.n counts bytes
	if isRaw(c) {
		p.num += uint64(seg.n) //nolint:gosec // as above
		return seg, err
	}
	if seg.carry {
		p.pay++
	}
	if seg.payload {
		p.pay += uint64(seg.n) //nolint:gosec // as above
	}
	if seg.end {
		p.num++
		p.pay = 0
	}
	return seg, err
}

// A visitor gets what a walk passes: payload bytes, or framing bytes. Nil is
// allowed.
type visitor func(b []byte, payload bool)

var carriageReturn = []byte{'\r'}

// message walks p through l to the end of the message it stands in, but past at
// most most payload bytes (at least 1) and not past the offset to; it reports
// whether the end was reached. The bytes must have been stepped over without
// error before.
func (p *place) message(c cutter, l *log, most, to uint64, visit visitor) bool {
	for p.off < to {
		data := l.from(p.off)
		if rest := to - p.off; uint64(len(data)) > rest {
			data = data[:rest]
		}
		// Framing bytes are few; only payload can overrun the bound.
		if uint64(len(data)) > most {
			data = data[:most]
		}
		seg, err := p.step(c, data)
		if err != nil {
			return false
		}
		if visit != nil {
			if seg.carry {
				visit(carriageReturn, true)
			}
			visit(data[:seg.n], seg.payload)
		}
		if seg.end {
			return true
		}
		if seg.payload {
			n := uint64(seg.n) //nolint:gosec // seg.n counts bytes
			if seg.carry {
				n = 1
			}
			if most -= min(most, n); most == 0 {
				return false
			}
		}
	}
	return false
}

// forward walks p to the stream offset to.
func (p *place) forward(c cutter, l *log, to uint64) {
	for p.off < to {
		data := l.from(p.off)
		if rest := to - p.off; uint64(len(data)) > rest {
			data = data[:rest]
		}
		if _, err := p.step(c, data); err != nil {
			return
		}
	}
}

// recover finds the place of a position again, from p before it and the bytes
// in between, up to the offset to. It reports whether the position is there.
func (p place) recover(c cutter, l *log, at Position, to uint64) (place, bool) {
	if isRaw(c) {
		if at.Message < p.num || at.Message-p.num > to-p.off || at.Offset != 0 {
			return p, false
		}
		p.off += at.Message - p.num
		p.num = at.Message
		return p, true
	}
	if at.Before(p.position()) {
		return p, false
	}
	for p.num < at.Message {
		if !p.message(c, l, ^uint64(0), to, nil) {
			return p, false
		}
	}
	if p.pay < at.Offset {
		start := p.num
		if p.message(c, l, at.Offset-p.pay, to, nil) || p.num != start || p.pay != at.Offset {
			return p, p.position() == at
		}
	}
	return p, true
}
