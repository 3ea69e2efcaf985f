package pipe

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"

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
	vault    Vault
}

// playDaemon recovers the pipe, checks that what the clients know is true, and
// lets them go on.
func playDaemon(role *crashRole) error {
	words, err := newCrashWords(role.State)
	if err != nil {
		return err
	}
	d := &crashDaemon{role: role, words: words, vault: &farVault{fd: role.Vault}}
	if slices.Contains(vaultMutants, role.Mutant) {
		d.vault = &mutantVault{Vault: d.vault, mutant: role.Mutant}
	}
	if d.control, err = OpenControl(role.Kept[ControlKey], d.vault); err != nil {
		return err
	}
	if d.poller, err = NewPoller(); err != nil {
		return err
	}
	if err := d.others(); err != nil {
		return err
	}
	kept := d.kept(0)
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

// kept is what there is of the pipe in a slot.
func (d *crashDaemon) kept(slot int) Kept {
	k := keptOf(d.role.Kept, slot)
	k.Control, k.Vault = d.control, d.vault
	return k
}

// others closes the pipes that other daemons made, and takes back what they had
// put for those that they never made.
func (d *crashDaemon) others() error {
	slots := make(map[int]bool)
	for key := range d.role.Kept {
		slot, _, _, err := key.Split()
		switch {
		case key == ControlKey:
		case err != nil:
			return err
		case slot >= d.control.Pipes():
			d.vault.Remove(key)
		case slot != 0:
			slots[slot] = true
			if _, err := d.control.describe(slot); err != nil {
				// It was just being made that of another pipe, which nothing names.
				d.vault.Remove(key)
				delete(slots, slot)
			}
		}
	}
	for slot := range slots {
		one, two, err := Recover(d.poller, d.kept(slot), nil)
		if err != nil {
			return fmt.Errorf("recover pipe %d: %w", slot, err)
		}
		one.Close(true)
		two.Close(true)
		<-one.Closed()
		<-two.Closed()
	}
	// Half of them are for the pipes that are made next, the others stay, so that there
	// are new ones too.
	used := map[int]bool{0: true}
	for slot := 2; slot < d.control.Pipes(); slot += 2 {
		used[slot] = true
	}
	d.control.ReleaseAllBut(used)
	return nil
}

// check compares what was recovered with what the clients know.
func (d *crashDaemon) check() error {
	w, flags := d.words, d.words.flags.Load()
	info, end := d.one.out.Info(), d.one.out.End()
	sent, tried := w.sent.Load(), w.tried.Load()
	switch at := pack(info.Accepted); {
	case end != nil && end.Cause == CauseBrokenPipe && !d.role.Scene.Leave:
		return fmt.Errorf("the process reads no more: %+v", end)
	case at != sent && at != tried:
		return fmt.Errorf("the outbox has %v; %v was acknowledged, %v was tried", info.Accepted, unpack(sent), unpack(tried))
	case end == nil && info.Committed != info.Accepted, info.Accepted.Before(info.Committed):
		return fmt.Errorf("the outbox has %v, and %v was ever accepted", info.Committed, info.Accepted)
	}
	w.sent.Store(pack(info.Accepted)) // now its client knows
	if err := d.checkUnfinished(); err != nil {
		return err
	}
	if err := d.checkJournal(); err != nil {
		return err
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

// checkUnfinished compares the message of which only parts are there with what was
// accepted of it.
func (d *crashDaemon) checkUnfinished() error {
	at, u := d.one.out.Info().Accepted, d.one.out.Unfinished()
	p, err := newPattern(&d.role.Scene, d.role.Seed)
	switch {
	case err != nil:
		return err
	case at.Offset == 0 && u == nil:
		return nil
	case u == nil:
		return fmt.Errorf("accepted up to %v, and nothing is unfinished", at)
	case u.Number != at.Message || u.Have != at.Offset || u.Total != p.size(at.Message):
		return fmt.Errorf("accepted up to %v of %d, %d+%d of %d are unfinished", at, p.size(at.Message), u.Number, u.Have, u.Total)
	}
	return nil
}

// opens makes other pipes in the same control file, and looks at those that were
// made before.
func (d *crashDaemon) opens() error {
	torn := 0
	for slot := range d.control.Pipes() {
		if _, err := d.control.describe(slot); err != nil {
			if torn++; slot%2 == 0 || torn > 1 { // one may have been just being reused
				return err
			}
		}
	}
	spec := d.role.Scene.spec()
	spec.Control, spec.Vault = d.control, d.vault
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
	done, stop, journaled := make(chan error, 2), make(chan struct{}), make(chan error, 1)
	go func() { done <- d.writes() }()
	go func() { done <- d.reads() }()
	go func() { journaled <- d.journals(stop) }()
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
	close(stop)
	if err := <-journaled; err != nil {
		return err
	}
	w := d.words
	w.out.Store(pack(d.one.out.Info().Committed))
	if !d.role.Scene.Discard {
		w.given.Store(d.one.out.End().Bytes)
	}
	if d.role.Scene.Retire {
		d.one.Retire()
		if d.role.Scene.Shed {
			d.one.RetireLogs()
		}
		w.flags.Or(sawRetired)
	}
	w.outEnd.Store(d.outEnd())
	w.allRead.Store(d.allRead())
	w.flags.Or(sawFinished)
	return nil
}

// outEnd says how the outbox has ended, in a number.
func (d *crashDaemon) outEnd() uint64 {
	end := d.one.out.End()
	return uint64(crc32.ChecksumIEEE([]byte(fmt.Sprint(*end))))<<8 | uint64(end.Cause)
}

// allRead says whether all that was sent was read, in a number; 0 where that is not
// known for good.
func (d *crashDaemon) allRead() uint64 {
	switch all, known := d.one.AllRead(); {
	case !known || !d.one.write.isClosed(): // while it is open the answer may change
		return 0
	case all:
		return 1
	}
	return 2
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
		// Of a line the end is known with its newline, which may come later.
		open := whole && b.More && p.cut.open()
		if last := len(data) == int(size); !last && !whole || last && !b.Truncated && whole == b.More && !open {
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
	if d.role.Scene.Shed {
		return nil // so that something is left to be lost
	}
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
	if got := d.outEnd(); got != w.outEnd.Load() {
		return fmt.Errorf("the outbox ended as %#x, now %#x: %+v", w.outEnd.Load(), got, d.one.out.End())
	}
	if got, before := d.allRead(), w.allRead.Load(); before != 0 && got != before {
		return fmt.Errorf("that all was read is %d, before it was %d", got, before)
	}
	switch {
	case d.role.Scene.Discard:
		return nil
	case d.role.Scene.Shed:
		return d.shed()
	}
	return d.reads()
}

// shed looks at an inbox whose log was given back: what was not acknowledged is a
// gap, and then comes the end.
func (d *crashDaemon) shed() error {
	acked, end := d.one.in.Acked(), d.one.in.End()
	had := unpack(d.words.had.Load())
	c := d.one.in.Consumer()
	defer c.Close()
	ev, err := c.Next(nil, Limits{})
	switch drops := d.one.in.Info().Drops.Messages; {
	case err != nil:
		return err
	case acked != end.Position || end.Position != had:
		return fmt.Errorf("acknowledged up to %v, the end is at %v, received up to %v", acked, end.Position, had)
	case ev.Gap == nil && drops == 0:
	case ev.Gap == nil || ev.Gap.To != had || pack(ev.Gap.From) < d.words.acked.Load() || drops != had.Message-ev.Gap.From.Message:
		return fmt.Errorf("%d messages were dropped, the gap is %+v; %v was acknowledged, the end is at %v", drops, ev.Gap, unpack(d.words.acked.Load()), had)
	default:
		if ev, err = c.Next(nil, Limits{}); err != nil {
			return err
		}
	}
	if ev.End == nil {
		return fmt.Errorf("got %+v instead of the end", ev)
	}
	return d.end(ev.End)
}
