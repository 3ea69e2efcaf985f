package pipe

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An Outbox is what clients sent into an endpoint: the direction from the
// clients to the kernel. Its base is what has been handed over.
type Outbox struct {
	direction
	desc *descriptor
	// hangup closes this direction alone once everything is handed over.
	hangup   func()
	scratch  []byte
	draining bool // somebody is writing; only they move base
	closing  bool
	discard  bool // drop what is left
	// discarded: something was dropped.
	discarded bool
	// have and total are the payload bytes that are there and announced of the
	// unfinished message at head.
	unfinished  bool
	have, total uint64
	blocked     time.Time
	drainers    sync.WaitGroup
	flushed     chan struct{} // closed when closing and nothing is left
}

func newOutbox(desc *descriptor, f Framing, spec *Spec, hangup func()) (*Outbox, error) {
	o := &Outbox{desc: desc, hangup: hangup, flushed: make(chan struct{})}
	if err := o.init(f, spec); err != nil {
		return nil, err
	}
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
// come), *TooLongError, *UnfinishedError. Call [Outbox.Push] after the last of
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
	if queued := o.head.off - o.base.off; queued > 0 && queued+n > o.limit {
		return ErrNoRoom
	}
	o.log.write(b)
	o.log.write(p.Data)
	o.log.write([]byte(trailer))
	o.scratch = b
	o.have, o.total = o.have+size, max(o.total, p.Total)
	if o.unfinished = p.More; !p.More {
		o.have, o.total = 0, 0
	}
	return o.countLocked()
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
	return o.cut.check(p.Data)
}

// Unfinished describes the message of which only parts are there, or is nil.
func (o *Outbox) Unfinished() *UnfinishedError {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.unfinished {
		return nil
	}
	return &UnfinishedError{Number: o.head.num, Have: o.have, Total: o.total}
}

// Push hands over what the kernel takes now; the rest goes on in the
// background. It returns ErrBrokenPipe when nobody reads any more: then what
// was not handed over is dropped.
func (o *Outbox) Push() error {
	o.mu.Lock()
	if o.draining || o.head.off == o.base.off || o.end != nil {
		err := o.brokenLocked()
		o.finishLocked()
		o.mu.Unlock()
		return err
	}
	o.draining = true
	vecs := o.vectorsLocked()
	o.mu.Unlock()
	for {
		n, err := o.desc.tryWrite(vecs)
		o.mu.Lock()
		vecs = o.handedOverLocked(vecs, n, err)
		if vecs == nil {
			err = o.brokenLocked()
			o.mu.Unlock()
			return err
		}
		if err == unix.EAGAIN {
			o.blocked = time.Now()
			o.drainers.Go(func() { o.drain(vecs) })
			o.mu.Unlock()
			return nil
		}
		o.mu.Unlock()
	}
}

// drain hands over what is queued, waiting for the kernel to take it.
func (o *Outbox) drain(vecs [][]byte) {
	for vecs != nil {
		n, err := o.desc.write(vecs)
		o.mu.Lock()
		if vecs = o.handedOverLocked(vecs, n, err); vecs != nil {
			o.blocked = time.Now()
		}
		o.mu.Unlock()
	}
}

// maxVectors bounds one writev; IOV_MAX is 1024.
const maxVectors = 64

func (o *Outbox) vectorsLocked() [][]byte {
	return o.log.vectors(make([][]byte, 0, 4), o.base.off, maxVectors)
}

// handedOverLocked notes what a write did, and returns what is to be written
// next; nil ends the draining.
func (o *Outbox) handedOverLocked(vecs [][]byte, n int, err error) [][]byte {
	if n > 0 {
		o.base.forward(o.cut, &o.log, o.base.off+uint64(n))
		o.log.release(o.base.off)
		o.blocked = time.Time{}
		o.wakeLocked()
	}
	again := err == nil || err == unix.EAGAIN
	switch {
	case again && !o.discard && o.base.off != o.head.off:
		if err != nil {
			return vecs
		}
		return o.vectorsLocked()
	case !again && !errors.Is(err, errStopped):
		o.breakLocked(err)
	case o.base.off != o.head.off:
		o.discardLocked()
	default:
		o.log.drop()
	}
	o.draining = false
	o.finishLocked()
	return nil
}

