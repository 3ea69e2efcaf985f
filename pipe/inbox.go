package pipe

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/piped-dev/piped/failpoint"
	"golang.org/x/sys/unix"
)

// An Inbox is what came out of an endpoint: the direction from the kernel to
// the clients. Bytes stay until the consumer acknowledges them; after that the
// last TailSize of them stay for observers.
type Inbox struct {
	direction
	// moving is held while bytes move from the kernel into the log: whoever has it
	// sees them in one of the two, not in both and not in neither. Take it before
	// mu.
	moving sync.Mutex
	desc   *descriptor
	tail   uint64
	drop   bool // overflow drops the oldest instead of stopping

	// acked is the consumer's obligation: everything from here on is kept.
	acked      place
	drops      Drops
	lost       *Position // where what was dropped begins, until something behind it is acknowledged
	blocked    time.Time
	starved    bool          // the log could not grow when it last had to
	room       chan struct{} // cap 1: the filler waits for space
	consumer   *Cursor       // the latest one; it alone may want
	wants      *Cursor       // shared: the consumer that waits for a message
	unwanted   chan struct{} // shared: closed when nobody wants any more
	filling    bool          // shared: a filler runs
	hangup     bool          // its end is that of a terminal
	local      bool          // the log's file was given back: its bytes are this process's alone
	fillers    sync.WaitGroup
	endWasRead bool
	// abandoned: what comes is thrown away, so much by now; wasted: nothing comes any
	// more.
	abandoned, wasted bool
	thrown            uint64
}

// Drops counts what was dropped by policy. A message that was dropped from the
// middle of the log on counts when its end is dropped.
type Drops struct{ Messages, Bytes uint64 }

func newInbox(desc *descriptor, f Framing, spec *Spec, rec *record) (*Inbox, error) {
	in := &Inbox{desc: desc, tail: spec.TailSize, drop: spec.Overflow == DropOldest, room: make(chan struct{}, 1)}
	if err := in.init(f, spec, desc, rec); err != nil {
		return nil, err
	}
	in.acked.num = 1
	in.spliced = !desc.socket
	return in, nil
}

// waitRoom blocks while the log is full; false when the inbox is closed.
func (in *Inbox) waitRoom() bool {
	for {
		in.mu.Lock()
		room, closed := in.abandoned || in.roomLocked(), in.closed
		in.mu.Unlock()
		if room || closed {
			return !closed
		}
		select {
		case <-in.room:
		case <-in.desc.stopRead.ch:
			return false
		}
	}
}

// roomLocked reports whether the log takes more, after dropping where that is
// the policy.
func (in *Inbox) roomLocked() bool {
	if in.drop && in.fullLocked() {
		in.dropOldestLocked()
	}
	switch {
	case !in.fullLocked():
		if !in.starved {
			in.blocked = time.Time{}
		}
		return true
	case in.blocked.IsZero():
		in.blocked = time.Now()
	}
	return false
}

func (in *Inbox) fullLocked() bool { return in.head.off-in.acked.off >= in.limit }

func (in *Inbox) reserve() ([]byte, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.reserveLocked()
}

// reserveLocked returns space to read into; the log must not be full.
func (in *Inbox) reserveLocked() ([]byte, error) {
	b, err := in.log.reserve()
	room := in.limit - (in.head.off - in.acked.off)
	return b[:min(uint64(len(b)), room)], err
}

// filled commits n bytes that are in reserved space, or the end that err or
// n == 0 means.
func (in *Inbox) filled(n int, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.filledLocked(n, err)
}

func (in *Inbox) filledLocked(n int, err error) {
	if in.closed {
		return
	}
	if n > 0 {
		if in.starved {
			in.starved, in.blocked = false, time.Time{}
		}
		in.log.commit(n)
		if in.rec != nil {
			in.rec.head.Store(in.log.end) // the commit, but for splice
		}
		if ferr := in.countLocked(); ferr != nil {
			in.badLocked(ferr)
		}
	} else {
		in.rec.set(flagEnded)
		failpoint.Hit("inbox.after-end")
		in.finishLocked(err)
	}
	in.wakeLocked()
}

