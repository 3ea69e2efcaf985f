package session

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
)

// A Pipe is two connected endpoints of a session.
type Pipe struct {
	name    string
	kind    pipe.Kind
	in, out pipe.Framing
	ends    [2]*Endpoint
	// incarnation is that of the process for which it is made anew, else 1.
	incarnation uint64
	order       int // among those of its session
}

// recordKey is its name, and its incarnation from the second on.
func (p *Pipe) recordKey() string { return incarnationKey(p.name, p.incarnation) }

// A making is what a pipe is made for.
type making struct {
	// sealed: end 1 stays the daemon's for ever.
	sealed bool
	// order is where the pipe stands among those of its session.
	order int
	// process is whose start it is made for; "" for none.
	process string
	request string
	digest  digest
	// terminal is how it begins, where the pipe is one.
	terminal pipe.TerminalSpec
	// incarnation is 0 for the first.
	incarnation uint64
}

// openPipe makes a pipe, and its record.
func (s *Session) openPipe(name string, spec *PipeSpec, kind pipe.Kind, m making) (*Pipe, error) {
	logSize := spec.LogSize
	if logSize == 0 {
		logSize = uint64(s.reg.config().LogSize) //nolint:gosec // validated
	}
	if err := s.openable(); err != nil {
		return nil, err
	}
	one, two, err := pipe.Open(s.reg.poller, pipe.Spec{
		Control: s.control, Vault: s.vault(),
		Kind: kind, In: spec.In, Out: spec.Out, LogSize: logSize,
		TailSize:   min(uint64(s.reg.config().TailSize), logSize), //nolint:gosec // validated
		MaxMessage: s.reg.config().MaxMessageSize, Overflow: spec.Overflow, Sealed: m.sealed, Terminal: m.terminal,
		Ended: func(end int, sent bool) { s.directionEnded(name, max(m.incarnation, 1), end, sent) },
	})
	if errors.Is(err, pipe.ErrClosed) { // its control file is
		return nil, fmt.Errorf("%w: %s was deleted", ErrSessionNotFound, s.name)
	}
	if err != nil {
		return nil, descriptorError(err)
	}
	p := &Pipe{name: name, kind: kind, in: withName(spec.In), out: withName(spec.Out), incarnation: max(m.incarnation, 1), order: m.order}
	for i, ep := range []*pipe.Endpoint{one, two} {
		p.ends[i] = &Endpoint{session: s, pipe: p, num: i + 1, ep: ep}
		if p.ends[i].ids, err = identity(ep); err == nil {
			err = s.reg.checkReserve(ep)
		}
		if err != nil {
			break
		}
	}
	if err == nil {
		err = s.put(prefixPipe+p.recordKey(), pipeRecord{Order: m.order, Slot: one.Slot(), Kind: kind, In: p.in, Out: p.out,
			Ends: [2][]keeper.End{p.ends[0].ids, p.ends[1].ids}, For: m.process, Request: m.request, Digest: m.digest[:], Incarnation: m.incarnation})
	}
	if err != nil {
		one.Close(true)
		two.Close(true)
		<-one.Closed()
		<-two.Closed()
		s.control.Release(one.Slot())
		return nil, err
	}
	return p, nil
}

// unmake closes a pipe that never became part of the session.
func (s *Session) unmake(p *Pipe) {
	p.close()
	p.wait()
	s.strike(prefixPipe + p.recordKey())
	s.control.Release(p.ends[0].ep.Slot())
}

// openable refuses a pipe of a session that was deleted.
func (s *Session) openable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.openableLocked()
}

func (s *Session) openableLocked() error {
	if s.gone {
		return fmt.Errorf("%w: %s was deleted", ErrSessionNotFound, s.name)
	}
	return nil
}

// vault returns where the session's descriptors are kept; nil where logs are in
// memory, because then nothing outlives the daemon.
func (s *Session) vault() pipe.Vault {
	if s.control == nil {
		return nil
	}
	return vault{s.account}
}

// withName gives the default framing its name.
func withName(f pipe.Framing) pipe.Framing {
	if f.Name == "" {
		f.Name = "line"
	}
	return f
}

// close closes both of the daemon's ends and drops what is queued.
func (p *Pipe) close() {
	for _, e := range p.ends {
		e.ep.Close(true)
	}
}

// wait returns when both of the daemon's descriptors are gone; after close.
func (p *Pipe) wait() {
	for _, e := range p.ends {
		<-e.ep.Closed()
	}
}

// over reports whether nothing can flow any more.
func (p *Pipe) over() bool {
	for _, e := range p.ends {
		if !e.ep.HungUp() {
			return false
		}
	}
	return true
}

// end returns endpoint 1 or 2; 0 means 1.
func (p *Pipe) end(n int) (*Endpoint, error) {
	if n == 0 {
		n = 1
	}
	if n != 1 && n != 2 {
		return nil, argument("end %d of pipe %q: want 1 or 2", n, p.name)
	}
	return p.ends[n-1], nil
}

// freeName returns name, or name with the lowest number behind it that taken
// does not know.
func freeName(name string, taken func(string) bool) string {
	for i := 2; taken(name); i++ {
		base := name
		if j := len(strconv.Itoa(i)) + 1; len(base)+j > maxName {
			base = base[:maxName-j]
		}
		if next := fmt.Sprintf("%s-%d", base, i); !taken(next) {
			return next
		}
	}
	return name
}

// identity returns what the keeper calls the descriptors of an end.
func identity(ep *pipe.Endpoint) ([]keeper.End, error) {
	r, w := ep.Descriptors()
	fds := []int{r}
	if w != r {
		fds = append(fds, w)
	}
	var ends []keeper.End
	for _, fd := range fds {
		if fd < 0 {
			continue
		}
		end, err := keeper.EndOf(fd)
		if errors.Is(err, keeper.ErrInvalid) {
			continue // the daemon's side of a terminal, of which nobody else gets a copy
		}
		if err != nil {
			return nil, err
		}
		ends = append(ends, end)
	}
	return ends, nil
}
