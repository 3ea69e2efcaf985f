package pipe

import (
	"errors"
	"fmt"

	"github.com/piped-dev/piped/failpoint"
)

// A Kept is what outlives the process that moved the bytes of a pipe: a control
// file, and descriptors.
type Kept struct {
	Control *Control
	// Slot of the pipe in the control file.
	Slot int
	// Vault, if set, is what has copies of the descriptors, and goes on to have
	// them: see [Spec]. When Recover fails they stay there.
	Vault Vault
	Ends  [2]KeptEnd
}

// A KeptEnd is what is kept of one end.
type KeptEnd struct {
	// Read and Write are copies of the end, one and the same for a socket; -1 where
	// the end does not work in that direction or the daemon gave its copy back.
	Read, Write int
	// Inbox and Outbox are the files of the logs; -1 where none was made.
	Inbox, Outbox int
}

// Recover makes the endpoints of a pipe again, from nothing but what is kept of
// it, after the process that had them is gone. It must be gone: two that move the
// same counters would break what both promise. What that process had begun is
// finished or undone, so that nothing is lost, doubled or torn; on a shared end
// its last move may be in doubt. Nothing of what was kept is believed before it
// was checked: ErrCorrupt says what cannot be.
//
// Recover takes the descriptors over, also when it fails; the control file stays
// the caller's. For ended see [Spec].
func Recover(poller *Poller, kept Kept, ended func(end int, sent bool)) (one, two *Endpoint, err error) {
	held := kept.Ends
	defer func() {
		for i := range held {
			held[i].close() // what nobody has taken
		}
	}()
	if err := kept.Control.enter(); err != nil {
		return nil, nil, err
	}
	defer kept.Control.leave() // each end enters by itself
	d, err := kept.Control.describe(kept.Slot)
	if err != nil {
		return nil, nil, err
	}
	spec := d.spec
	spec.Control, spec.Vault = kept.Control, kept.Vault
	var fds [2]ends
	for i := range fds {
		if fds[i], err = held[i].descriptors(poller, spec.Kind, i+1, spec.Sealed && i == 0); err != nil {
			fds[0].close()
			fds[1].close()
			return nil, nil, err
		}
	}
	term, err := held[1].terminal(poller, spec.Kind, fds[0])
	if err != nil {
		term.close()
		fds[0].close()
		fds[1].close()
		return nil, nil, err
	}
	if one, two, err = newEndpoints(fds, term, &spec, kept.Slot); err != nil {
		return nil, nil, err
	}
	failpoint.Hit("recover.begin")
	for i, e := range []*Endpoint{one, two} {
		if err := e.recover(&held[i]); err != nil {
			one.abort()
			two.abort()
			return nil, nil, fmt.Errorf("end %d: %w", i+1, err)
		}
	}
	failpoint.Hit("recover.before-resume")
	one.deposited(kept.Vault)
	two.deposited(kept.Vault)
	term.deposited(kept.Vault, kept.Slot, one.write)
	for i, e := range []*Endpoint{one, two} {
		e.announce(poller.news, i+1, ended)
		e.resume()
	}
	return one, two, nil
}

func (k *KeptEnd) close() {
	closeFD(&k.Read, k.Read != k.Write)
	closeFD(&k.Write, true)
	closeFD(&k.Inbox, true)
	closeFD(&k.Outbox, true)
}

// descriptors takes the copies of the end over.
func (k *KeptEnd) descriptors(poller *Poller, kind Kind, end int, sealed bool) (e ends, err error) {
	receives, sends := directions(kind, end)
	if kind == Duplex || kind == Terminal && end == 2 {
		if k.Write == k.Read {
			k.Write = -1
		}
		d, err := keptDescriptor(&k.Read, kind == Duplex, sealed, poller)
		return ends{d, d}, err
	}
	if receives {
		if e.read, err = keptDescriptor(&k.Read, false, sealed, poller); err != nil {
			return e, err
		}
	}
	if sends {
		e.write, err = keptDescriptor(&k.Write, false, sealed, poller)
	}
	return e, err
}