// badLocked ends the direction at bytes that cannot be a frame.
func (in *Inbox) badLocked(err error) {
	e := &End{Cause: CauseBadFrame, Position: in.head.position(), Bytes: in.head.off, Detail: err.Error()}
	if fe, ok := errors.AsType[*frameError](err); ok {
		e.Cause, e.Want = fe.cause, fe.want
	}
	in.desc.ended.Store(true) // nobody receives a reset any more: it stays to be seen
	in.endLocked(e)
}

// finishLocked ends the direction at end of file, or at a reset (ECONNRESET:
// the other end went with input unread; all its output has come before it).
func (in *Inbox) finishLocked(err error) {
	e := &End{Cause: CauseClosed, Bytes: in.head.off}
	if err == nil && (in.rec.has(flagReset) || in.desc.reset.Load()) {
		err = unix.ECONNRESET // an earlier look or a send has seen it, this look cannot any more
	}
	switch {
	case err == nil && in.hangup:
		e.Detail = "hangup"
	case err == nil:
	case errors.Is(err, unix.ECONNRESET):
		in.desc.reset.Store(true)
		in.rec.set(flagReset)
		e.Cause, e.Detail = CauseReset, "the other end closed with input unread"
	default:
		e.Cause, e.Detail = CauseReset, err.Error()
	}
	if !in.head.fresh() {
		if in.cut.open() {
			in.finishPartialLocked()
		} else {
			e.Cause, e.Want, e.Got = CauseTruncated, in.head.total(), in.head.pay
			e.Detail = truncation(&in.head)
		}
	}
	e.Position = in.head.position()
	in.desc.ended.Store(true)
	in.endLocked(e)
}

// finishPartialLocked makes the unfinished line at the end a message.
func (in *Inbox) finishPartialLocked() {
	nothingLeft := in.acked.off == in.head.off
	in.tailOpen = true
	in.head = place{off: in.head.off, num: in.head.num + 1}
	if nothingLeft {
		in.acked = in.head
	}
}

func truncation(p *place) string {
	if p.st.body {
		return fmt.Sprintf("end of file after %d of %d payload bytes", p.pay, p.st.total)
	}
	return fmt.Sprintf("end of file after %d header bytes", p.st.n)
}

// Ack says that the consumer has everything below to, which must not lie
// behind what has arrived (ErrPosition). Acknowledging again is harmless.
func (in *Inbox) Ack(to Position) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if at := in.acked.position(); !at.Before(to) {
		if at == to {
			in.lost = nil
		}
		return nil
	}
	p, ok := in.recoverLocked(in.acked, to)
	if !ok {
		return fmt.Errorf("%w: cannot acknowledge %v, %v is next to come", ErrPosition, to, in.head.position())
	}
	in.lost = nil
	in.releaseLocked(p)
	return nil
}

// releaseLocked frees what lies before p, but for the tail.
func (in *Inbox) releaseLocked(p place) {
	in.acked = p
	if in.rec != nil {
		in.rec.acked.Store(p.off)
		failpoint.Hit("inbox.after-ack")
	}
	if in.local {
		in.checkpointLocked(p)
	}
	if to := in.log.releasable(p.off - min(in.tail, p.off)); to > in.base.off {
		in.base.forward(in.cut, &in.log, to)
		in.checkpointLocked(p)
		in.log.release(to)
	}
	select {
	case in.room <- struct{}{}:
	default:
	}
}

// dropOldestLocked makes room for a page by dropping messages from the oldest
// unacknowledged on: at message ends, so that numbers do not shift; only a
// message that alone fills the log is dropped in the middle.
func (in *Inbox) dropOldestLocked() {
	to := min(in.acked.off+min(in.limit/4, maxStep), in.head.off)
	p := in.acked
	if in.lost == nil {
		from := p.position()
		in.lost = &from
	}
	for p.off < to {
		if p.off >= in.lastEnd {
			p.forward(in.cut, &in.log, to)
			break
		}
		p.message(in.cut, &in.log, ^uint64(0), in.head.off, nil)
	}
	in.drops.Messages += p.num - in.acked.num
	in.drops.Bytes += p.off - in.acked.off
	in.checkpointLocked(p) // the drop and its count in one
	failpoint.Hit("inbox.after-drop")
	in.releaseLocked(p)
	in.wakeLocked()
}

