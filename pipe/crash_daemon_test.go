package pipe

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"golang.org/x/sys/unix"
)

// A crashDaemon is the daemon that is killed, and in it the clients, who know
// only what they were told (words).
type crashDaemon struct {
	role     *crashRole
	words    *crashWords
	one, two *Endpoint
	poller   *Poller
	control  *Control
}

// playDaemon recovers the pipe, checks that what the clients know is true, and
// lets them go on.
func playDaemon(role *crashRole) error {
	words, err := newCrashWords(role.State)
	if err != nil {
		return err
	}
	d := &crashDaemon{role: role, words: words}
	if d.control, err = OpenControl(role.Control); err != nil {
		return err
	}
	if d.poller, err = NewPoller(); err != nil {
		return err
	}
	gone := KeptEnd{Read: -1, Write: -1, Inbox: -1, Outbox: -1}
	kept := Kept{Control: d.control, Ends: [2]KeptEnd{{Read: role.Read, Write: role.Write, Inbox: role.Inbox, Outbox: role.Outbox}, gone}}
	if role.Mutant != "" {
		d.one, d.two, err = recoverMutant(d.poller, kept, role.Mutant)
	} else {
		d.one, d.two, err = Recover(d.poller, kept, func(int, bool) {})
	}
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	if role.Verify {
		return d.verify()
	}
	if err := d.check(); err != nil {
		return err
	}
	_, _ = unix.Write(role.Ready, []byte{1})
	if role.Scene.Opens {
		if err := d.opens(); err != nil {
			return err
		}
	}
	return d.live()
}

// check compares what was recovered with what the clients know.
func (d *crashDaemon) check() error {
	w, flags := d.words, d.words.flags.Load()
	out := pack(d.one.out.Info().Committed)
	sent, tried := w.sent.Load(), w.tried.Load()
	switch end := d.one.out.End(); {
	case end != nil && (d.role.Scene.Leave || d.role.Scene.Discard) && out <= tried: // the rest was dropped
	case end != nil && end.Cause == CauseBrokenPipe:
		return fmt.Errorf("the process reads no more: %+v", end)
	case out != sent && out != tried:
		return fmt.Errorf("the outbox has %v; %v was acknowledged, %v was tried", unpack(out), unpack(sent), unpack(tried))
	}
	acked := pack(d.one.in.Acked())
	if low, high := w.acked.Load(), w.had.Load(); acked < low || acked > high && !d.role.Scene.Drop && flags&closedEnd == 0 && !d.one.Closing() {
		return fmt.Errorf("the inbox is acknowledged up to %v; %v was told, %v was received", unpack(acked), unpack(low), unpack(high))
	}
	drops := d.one.in.Info().Drops.Messages
	if drops < w.dropped.Load() {
		return fmt.Errorf("%d messages were dropped, %d before", drops, w.dropped.Load())
	}
	w.dropped.Store(drops)
	switch {
	case flags&closedEnd != 0 && !d.one.Closing():
		return errors.New("the end was closed and is open again")
	case flags&closedSend != 0 && !d.one.out.Info().Closing:
		return errors.New("sending was closed and goes on")
	}
	return nil
}

// opens makes other pipes in the same control file, and looks at those that were
// made before.
func (d *crashDaemon) opens() error {
	for slot := range d.control.Pipes() {
		if _, err := d.control.describe(slot); err != nil {
			return err
		}
	}
	spec := d.role.Scene.spec()
	spec.Control = d.control
	for range 20 {
		one, two, err := Open(d.poller, spec)
		if err != nil {
			return err
		}
		one.Close(true)
		two.Close(true)
	}
	return nil
}

