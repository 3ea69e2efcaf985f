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
}

// openPipe makes a pipe. With sealed, end 1 stays the daemon's for ever.
func (s *Session) openPipe(name string, spec *PipeSpec, kind pipe.Kind, sealed bool) (*Pipe, error) {
	logSize := spec.LogSize
	if logSize == 0 {
		logSize = uint64(s.reg.cfg.LogSize) //nolint:gosec // validated
	}
	control, err := s.controlFile()
	if err != nil {
		return nil, err
	}
	one, two, err := pipe.Open(s.reg.poller, pipe.Spec{
		Control: control,
		Kind:    kind, In: spec.In, Out: spec.Out, LogSize: logSize,
		TailSize:   min(uint64(s.reg.cfg.TailSize), logSize), //nolint:gosec // validated
		MaxMessage: s.reg.cfg.MaxMessageSize, Overflow: spec.Overflow, Sealed: sealed,
		Ended: func(end int, sent bool) { s.directionEnded(name, end, sent) },
	})
	if errors.Is(err, pipe.ErrClosed) { // its control file is
		return nil, fmt.Errorf("%w: %s was deleted", ErrSessionNotFound, s.name)
	}
	if err != nil {
		return nil, descriptorError(err)
	}
	p := &Pipe{name: name, kind: kind, in: withName(spec.In), out: withName(spec.Out)}
	for i, ep := range []*pipe.Endpoint{one, two} {
		if p.ends[i], err = newEndpoint(s, p, i+1, ep); err == nil {
			err = s.reg.checkReserve(ep)
		}
		if err != nil {
			one.Close(true)
			two.Close(true)
			return nil, err
		}
	}
	return p, nil
}

// controlFile returns the file that keeps what has to outlive the daemon of the
// session's pipes, nil where logs are in memory.
func (s *Session) controlFile() (*pipe.Control, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil, fmt.Errorf("%w: %s was deleted", ErrSessionNotFound, s.name)
	}
	if !s.reg.cfg.KernelLogs {
		return nil, nil
	}
	if n := len(s.controls); n > 0 && s.controls[n-1].Descriptor() >= 0 {
		return s.controls[n-1], nil
	}
	control, err := pipe.NewControl()
	if err != nil {
		return nil, descriptorError(err)
	}
	s.controls = append(s.controls, control)
	return control, nil
}

// closeControl closes that file once the pipes are closed; after that none can be
// made.
func (s *Session) closeControl() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.controls {
		c.Close()
	}
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
		if err != nil {
			return nil, err
		}
		ends = append(ends, end)
	}
	return ends, nil
}
