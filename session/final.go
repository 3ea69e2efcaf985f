package session

import (
	"slices"

	"github.com/piped-dev/piped/pipe"
)

// A Final is the last word about one direction of the daemon's end of a pipe.
type Final struct {
	Pipe string
	// Incarnation of the pipe.
	Incarnation uint64
	End         int
	// Sent: what was sent into the end; otherwise what came out of it.
	Sent bool
	Last pipe.End
	// AllRead: of what was sent, the other end has read everything; nil where that
	// is not known.
	AllRead *bool
}

// final returns the last word about a direction, or nil while it goes on and
// where there is none.
func (e *Endpoint) final(sent bool) *Final {
	f := &Final{Pipe: e.pipe.name, Incarnation: e.pipe.incarnation, End: e.num, Sent: sent}
	var last *pipe.End
	if sent {
		if out, err := e.ep.Outbox(); err == nil {
			last = out.End()
		}
	} else if in, err := e.ep.Inbox(); err == nil {
		last = in.End()
	}
	if last == nil {
		return nil
	}
	f.Last = *last
	if sent {
		if all, known := e.ep.AllRead(); known {
			f.AllRead = &all
		}
	}
	return f
}

// finals returns the last words about the pipes that the process was given.
// Ends that were handed over to processes are not the daemon's to speak of.
func (p *Process) finals(of func(e *Endpoint, sent bool) *Final) []Final {
	var all []Final
	var seen []*Endpoint
	for _, given := range p.given {
		e := given.pipe.ends[2-given.num]
		if slices.Contains(seen, e) || e.isHandedOver() {
			continue
		}
		seen = append(seen, e)
		for _, sent := range []bool{true, false} {
			if f := of(e, sent); f != nil {
				all = append(all, *f)
			}
		}
	}
	return all
}

func (e *Endpoint) isHandedOver() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.handedTo != ""
}

// directionEnded tells that a direction of a pipe has ended, and looks whether
// the session has. Of a pipe that is not part of the session yet announce will
// tell.
func (s *Session) directionEnded(pipeName string, incarnation uint64, end int, sent bool) {
	e, err := s.EndpointIn(pipeName, end, incarnation)
	if err != nil {
		return
	}
	e.tellFinal(sent)
	s.mu.Lock()
	some := len(s.former) > 0
	s.mu.Unlock()
	if some {
		s.reg.sweepSoon() // it may be one that gives its descriptors back then
	}
	if _, ended := s.Ended(); ended {
		s.reg.sweepSoon()
	}
}

// readerGone reports whether nobody is left to read what is sent into the end, so
// that what is known of it is final.
func (e *Endpoint) readerGone() bool {
	out, err := e.ep.Outbox()
	if err != nil {
		return false
	}
	_, write := e.ep.Descriptors()
	switch {
	case write < 0, out.Gone(): // of a closed one only what is final is known
		return true
	case out.Draining():
		return false
	case e.pipe.kind == pipe.Duplex: // a broken one may have been shut by a reader who reads what it has
		return e.ep.HungUp() && !e.ep.Closing()
	}
	end := out.End()
	return end != nil && end.Cause == pipe.CauseBrokenPipe
}

// announce lets the endpoints of a pipe tell what becomes of their directions,
// and what has become of them already.
func (p *Pipe) announce() {
	for _, e := range p.ends {
		e.mu.Lock()
		e.announced = true
		e.mu.Unlock()
	}
	p.tellFinals()
}

// tellFinals tells all of the pipe that has ended and was not told yet.
func (p *Pipe) tellFinals() {
	for _, e := range p.ends {
		e.tellFinal(true)
		e.tellFinal(false)
	}
}

// lasting is final for an event, which cannot be corrected: it does not say that
// something was left unread while whoever has the other end may yet read it.
func (e *Endpoint) lasting(sent bool) *Final {
	gone := sent && e.readerGone() // before the look, which is final then
	final := e.final(sent)
	if final != nil && final.AllRead != nil && !*final.AllRead && !gone {
		final.AllRead = nil
	}
	return final
}

// tellFinal tells, once, that a direction has ended, if it has.
func (e *Endpoint) tellFinal(sent bool) {
	final := e.lasting(sent)
	if final == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	told := &e.toldReceived
	if sent {
		told = &e.toldSent
	}
	if *told || !e.announced || e.handedTo != "" {
		return
	}
	*told = true
	e.session.tell(Event{Type: EventDirectionEnded, Pipe: e.pipe.name, Incarnation: e.pipe.incarnation, End: e.num, Final: final})
}