// terminal makes the daemon's side of a terminal again, of which one is end 1 and k
// is kept of end 2.
func (k *KeptEnd) terminal(poller *Poller, kind Kind, one ends) (*terminal, error) {
	switch kind {
	case Terminal:
		return recoverTerminal(poller, one.write, one.read)
	case TerminalOut, TerminalOutOnly:
		master, err := keptDescriptor(&k.Outbox, false, true, poller)
		if err != nil {
			return nil, err
		}
		t, err := recoverTerminal(poller, master, one.read)
		if t == nil {
			master.close()
		}
		return t, err
	default:
		return nil, nil
	}
}

// directions says which directions an end of a pipe has.
func directions(kind Kind, end int) (receives, sends bool) {
	first := end == 1
	switch kind {
	case OneWay, StdoutOnly, TerminalOutOnly:
		return first, !first
	case StdinOnly:
		return !first, first
	case Duplex, Stdio, Terminal, TerminalOut:
	}
	return true, true
}

// keptDescriptor takes *fd over; -1 makes a descriptor that is closed.
func keptDescriptor(fd *int, socket, sealed bool, poller *Poller) (*descriptor, error) {
	n := *fd
	*fd = -1
	if n < 0 {
		return goneDescriptor(socket, sealed, poller), nil
	}
	return newDescriptor(n, socket, sealed, poller)
}

func (e *Endpoint) recover(kept *KeptEnd) error {
	if e.out != nil && e.out.rec.has(flagReset) {
		e.write.reset.Store(true)
	}
	if e.in != nil {
		if err := e.in.recover(takeSpace(&kept.Inbox)); err != nil {
			return fmt.Errorf("inbox: %w", err)
		}
	}
	if e.out != nil {
		e.halfClose = e.out.rec.has(flagHalfClose)
		if err := e.out.recover(takeSpace(&kept.Outbox)); err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
		if all := e.sent.has(flagAllRead); all || e.sent.has(flagNotAllRead) {
			e.lastRead = &all
		}
	}
	return nil
}

// deposited notes that copies of the descriptors are in a vault, from where they
// are removed from now on.
func (e *Endpoint) deposited(vault Vault) {
	if vault == nil {
		return
	}
	ends{e.read, e.write}.deposited(vault, e.slot, e.num)
	if e.in != nil {
		e.in.deposited()
	}
	if e.out != nil {
		e.out.deposited()
	}
}

// deposited notes that the log's file is in a vault.
func (d *direction) deposited() {
	if s, file := d.log.space.(*memfdSpace); file {
		s.kept = d.rec.log
	}
}

// takeSpace takes the file *fd over; nil where there is none.
func takeSpace(fd *int) space {
	if *fd < 0 {
		return nil
	}
	s := &memfdSpace{fd: *fd}
	*fd = -1
	return s
}

// resume goes on where the other process was: it reads ahead, hands over what is
// queued, and closes what was being closed.
func (e *Endpoint) resume() {
	closed, discard := false, false
	if e.in != nil {
		closed = e.in.rec.has(flagEndClosed)
	}
	if e.out != nil {
		closed, discard = closed || e.out.rec.has(flagEndClosed), e.out.rec.has(flagDiscard)
	}
	switch {
	case closed:
		e.Close(discard)
		return
	case (e.in == nil || e.read.isClosed()) && (e.out == nil || e.write.isClosed()):
		e.retired = true
	}
	e.start()
	if e.out != nil && e.out.rec.has(flagClosing) {
		e.out.Close(discard)
	} else if e.out != nil {
		_ = e.out.Push() // that it is broken, the end says
	}
}

// retainedSlack is how much more than its bounds a log may retain: steps of
// release, a part, and what a kernel pipe holds of which numbers are found here.
const retainedSlack = 64 << 20