// checkpointLocked keeps what cannot be found in the bytes from base on, with
// acked as the consumer's place.
func (in *Inbox) checkpointLocked(acked place) {
	k := checkpoint{base: in.base, acked: acked.off, drops: in.drops, lost: in.lost, top: in.head}
	if in.local {
		k.base = acked
	}
	if in.end != nil && in.end.Cause.badBytes() {
		k.cause, k.want = in.end.Cause, in.end.Want
	}
	in.rec.checkpoint(k)
}

// close ends receiving: readers get ErrClosed, the descriptor is not read any
// more. The caller interrupts the descriptor and joins the fillers.
func (in *Inbox) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.rec.set(flagEndClosed)
	failpoint.Hit("inbox.after-close")
	if in.end == nil {
		in.endLocked(&End{Cause: CauseEndpointClosed, Position: in.head.position(), Bytes: in.head.off})
	}
	in.wakeLocked()
}

// wontGrow says that nobody fills any more: a log that was not made will not be.
func (in *Inbox) wontGrow() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.log.settle()
}

// retire gives the descriptor of the log back, once the direction has ended and
// nobody fills. From then on only the checkpoint says what there was.
func (in *Inbox) retire() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.log.space == nil || in.local {
		return
	}
	in.local = true
	in.checkpointLocked(in.acked)
	in.rec.set(flagLogGone)
	failpoint.Hit("inbox.after-shed")
	in.log.retire()
}

// free drops the log; after close, when nobody fills.
func (in *Inbox) free() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.log.end = in.head.off
	in.base, in.acked = in.head, in.head
	in.checkpointLocked(in.acked) // the log need not be kept
	failpoint.Hit("inbox.after-free")
	in.log.drop()
	in.lastEnd, in.tailOpen = in.head.off, false
	in.rec = nil
}

// An InboxInfo is a look at an inbox. Bytes include framing.
type InboxInfo struct {
	Messages, Bytes             uint64 // arrived
	QueuedMessages, QueuedBytes uint64 // not acknowledged
	Drops                       Drops
	BlockedSince                time.Time // the log is full since then
	// Thrown is what came after the direction was abandoned, since this process began.
	Thrown uint64
	End    *End
}

// Info returns a look at the inbox.
func (in *Inbox) Info() InboxInfo {
	in.mu.Lock()
	defer in.mu.Unlock()
	queued, bytes := in.queuedLocked(&in.acked)
	return InboxInfo{Messages: in.head.num - 1, Bytes: in.head.off, QueuedMessages: queued, QueuedBytes: bytes,
		Drops: in.drops, BlockedSince: in.blocked, Thrown: in.thrown, End: in.end}
}

// Acked returns the first position that is not acknowledged.
func (in *Inbox) Acked() Position {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.acked.position()
}

// Readiness is what a receive would find.
type Readiness struct {
	// Message: a whole message, or a part of a large one. Data: bytes, possibly
	// less. End: the direction has ended, or will after the bytes that are
	// there.
	Message, Data, End bool
}

// Any reports whether a receive would not block for ever.
func (r Readiness) Any() bool { return r.Message || r.Data || r.End }

// Ready looks, consuming nothing: at what is not acknowledged yet, and at the
// kernel. It returns ErrClosed after close.
func (in *Inbox) Ready() (Readiness, error) {
	in.moving.Lock()
	defer in.moving.Unlock()
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return Readiness{}, ErrClosed
	}
	c := Cursor{d: &in.direction, in: in, at: in.acked}
	r := Readiness{Message: c.availableLocked(), Data: in.head.off > in.acked.off, End: in.end != nil}
	if in.end == nil {
		// A socket that was hung up polls readable for ever, so count bytes.
		n, err := unix.IoctlGetInt(in.desc.fd(), unix.TIOCINQ)
		r.Data = r.Data || err == nil && n > 0
		ev := in.desc.ready(unix.POLLIN | unix.POLLRDHUP)
		r.End = r.End || ev&(unix.POLLHUP|unix.POLLRDHUP|unix.POLLERR) != 0
	}
	return r, nil
}

// EndRead reports, once, that the end has not been read by a unary call yet:
// the first such call gets the cause, all later ones plain end of file.
func (in *Inbox) EndRead() (first bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	first = !in.endWasRead
	in.endWasRead = true
	return first
}
