package pipe

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/piped-dev/piped/failpoint"
	"golang.org/x/sys/unix"
)

// An Outbox is what clients sent into an endpoint: the direction from the
// clients to the kernel. After it is handed over the last TailSize bytes of it
// stay for observers.
type Outbox struct {
	direction
	desc *descriptor
	tail uint64
	// given is how far it was handed over to the kernel, read how far the other
	// end was last seen to have read that.
	given, read place
	// accepted is how far clients had sent when something of that was dropped; see
	// acceptedLocked.
	accepted place
	// hangup closes this direction alone once nothing is left to be handed over,
	// and is told whether everything was.
	hangup   func(handedOver bool)
	scratch  []byte
	draining bool // somebody is writing; only they move given
	// maybeGone: a hangup came while somebody was writing.
	maybeGone bool
	closing   bool
	discard   bool // drop what is left
	// discarded: something was dropped.
	discarded bool
	// lost: something that was accepted could not be handed over.
	lost bool
	// have and total are the payload bytes that are there and announced of the
	// unfinished message at head.
	unfinished  bool
	have, total uint64
	blocked     time.Time
	drainers    sync.WaitGroup
	flushed     chan struct{} // closed when closing and nothing is left
}

func newOutbox(desc *descriptor, f Framing, spec *Spec, rec *record, hangup func(handedOver bool)) (*Outbox, error) {
	o := &Outbox{desc: desc, tail: spec.TailSize, hangup: hangup, flushed: make(chan struct{})}
	if err := o.init(f, spec, desc, rec); err != nil {
		return nil, err
	}
	o.given, o.read = o.base, o.base
	return o, nil
}

// A Part is a message, or a part of one.
type Part struct {
	// Data is at most [DefaultPart] bytes of payload; it is copied.
	Data []byte
	// Offset of Data in the message; 0 begins a message.
	Offset uint64
	// Total payload size of the message, needed when More is set and the
	// framing writes the length first; 0 is unknown.
	Total uint64
	// More parts of the message will follow.
	More bool
}

// Append commits a part as a whole or not at all. It does not wait: ErrNoRoom
// means try again after a change ([Outbox.Watch]). Other errors: ErrClosed,
// ErrBrokenPipe, ErrMessage (the framing cannot carry it; later parts may still
// come), *TooLongError, *UnfinishedError, ErrNoSpace. Call [Outbox.Push] after the last of
// several.
func (o *Outbox) Append(p Part) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.refuseLocked(p); err != nil {
		return err
	}
	b := o.scratch[:0]
	size := uint64(len(p.Data))
	if p.Offset == 0 {
		b = o.cut.header(b, max(p.Total, size))
	}
	trailer := ""
	if !p.More {
		trailer = o.cut.trailer()
	}
	n := uint64(len(b)+len(trailer)) + size
	if queued := o.head.off - o.given.off; queued > 0 && queued+n > o.limit {
		return ErrNoRoom
	}
	o.scratch = b
	total := max(o.total, p.Total)
	if p.More && o.rec != nil {
		o.rec.acked.Store(total) // it counts with the part that makes the message unfinished
		failpoint.Hit("outbox.after-total")
	}
	if err := o.writeLocked(b, p.Data, trailer); err != nil {
		return err
	}
	o.have, o.total = o.have+size, total
	if o.unfinished = p.More; !p.More {
		o.have, o.total = 0, 0
	}
	if o.draining {
		o.wakeLocked() // Push leaves it to whoever drains, who may wait: observers do not
	}
	return o.countLocked()
}

// writeLocked commits what stands before the payload, the payload, and what
// stands behind it, or nothing.
func (o *Outbox) writeLocked(header, payload []byte, trailer string) error {
	for _, b := range [][]byte{header, payload, []byte(trailer)} {
		if err := o.log.write(b); err != nil {
			o.log.back(o.head.off)
			return err
		}
	}
	failpoint.Hit("outbox.after-copy")
	if o.rec != nil {
		o.rec.head.Store(o.log.end)
		failpoint.Hit("outbox.after-commit")
	}
	return nil
}