// live lets the clients work until everything is done.
func (d *crashDaemon) live() error {
	done := make(chan error, 2)
	go func() { done <- d.writes() }()
	go func() { done <- d.reads() }()
	if d.role.Scene.Discard && d.role.Finish {
		d.one.Close(true)
		d.words.flags.Or(closedEnd)
		<-d.one.Closed()
		d.words.given.Store(d.one.out.End().Bytes)
	}
	for range 2 {
		if err := <-done; err != nil {
			return err
		}
	}
	w := d.words
	w.out.Store(pack(d.one.out.Info().Committed))
	if !d.role.Scene.Discard {
		w.given.Store(d.one.out.End().Bytes)
	}
	if d.role.Scene.Retire {
		d.one.Retire()
		w.flags.Or(sawRetired)
	}
	w.flags.Or(sawFinished)
	return nil
}

// writes sends the pattern from where the outbox says that it is.
func (d *crashDaemon) writes() error {
	o, w := d.one.out, d.words
	p, err := newPattern(&d.role.Scene, d.role.Seed)
	if err != nil {
		return err
	}
	changed, stop := o.Watch() // a change between an attempt and the wait is kept
	defer stop()
	for burst := 0; ; burst++ {
		at := o.Info().Committed
		if d.role.Finish && !d.role.Scene.Discard && !d.role.Scene.Leave && o.Unfinished() == nil {
			if err := d.one.CloseSend(false); err != nil {
				return err
			}
			w.flags.Or(closedSend)
			<-o.Flushed()
			return nil
		}
		part := p.part(at)
		to := pack(after(at, part, isRaw(p.cut)))
		w.tried.Store(to)
		switch err := o.Append(part); {
		case err == nil:
			w.sent.Store(to)
		case errors.Is(err, ErrNoRoom):
			_ = o.Push() // the next send says what is wrong
			<-changed
		case errors.Is(err, ErrBrokenPipe) && d.role.Scene.Leave,
			errors.Is(err, ErrClosed) && d.role.Scene.Discard:
			return nil
		case errors.Is(err, ErrClosed) && o.Info().Closing: // by a daemon that was killed
			<-o.Flushed()
			return nil
		default:
			return fmt.Errorf("send at %v: %w", at, err)
		}
		if burst%4 == 3 || rand.IntN(3) == 0 {
			_ = o.Push() // the next send says what is wrong
		}
	}
}

// part returns what is to be sent at a position: a message or a part of one.
func (p *pattern) part(at Position) Part {
	if isRaw(p.cut) {
		b := make([]byte, 1+rand.IntN(9000))
		p.fill(b, 0, at.Message-1)
		return Part{Data: b}
	}
	size := p.size(at.Message)
	n := size - at.Offset
	if most := 1 + rand.Uint64N(20_000); n > most && size > 10_000 {
		n = most
	}
	b := make([]byte, n)
	p.fill(b, at.Message, at.Offset)
	part := Part{Data: b, Offset: at.Offset, More: at.Offset+n < size}
	if part.More || at.Offset > 0 {
		part.Total = size
	}
	return part
}

// after returns the position behind a part at a position.
func after(at Position, p Part, raw bool) Position {
	n := uint64(len(p.Data))
	switch {
	case raw:
		return Position{Message: at.Message + n}
	case p.More:
		return Position{Message: at.Message, Offset: at.Offset + n}
	}
	return Position{Message: at.Message + 1}
}

// reads receives the pattern from where the consumer was, and acknowledges.
func (d *crashDaemon) reads() error {
	in, w := d.one.in, d.words
	p, err := newPattern(&d.role.Scene, d.role.Seed+1)
	if err != nil {
		return err
	}
	c := in.Consumer()
	defer c.Close()
	if err := c.Seek(unpack(w.had.Load())); err != nil {
		return d.closedOr(err)
	}
	lim := Limits{Messages: 1 + rand.IntN(40)}
	for {
		ev, err := c.Next(nil, lim)
		if err != nil {
			return d.closedOr(err)
		}
		switch {
		case ev.Batch != nil:
			err = d.batch(&p, ev.Batch)
		case ev.Gap != nil:
			err = d.gap(ev.Gap)
		case ev.End != nil:
			return d.end(ev.End)
		default:
			if err := d.ack(c.Position()); err != nil {
				return err
			}
			<-c.Changed()
		}
		if err == nil && !d.role.Scene.Drop && rand.IntN(4) == 0 {
			err = d.ack(c.Position())
		}
		if err != nil {
			return err
		}
	}
}

