//go:build failpoints

package pipe

import (
	"github.com/piped-dev/piped/failpoint"
	"golang.org/x/sys/unix"
)

var errAgain error = unix.EAGAIN

// settled checks what must be true whenever the daemon waits.
func (s *sim) settled() {
	if s.send {
		s.settledOut()
	} else {
		s.settledIn()
	}
}

func (s *sim) settledIn() {
	in, k := s.in, s.k
	switch {
	case in.log.end != k.taken || k.peek != 0 && s.mutant == "":
		bad("%d bytes are committed, %d were taken out, the peek offset is %d", in.log.end, k.taken, k.peek)
	case in.head.off != in.log.end:
		bad("head is %d, %d bytes are committed", in.head.off, in.log.end)
	case in.acked.off < s.told || !s.drop && in.acked.off > s.tried:
		bad("acknowledged up to %d; %d was told, %d was tried", in.acked.off, s.told, s.tried)
	case in.drops.Bytes > in.acked.off, s.drop && in.drops.Bytes != in.acked.off:
		bad("dropped %d of %d bytes", in.drops.Bytes, in.acked.off)
	case s.drop && in.drops.Messages != in.acked.num-1:
		bad("dropped %d of %d messages", in.drops.Messages, in.acked.num-1)
	case s.drop && in.drops.Bytes > 0 && (in.lost == nil || *in.lost != Position{Message: 1}):
		bad("what was dropped begins at %v", in.lost)
	}
	if !in.tailOpen {
		s.numbered("head", &in.head)
		s.numbered("acknowledged", &in.acked)
	}
	s.retained(&in.direction)
}

func (s *sim) settledOut() {
	o, k := s.out, s.k
	if o.head.off != s.told && o.head.off == s.tried {
		s.told = s.tried // the answer was lost with the daemon
	}
	switch {
	case o.end != nil && k.closed:
		return
	case o.given.off != k.put:
		bad("%d bytes were handed over, %d are counted", k.put, o.given.off)
	case o.head.off != s.told:
		bad("%d bytes were accepted, the outbox has %d", s.told, o.head.off)
	}
	s.tried = s.told
	s.numbered("head", &o.head)
	s.numbered("handed over", &o.given)
	s.retained(&o.direction)
}

// numbered checks that a place has the number that its offset has.
func (s *sim) numbered(what string, p *place) {
	if p.num != simLines(p.off)+1 || p.pay != p.off%simLine {
		bad("%s: byte %d is message %d+%d", what, p.off, p.num, p.pay)
	}
}

// retained checks the bytes that are there.
func (s *sim) retained(d *direction) {
	s.numbered("base", &d.base)
	if d.base.off < s.k.punched {
		bad("retained from %d on, released up to %d", d.base.off, s.k.punched)
	}
	if got, want := s.k.memory[d.base.off:d.head.off], simPattern[d.base.off:d.head.off]; string(got) != string(want) {
		bad("bytes %d to %d are not what was sent", d.base.off, d.head.off)
	}
}

// finish brings everything to its end.
func (s *sim) finish() {
	if s.send {
		s.finishOut()
	} else {
		s.finishIn()
	}
}

func (s *sim) finishIn() {
	in, k := s.in, s.k
	if !k.closed {
		k.hangup(false)
	}
	for range 100 {
		if in.end != nil {
			break
		}
		s.move()
		if in.end != nil {
			break
		}
		s.settled()
		if !s.drop && in.fullLocked() {
			s.tried = in.head.off
			if err := in.Ack(in.head.position()); err != nil {
				bad("acknowledging: %w", err)
			}
		}
	}
	want := CauseClosed
	if k.everReset {
		want = CauseReset
	}
	switch {
	case in.end == nil:
		bad("it never ends")
	case in.head.off != k.put || k.queued() != 0 || in.end.Bytes != k.put:
		bad("received %d of %d bytes, %d are queued, the end is at %d", in.head.off, k.put, k.queued(), in.end.Bytes)
	case in.end.Cause != want:
		bad("it ended as %v, want %v", in.end.Cause, want)
	}
	s.retained(&in.direction)
}

func (s *sim) finishOut() {
	o, k := s.out, s.k
	if k.closed {
		return
	}
	for range 100 {
		s.move()
		s.process(stepThree)
		s.settled()
	}
	if s.read != s.told || o.given.off != s.told {
		bad("the process has read %d of %d bytes", s.read, s.told)
	}
}

// receivePublishingLast is receivePeeked in a wrong order.
func receivePublishingLast(in *Inbox) error {
	if !in.desc.socket {
		return in.receive()
	}
	readable, reset := in.port.ready()
	if !readable {
		return unix.EAGAIN
	}
	if reset {
		in.rec.set(flagReset)
	}
	b, err := in.reserve()
	if err != nil {
		return err
	}
	n, err := in.port.peek(b)
	if err == unix.EAGAIN {
		return err
	}
	if err := in.consume(n); err != nil {
		return err
	}
	in.filled(n, err)
	in.rec.moved.Store(in.log.end)
	return nil
}

// receiveWithoutNote is receivePeeked without its last store.
func receiveWithoutNote(in *Inbox) error {
	moved := in.rec.moved.Load()
	err := in.receive()
	in.rec.moved.Store(moved)
	failpoint.Hit("inbox.never-noted")
	return err
}

// ackReleasingFirst is an acknowledgement that releases before it checkpoints.
func ackReleasingFirst(in *Inbox, p place) {
	if p.off <= in.acked.off {
		return
	}
	in.acked = p
	in.rec.acked.Store(p.off)
	if to := in.log.releasable(p.off - min(in.tail, p.off)); to > in.base.off {
		in.base.forward(in.cut, &in.log, to)
		in.log.release(to)
		in.checkpointLocked(p)
	}
}
