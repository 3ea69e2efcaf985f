package pipe

import (
	"errors"
	"io"
	"time"

	"github.com/piped-dev/piped/failpoint"
	"golang.org/x/sys/unix"
)

// Push hands over what the kernel takes now; the rest goes on in the
// background. It returns ErrBrokenPipe when nobody reads any more: then what
// was not handed over is dropped.
func (o *Outbox) Push() error {
	o.mu.Lock()
	if o.draining || o.head.off == o.given.off || o.end != nil {
		err := o.brokenLocked()
		o.finishLocked()
		o.mu.Unlock()
		return err
	}
	o.draining = true
	o.wakeLocked() // observers see it before it is handed over
	run := o.runLocked()
	o.mu.Unlock()
	for {
		n, err := o.hand(run)
		o.mu.Lock()
		more := o.handedOverLocked(&run, n, err)
		if !more {
			err = o.brokenLocked()
			o.mu.Unlock()
			return err
		}
		if err == unix.EAGAIN || scarce(err) {
			o.blocked = time.Now()
			o.drainers.Go(func() { o.drain(run) })
			o.mu.Unlock()
			return nil
		}
		o.mu.Unlock()
	}
}

// drain hands over what is queued, waiting for the kernel to take it.
func (o *Outbox) drain(run run) {
	for more := true; more; {
		n, err := o.desc.whenWritable(func() (int, error) { return o.hand(run) })
		if scarce(err) && !o.waitSpace() {
			err = errStopped
		}
		o.mu.Lock()
		if more = o.handedOverLocked(&run, n, err); more {
			o.blocked = time.Now()
		}
		o.mu.Unlock()
	}
}

// scarce says that the kernel has no memory for a call just now. Nothing has moved,
// and the other end is there.
func scarce(err error) bool { return err == unix.ENOMEM || err == unix.ENOBUFS }

// waitSpace waits until it may pay to ask for memory again; false when nothing is
// to be handed over any more.
func (o *Outbox) waitSpace() bool {
	timer := time.NewTimer(spaceAgain)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-o.desc.stopWrite.ch:
		return false
	}
}

// A run is what is handed over next: always everything that is committed. A
// kernel pipe has few places, and each call fills at least one, however little
// it brings.
type run struct {
	n    int
	vecs [][]byte // plain moves only
}

// maxVectors bounds one writev; IOV_MAX is 1024.
const maxVectors = 64

// maxRun bounds one call, so that what was handed over is noted now and then.
const maxRun = 1 << 20

func (o *Outbox) runLocked() run {
	if o.port != nil {
		return run{n: int(min(o.head.off-o.given.off, maxRun))}
	}
	return run{vecs: o.log.vectors(make([][]byte, 0, 4), o.given.off, maxVectors)}
}

// hand hands over without waiting; unix.EAGAIN when the kernel takes nothing.
// Only whoever drains calls it.
//
// The exact move is sendfile: the kernel takes the bytes and moves the log's file
// position in one call, so that whoever comes after a kill goes on behind them.
func (o *Outbox) hand(r run) (int, error) {
	if o.desc.tty && o.desc.broken() {
		return 0, unix.EPIPE // the kernel would take it, for nobody
	}
	if o.port == nil {
		return o.desc.tryWrite(r.vecs)
	}
	n, err := o.port.sendfile(r.n)
	failpoint.Hit("outbox.after-sendfile")
	if n == 0 && err == nil { // the file has what is committed, and the call moves at least a byte
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// handedOverLocked notes what a call did, and says what is to be handed over
// next; false ends the draining.
func (o *Outbox) handedOverLocked(r *run, n int, err error) bool {
	if n > 0 {
		o.given.forward(o.cut, &o.log, o.given.off+uint64(n))
		if o.rec != nil {
			o.rec.moved.Store(o.given.off) // what counts where the file position does not
			failpoint.Hit("outbox.after-note")
		}
		o.releaseLocked()
		o.blocked = time.Time{}
		o.wakeLocked()
	}
	again := err == nil || err == unix.EAGAIN || scarce(err)
	switch {
	case again && !o.discard && o.given.off != o.head.off:
		if err == nil {
			*r = o.runLocked()
		}
		return true
	case !again && !errors.Is(err, errStopped):
		o.breakLocked(err)
	case o.given.off != o.head.off:
		o.discardLocked()
	}
	o.draining = false
	if o.maybeGone {
		o.maybeGone = false
		o.desc.poller.news.say(o.breakIfGone)
	}
	o.finishLocked()
	return false
}

// releaseLocked gives back what was handed over, but for the tail and for what
// the other end has not read from a pipe: numbers are found in those bytes. The
// pages of that are the kernel's own anyway.
func (o *Outbox) releaseLocked() {
	keep := o.given.off - min(o.tail, o.given.off)
	if o.log.releasable(keep) <= o.base.off {
		return
	}
	if !o.desc.socket && !o.desc.tty {
		o.sampleLocked()
		keep = min(keep, o.read.off)
	}
	if to := o.log.releasable(keep); to > o.base.off {
		o.base.forward(o.cut, &o.log, to)
		o.checkpointLocked(o.base)
		o.log.release(to)
	}
}

// sampleLocked asks the kernel how far the other end has read. A pipe says how
// many bytes it still holds; a socket only whether it holds any, and none are
// left either when the other end went away without reading them.
func (o *Outbox) sampleLocked() {
	left := o.desc.unread()
	switch {
	case left < 0 || o.given.off == o.read.off:
	case !o.desc.socket:
		if to := o.given.off - min(uint64(left), o.given.off); to > o.read.off && o.read.off >= o.base.off {
			o.read.forward(o.cut, &o.log, to)
		}
	case left == 0 && o.desc.keptUnread():
		o.read = o.given
	}
}

// Read returns the position below which the other end has read everything that
// was sent. It asks the kernel, which tells nobody when that changes. Once the
// descriptor is closed the answer stays what it was.
func (o *Outbox) Read() Position {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-o.flushed:
	default:
		o.sampleLocked()
	}
	return payloadPosition(&o.read)
}

// Draining reports whether something is being handed over right now: the other end
// may have it, and may have read it, before it is noted here.
func (o *Outbox) Draining() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.draining
}

// Gone reports whether nobody holds the reading side any more. It consumes
// nothing. Once the descriptor is closed that cannot be known, and it is false; so
// it is while something is being handed over, see [Outbox.Draining].
func (o *Outbox) Gone() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.draining {
		return false
	}
	select {
	case <-o.flushed:
		return false
	default:
		return o.desc.ready(unix.POLLOUT)&(unix.POLLERR|unix.POLLHUP) != 0
	}
}

// payloadPosition is the position of a place in payload bytes as they were sent:
// a carriage return of which it is open whether it belongs to the line end counts.
func payloadPosition(p *place) Position {
	at := p.position()
	if p.st.held {
		at.Offset++
	}
	return at
}