// recoverLog takes the space of a log over, nil where none was made, and finds the
// places in it again: base from the checkpoint, head from what is committed, which
// countLocked walks to. It returns the checkpoint. tail is what is retained beyond
// the limit; over are the flags of which one says that the log is not needed any more.
func (d *direction) recoverLog(s space, tail, over uint64) (checkpoint, error) {
	if s != nil {
		d.log.adopt(s)
	}
	if flags := d.rec.flags.Load(); flags&^knownFlags != 0 {
		return checkpoint{}, fmt.Errorf("%w: flags %#x", ErrCorrupt, flags)
	}
	k, err := d.rec.latest()
	if err != nil {
		return k, err
	}
	if err := k.base.check(); err != nil {
		return k, err
	}
	d.base, d.head = k.base, k.base
	if k.base.fresh() {
		d.lastEnd = k.base.off
	}
	if s == nil && d.rec.has(over) {
		d.log.end = k.base.off // free has made this checkpoint
		return k, nil
	}
	head, err := d.committed()
	if err != nil {
		return k, err
	}
	if err := d.log.restore(k.base.off, head, d.limit+tail+retainedSlack); err != nil {
		return k, err
	}
	failpoint.Hit("recover.after-restore")
	return k, nil
}

// committed returns the committed offset. Where splice moves the log's file
// position, that is the commit, and the record's word follows it.
func (d *direction) committed() (uint64, error) {
	head := d.rec.head.Load()
	if !d.atPosition() || d.log.space == nil {
		return head, nil
	}
	at, err := d.port.position()
	if err == nil && at < head {
		err = fmt.Errorf("%w: %d bytes were counted, the file position is %d", ErrCorrupt, head, at)
	}
	return at, err
}

// atPosition reports whether the position of the log's file is what is committed:
// splice moves it. Sockets have a word for that.
func (d *direction) atPosition() bool { return d.port != nil && d.spliced }

// check refuses a place that no walk could have come to.
func (p *place) check() error {
	if p.num == 0 || p.st.n > mpLong || p.st.left > p.st.total || p.pay > p.off || p.num-1 > p.off {
		return fmt.Errorf("%w: a checkpoint at byte %d, message %d+%d", ErrCorrupt, p.off, p.num, p.pay)
	}
	return nil
}

// placeAt finds the place of an offset between a place and head.
func (d *direction) placeAt(what string, from place, off uint64) (place, error) {
	if off < from.off || off > d.head.off {
		return from, fmt.Errorf("%w: %s at byte %d, which is not between %d and %d", ErrCorrupt, what, off, from.off, d.head.off)
	}
	from.forward(d.cut, &d.log, off)
	if from.off != off {
		return from, fmt.Errorf("%w: %s at byte %d cannot be reached", ErrCorrupt, what, off)
	}
	return from, nil
}

func (in *Inbox) recover(s space) error {
	k, err := in.recoverLog(s, in.tail, flagEndClosed|flagLogGone)
	if err != nil {
		return err
	}
	if bad := in.countLocked(); bad != nil {
		in.badLocked(bad)
	}
	if s != nil {
		err = in.recoverAcked(k)
	} else {
		err = in.recoverWithout(k)
	}
	if err != nil {
		return err
	}
	if in.rec.has(flagReset) {
		in.desc.reset.Store(true)
	}
	switch gone := in.desc.isClosed(); {
	case in.end != nil:
	case in.rec.has(flagEnded):
		in.finishLocked(nil)
	case in.rec.has(flagAbandoned):
		in.abandonLocked("somebody held the other end, and it was given up")
	case !gone || in.rec.has(flagEndClosed):
	case in.desc.shared():
		in.finishLocked(nil)
	default:
		return fmt.Errorf("%w: the descriptor is missing of a direction that has not ended", ErrCorrupt)
	}
	return in.settle()
}

// recoverAcked finds what the consumer has acknowledged again, and what it was not
// told of.
func (in *Inbox) recoverAcked(k checkpoint) (err error) {
	acked := in.rec.acked.Load()
	if in.acked, err = in.placeAt("acknowledged", in.base, max(acked, k.acked)); err != nil {
		return err
	}
	in.drops = k.drops
	if acked <= k.acked {
		in.lost = k.lost // nothing was acknowledged since
	}
	return nil
}