func (o *Outbox) refuseLocked(p Part) error {
	size := p.Offset + uint64(len(p.Data))
	isRaw := isRaw(o.cut)
	switch {
	case o.end != nil && o.end.Cause == CauseBrokenPipe:
		return ErrBrokenPipe
	case o.closing:
		return ErrClosed
	case p.More && len(p.Data) == 0:
		return fmt.Errorf("%w: a part that is not the last cannot be empty", ErrMessage)
	case isRaw && (p.More || p.Offset != 0):
		return fmt.Errorf("%w raw: it has no messages that could come in parts", ErrMessage)
	case !isRaw && p.Offset != o.have:
		return &UnfinishedError{Number: o.head.num, Have: o.have, Total: o.total}
	case !isRaw && max(size, p.Total) > o.framing.MaxMessage:
		return &TooLongError{Size: max(size, p.Total), Max: o.framing.MaxMessage}
	case o.cut.needsSize() && p.More && p.Offset == 0 && p.Total == 0:
		return fmt.Errorf("%w %s: the first part must tell the total size", ErrMessage, o.framing.Name)
	}
	total := max(o.total, p.Total)
	if p.Total != 0 && o.total != 0 && p.Total != o.total {
		return fmt.Errorf("%w: total size was %d before, now %d", ErrMessage, o.total, p.Total)
	}
	if total != 0 && (size > total || !p.More && size != total || p.More && size == total) {
		return fmt.Errorf("%w: %d of %d payload bytes do not fit together with more=%t", ErrMessage, size, total, p.More)
	}
	if err := o.cut.check(p.Data); err != nil || !o.desc.tty {
		return err
	}
	return o.refuseLineLocked(p.Data)
}

// Unfinished describes the message of which only parts are there, or is nil.
func (o *Outbox) Unfinished() *UnfinishedError {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.unfinished {
		return nil
	}
	return &UnfinishedError{Number: o.acceptedLocked().num, Have: o.have, Total: o.total}
}

// acceptedLocked is up to where clients have ever sent.
func (o *Outbox) acceptedLocked() *place {
	if o.accepted.off > o.head.off {
		return &o.accepted
	}
	return &o.head
}

// checkpointLocked keeps that the bytes from base on are retained.
func (o *Outbox) checkpointLocked(base place) {
	o.rec.checkpoint(checkpoint{base: base, top: *o.acceptedLocked()})
}

func (o *Outbox) brokenLocked() error {
	if o.end != nil && o.end.Cause == CauseBrokenPipe {
		return ErrBrokenPipe
	}
	return nil
}

// breakLocked ends the direction because nobody reads it any more.
func (o *Outbox) breakLocked(err error) {
	o.endLocked(&End{Cause: CauseBrokenPipe, Position: o.given.position(), Bytes: o.given.off,
		Detail: fmt.Sprintf("%v; not handed over: %s", err, o.amountLocked(&o.given, o.acceptedLocked()))})
	o.lost = o.given.off != o.acceptedLocked().off
	if errors.Is(err, unix.ECONNRESET) { // the kernel says so once, and not to the reader any more
		o.desc.reset.Store(true)
		o.rec.set(flagReset)
	}
	o.rec.set(flagBroken)
	failpoint.Hit("outbox.after-break")
	o.dropLocked()
	o.wakeLocked()
}

// dropLocked forgets what is not handed over. What was stays for observers, as
// far as it is retained.
func (o *Outbox) dropLocked() {
	o.sampleLocked() // for the last time that the kernel is certain to answer
	if o.accepted.off < o.head.off {
		o.accepted = o.head
	}
	o.head, o.blocked = o.given, time.Time{}
	o.lastEnd = o.lastEndLocked()
	o.log.back(o.given.off)
}

// lastEndLocked finds the end of the last complete message again.
func (o *Outbox) lastEndLocked() uint64 {
	end := uint64(0)
	if o.base.fresh() {
		end = o.base.off
	}
	for p := o.base; p.message(o.cut, &o.log, ^uint64(0), o.head.off, nil); {
		end = p.off
	}
	return end
}

// finishLocked closes the direction once it is closing and nothing is left.
func (o *Outbox) finishLocked() {
	if !o.closing || o.given.off != o.head.off || o.draining {
		return
	}
	select {
	case <-o.flushed:
		return
	default:
	}
	if o.end == nil {
		e := &End{Cause: CauseClosed, Position: o.head.position(), Bytes: o.head.off}
		if o.unfinished {
			e.Cause, e.Want, e.Got = CauseTruncated, o.total, o.have
			e.Detail = "closed inside an unfinished message"
		}
		o.endLocked(e)
	}
	o.rec.set(flagTaken) // before the descriptor is gone: that alone would be a broken pipe
	failpoint.Hit("outbox.after-taken")
	o.hangup(o.handedOverAllLocked())
	failpoint.Hit("outbox.after-hangup")
	close(o.flushed)
	o.wakeLocked()
}