func (d *crashDaemon) closedOr(err error) error {
	if d.role.Scene.Discard && errors.Is(err, ErrClosed) {
		return nil
	}
	return fmt.Errorf("receive: %w", err)
}

// ack acknowledges; where the oldest is dropped it does not, most of the time.
func (d *crashDaemon) ack(at Position) error {
	if d.role.Scene.Drop && rand.IntN(50) > 0 && !d.role.Finish {
		return nil
	}
	err := d.one.in.Ack(at)
	if err == nil {
		d.words.acked.Store(pack(at))
	}
	return err
}

func (d *crashDaemon) gap(g *Gap) error {
	had := unpack(d.words.had.Load())
	if !d.role.Scene.Drop || g.From != had || !g.From.Before(g.To) {
		return fmt.Errorf("gap from %v to %v, at %v", g.From, g.To, had)
	}
	d.words.had.Store(pack(g.To))
	d.words.skipped.Add(g.To.Message - g.From.Message)
	return nil
}

func (d *crashDaemon) batch(p *pattern, b *Batch) error {
	had := unpack(d.words.had.Load())
	if b.First != had {
		return fmt.Errorf("a batch at %v, want %v", b.First, had)
	}
	if isRaw(p.cut) {
		if err := p.compare(b.Data, 0, had.Message-1); err != nil {
			return err
		}
		d.words.had.Store(pack(b.Next))
		return nil
	}
	sizes, data, at := b.Sizes, b.Data, b.First
	if len(sizes) == 0 {
		sizes = []uint32{uint32(len(data))}
	}
	for _, size := range sizes {
		if err := p.compare(data[:size], at.Message, at.Offset); err != nil {
			return err
		}
		whole := at.Offset+uint64(size) == p.size(at.Message)
		if last := len(data) == int(size); !last && !whole || last && !b.Truncated && whole == b.More {
			return fmt.Errorf("message %d ends after %d of %d bytes (more %t)", at.Message, at.Offset+uint64(size), p.size(at.Message), b.More)
		}
		data, at = data[size:], Position{Message: at.Message + 1}
	}
	d.words.had.Store(pack(b.Next))
	return nil
}

func (p *pattern) compare(got []byte, k, off uint64) error {
	want := make([]byte, len(got))
	if p.fill(want, k, off); string(want) != string(got) {
		return fmt.Errorf("message %d+%d: got %.40q, want %.40q", k, off, got, want)
	}
	return nil
}

// end notes how the inbox ended, or compares it with how it ended before.
func (d *crashDaemon) end(e *End) error {
	w, saw := d.words, uint64(sawEnd)
	switch e.Cause {
	case CauseClosed:
		saw |= sawClosed
	case CauseReset, CauseTruncated:
		saw |= sawReset
	default:
		return fmt.Errorf("the inbox ended: %+v", e)
	}
	before := w.flags.Load() & (sawEnd | sawClosed | sawReset)
	if before&sawEnd != 0 && (before != saw || w.end.Load() != pack(e.Position)) {
		return fmt.Errorf("the end was seen as %#x at %v, now %+v", before, unpack(w.end.Load()), e)
	}
	w.end.Store(pack(e.Position))
	w.flags.Or(saw)
	return d.ack(e.Position)
}

// verify compares what was recovered after everything was done.
func (d *crashDaemon) verify() error {
	w := d.words
	if err := d.check(); err != nil {
		return err
	}
	if out := d.one.out.Info().Committed; out != unpack(w.out.Load()) && !d.role.Scene.Discard && !d.role.Scene.Leave {
		return fmt.Errorf("the outbox ended at %v, now %v", unpack(w.out.Load()), out)
	}
	if d.role.Scene.Discard {
		return nil
	}
	return d.reads()
}