// recoverWithout is for an inbox of which no log is left: what it had and was not
// acknowledged is dropped.
func (in *Inbox) recoverWithout(k checkpoint) error {
	in.acked, in.drops, in.lost = in.base, k.drops, k.lost
	if k.top.num == 0 { // there was no checkpoint
		return nil
	}
	if err := k.top.check(); err != nil {
		return err
	}
	if k.top.off < k.base.off || k.top.num < k.base.num {
		return fmt.Errorf("%w: a checkpoint at byte %d of %d", ErrCorrupt, k.base.off, k.top.off)
	}
	in.base, in.head, in.acked, in.log.end = k.top, k.top, k.top, k.top.off
	if k.cause.badBytes() {
		in.badLocked(&frameError{cause: k.cause, want: k.want, detail: k.cause.String()})
	}
	if k.top.off > k.base.off {
		in.drops.Messages += k.top.num - k.base.num
		in.drops.Bytes += k.top.off - k.base.off
		if in.lost == nil {
			from := k.base.position()
			in.lost = &from
		}
		in.checkpointLocked(in.acked)
	}
	return nil
}

// settle finishes or undoes the move from a socket that was under way: see
// receivePeeked for its order.
func (in *Inbox) settle() error {
	if in.port == nil || !in.desc.socket || in.desc.isClosed() {
		return nil
	}
	peeked, err := in.port.peeked()
	if err != nil {
		return err
	}
	head, moved := in.log.end, in.rec.moved.Load()
	switch {
	case moved > head:
		return fmt.Errorf("%w: %d bytes were taken out, %d committed", ErrCorrupt, moved, head)
	case moved == head:
		return in.port.unpeek() // looked at and not committed: it is still there
	case peeked <= 0:
		in.rec.moved.Store(head) // taken away, and not noted
		failpoint.Hit("recover.after-note")
		return nil
	case uint64(peeked) > head-moved:
		return fmt.Errorf("%w: %d bytes are to be taken out, %d were committed", ErrCorrupt, peeked, head-moved)
	}
	return in.consume(peeked)
}

func (o *Outbox) recover(s space) error {
	k, err := o.recoverLog(s, o.tail, flagTaken|flagBroken)
	if err != nil {
		return err
	}
	if bad := o.countLocked(); bad != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, bad)
	}
	given := k.base.off
	switch {
	case s == nil:
	case o.port == nil:
		given = o.rec.moved.Load()
	default:
		if given, err = o.port.position(); err != nil {
			return err
		}
	}
	if o.given, err = o.placeAt("handed over", k.base, given); err != nil {
		return err
	}
	o.read = o.base
	if s == nil && k.top.num != 0 {
		if err := k.top.check(); err != nil {
			return err
		}
		o.accepted = k.top
	}
	o.recoverUnfinished()
	if o.inputEnded() {
		o.unfinished, o.have, o.total = false, 0, 0
		o.rec.set(flagHalfClose | flagClosing)
	}
	switch {
	case o.rec.has(flagBroken):
		o.breakLocked(errBrokenBefore)
	case o.desc.isClosed() && !o.rec.has(flagTaken):
		o.breakLocked(errBrokenBefore)
	}
	if s == nil && o.end == nil && o.acceptedLocked().off != o.given.off { // dropped before
		o.discardLocked()
	}
	return nil
}

// recoverUnfinished finds out about the message of which only parts are there.
func (o *Outbox) recoverUnfinished() {
	top := o.acceptedLocked()
	if o.unfinished = !top.fresh() && !isRaw(o.cut); !o.unfinished {
		return
	}
	o.have, o.total = payloadPosition(top).Offset, top.total()
	if total := o.rec.acked.Load(); o.total == 0 && total > o.have {
		o.total = total // the framing does not write it
	}
}

// errBrokenBefore stands for the error that another process has seen.
var errBrokenBefore = errors.New("broken pipe")