func (o *Outbox) brokenLocked() error {
	if o.end != nil && o.end.Cause == CauseBrokenPipe {
		return ErrBrokenPipe
	}
	return nil
}

// breakLocked ends the direction because nobody reads it any more.
func (o *Outbox) breakLocked(err error) {
	o.end = &End{Cause: CauseBrokenPipe, Position: o.base.position(), Bytes: o.base.off,
		Detail: fmt.Sprintf("%v; not handed over: %s", err, o.amountLocked(&o.base))}
	o.dropLocked()
	o.wakeLocked()
}

// dropLocked forgets what is not handed over.
func (o *Outbox) dropLocked() {
	o.head, o.lastEnd, o.blocked = o.base, o.base.off, time.Time{}
	o.log.drop()
}

// finishLocked closes the direction once it is closing and nothing is left.
func (o *Outbox) finishLocked() {
	if !o.closing || o.base.off != o.head.off || o.draining {
		return
	}
	select {
	case <-o.flushed:
		return
	default:
	}
	if o.end == nil {
		o.end = &End{Cause: CauseClosed, Position: o.head.position(), Bytes: o.head.off}
		if o.unfinished {
			o.end.Cause, o.end.Want, o.end.Got = CauseTruncated, o.total, o.have
			o.end.Detail = "closed inside an unfinished message"
		}
	}
	o.hangup()
	close(o.flushed)
	o.wakeLocked()
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
	o.finishLocked()
	return true
}

// Close ends sending: what is queued is still handed over, unless discard, then
// the direction is closed; [Outbox.Flushed] tells when. It does not wait.
// Closing again may still discard.
func (o *Outbox) Close(discard bool) {
	o.mu.Lock()
	o.closing = true
	o.wakeLocked()
	if discard {
		o.discard = true
		o.desc.interruptWrite()
		if !o.draining && o.base.off != o.head.off {
			o.discardLocked()
		}
	}
	o.mu.Unlock()
	_ = o.Push() // the end says whether it could be
}

// discardLocked ends the direction at what is handed over. Nobody may be
// draining: what the kernel has taken meanwhile counts as handed over.
func (o *Outbox) discardLocked() {
	o.end = &End{Cause: CauseClosed, Position: o.base.position(), Bytes: o.base.off,
		Detail: "discarded: " + o.amountLocked(&o.base)}
	if !o.base.fresh() {
		o.end.Cause = CauseTruncated
	}
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
	return o.base.off == o.head.off, nil
}

// Flushed is closed once the direction is closed.
func (o *Outbox) Flushed() <-chan struct{} { return o.flushed }

// An OutboxInfo is a look at an outbox. Bytes include framing.
type OutboxInfo struct {
	Messages, Bytes             uint64 // committed
	QueuedMessages, QueuedBytes uint64 // not handed over yet
	Committed, Delivered        Position
	BlockedSince                time.Time // the other end does not read since then
	Closing                     bool
	End                         *End
}

// Info returns a look at the outbox.
func (o *Outbox) Info() OutboxInfo {
	o.mu.Lock()
	defer o.mu.Unlock()
	queued, bytes := o.queuedLocked(&o.base)
	delivered := o.base.position()
	if o.base.st.held {
		delivered.Offset++ // a carriage return that may yet be payload
	}
	return OutboxInfo{Messages: o.head.num - 1, Bytes: o.head.off, QueuedMessages: queued, QueuedBytes: bytes,
		Committed: o.head.position(), Delivered: delivered, BlockedSince: o.blocked, Closing: o.closing, End: o.end}
}