// breakIfGone ends the direction when nobody reads any more. While a write is
// under way it is put off until that is done.
func (o *Outbox) breakIfGone() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.draining {
		o.maybeGone = true // the write may have been taken just before
		return
	}
	if o.end != nil || !o.desc.broken() {
		return
	}
	o.breakLocked(unix.EPIPE)
	o.finishLocked()
}

// abandon ends the direction because the other end is gone; false when a write
// is under way, which will find that out itself.
func (o *Outbox) abandon() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.draining {
		return false
	}
	if o.end == nil {
		o.breakLocked(unix.EPIPE)
	}
	o.closing = true
	o.rec.set(flagClosing)
	o.finishLocked()
	o.log.settle()
	return true
}

// retire gives the descriptor of the log back, after abandon. What observers can
// still look at does not outlive this process.
func (o *Outbox) retire() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.checkpointLocked(o.head)
	failpoint.Hit("outbox.after-shed")
	o.log.retire()
}

// free drops the log after close, when nobody drains.
func (o *Outbox) free() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.log.back(o.head.off)
	o.base, o.given = o.head, o.head
	o.checkpointLocked(o.base)
	failpoint.Hit("outbox.after-free")
	o.log.drop()
	o.rec = nil
}

// mark sets a flag of the record.
func (o *Outbox) mark(flag uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rec.set(flag)
}

// Close ends sending: what is queued is still handed over, unless discard, then
// the direction is closed; [Outbox.Flushed] tells when. It does not wait.
// Closing again may still discard.
func (o *Outbox) Close(discard bool) {
	o.mu.Lock()
	o.closing = true
	o.rec.set(flagClosing)
	failpoint.Hit("outbox.after-closing")
	o.wakeLocked()
	if discard {
		o.discard = true
		o.rec.set(flagDiscard)
		failpoint.Hit("outbox.after-discard")
		o.desc.interruptWrite()
		if !o.draining && o.given.off != o.head.off {
			o.discardLocked()
		}
	}
	o.mu.Unlock()
	_ = o.Push() // the end says whether it could be
}

// discardLocked ends the direction at what is handed over. Nobody may be
// draining: what the kernel has taken meanwhile counts as handed over.
func (o *Outbox) discardLocked() {
	e := &End{Cause: CauseClosed, Position: o.given.position(), Bytes: o.given.off,
		Detail: "discarded: " + o.amountLocked(&o.given, o.acceptedLocked())}
	if !o.given.fresh() {
		e.Cause = CauseTruncated
	}
	o.endLocked(e)
	o.discarded = true
	o.dropLocked()
}

// delivered reports whether everything that was accepted lies in the kernel; an
// error says that it never will.
func (o *Outbox) delivered() (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.brokenLocked(); err != nil {
		return false, err
	}
	if o.discarded {
		return false, ErrClosed
	}
	return o.given.off == o.head.off, nil
}

// handedOver reports whether everything that was ever accepted lies in the
// kernel.
func (o *Outbox) handedOver() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.handedOverAllLocked()
}

func (o *Outbox) handedOverAllLocked() bool {
	return !o.discarded && !o.lost && o.given.off == o.head.off
}

// Flushed is closed once the direction is closed.
func (o *Outbox) Flushed() <-chan struct{} { return o.flushed }

// An OutboxInfo is a look at an outbox. Bytes include framing.
type OutboxInfo struct {
	Messages, Bytes             uint64 // committed, also what was dropped later
	QueuedMessages, QueuedBytes uint64 // not handed over yet
	Committed, Delivered        Position
	// Accepted is the position of what is accepted next, counting what a break or a
	// discard has dropped: in raw the byte offset + 1.
	Accepted     Position
	BlockedSince time.Time // the other end does not read since then
	Closing      bool
	End          *End
}

// Info returns a look at the outbox.
func (o *Outbox) Info() OutboxInfo {
	o.mu.Lock()
	defer o.mu.Unlock()
	queued, bytes := o.queuedLocked(&o.given)
	accepted := o.acceptedLocked()
	return OutboxInfo{Messages: accepted.num - 1, Bytes: accepted.off, QueuedMessages: queued, QueuedBytes: bytes,
		Accepted: accepted.position(), Committed: o.head.position(), Delivered: payloadPosition(&o.given), BlockedSince: o.blocked, Closing: o.closing, End: o.end}
}
