package session

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
)

// ErrNoTerminal says that a process or a pipe has no terminal.
var ErrNoTerminal = errors.New("no terminal")

// A TerminalSpec says how the terminal of a process begins. What is nil or zero is
// open: a terminal for input and output edits lines and echoes, one for the output
// alone does neither.
type TerminalSpec struct {
	// Size is 24 rows of 80 columns where both are 0.
	Size pipe.WindowSize
	Raw  *bool `json:",omitzero"`
	Echo *bool `json:",omitzero"`
	// Name is the variable TERM, unless the process's own environment has one.
	Name string `json:",omitempty"`
}

// The names of terminals where none is asked for: what can be typed into is
// taken for the emulator that everybody has; where nobody can answer, escape
// sequences are of no use.
const (
	interactiveName = "xterm-256color"
	outputName      = "dumb"
	maxTerminalName = 64
)

const defaultRows, defaultColumns = 24, 80

// hasTerminal reports whether any standard stream is one.
func (s *ProcessSpec) hasTerminal() bool {
	return s.Stdin == StdioTerminal || s.Stdout == StdioTerminal || s.Stderr == StdioTerminal
}

// checkTerminal refuses streams that cannot be terminals together, and framings
// that a terminal would tear.
func (s *ProcessSpec) checkTerminal() error {
	if !s.hasTerminal() {
		if s.Terminal != nil {
			return argument("a terminal is described, and no standard stream is one: make stdin and stdout a terminal, or stdout alone")
		}
		return nil
	}
	if s.Stdout != StdioTerminal {
		return argument("%s is a terminal and stdout is not: make stdout one too; for its output alone, make stdout one and stdin a pipe",
			streams[slices.Index([]StdioMode{s.Stdin, s.Stdout, s.Stderr}, StdioTerminal)])
	}
	check := func(what string, f pipe.Framing) error {
		if f.Name != "" && f.Name != "raw" && f.Name != "line" {
			return argument("framing %q on a terminal, %s: it changes bytes; want raw or line", f.Name, what)
		}
		return nil
	}
	if err := check("output", s.Stdio.Out); err != nil {
		return err
	}
	if s.Stdin == StdioTerminal {
		if err := check("input", s.Stdio.In); err != nil {
			return err
		}
	}
	if t := s.Terminal; t != nil {
		if len(t.Name) > maxTerminalName || strings.ContainsFunc(t.Name, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return argument("terminal name %q: want up to %d printable characters, as xterm", t.Name, maxTerminalName)
		}
		if (t.Size.Rows == 0) != (t.Size.Columns == 0) {
			return argument("terminal of %d rows and %d columns: give both, or neither for %d and %d", t.Size.Rows, t.Size.Columns, defaultRows, defaultColumns)
		}
	}
	return nil
}

// kind returns the kind of the pipe of stdin and stdout; 0: there is none.
func (s *ProcessSpec) kind() pipe.Kind {
	switch {
	case s.Stdout == StdioTerminal && s.Stdin == StdioTerminal:
		return pipe.Terminal
	case s.Stdout == StdioTerminal && s.Stdin == StdioPipe:
		return pipe.TerminalOut
	case s.Stdout == StdioTerminal:
		return pipe.TerminalOutOnly
	case s.Stdin == StdioNull && s.Stdout == StdioNull:
		return 0
	case s.Stdin == StdioNull:
		return pipe.StdoutOnly
	case s.Stdout == StdioNull:
		return pipe.StdinOnly
	}
	return pipe.Stdio
}

// terminal returns how the terminal begins, and the pipe's description with the
// framing that terminals have unless another is asked for.
func (s *ProcessSpec) terminal() (begin pipe.TerminalSpec, stdio PipeSpec) {
	stdio = s.Stdio
	if stdio.Out.Name == "" {
		stdio.Out.Name = "raw"
	}
	alone := s.Stdin != StdioTerminal
	if !alone && stdio.In.Name == "" {
		stdio.In.Name = "raw"
	}
	begin = pipe.TerminalSpec{Size: pipe.WindowSize{Rows: defaultRows, Columns: defaultColumns}, Raw: alone, Echo: !alone}
	t := s.Terminal
	if t == nil {
		return begin, stdio
	}
	if t.Size.Rows != 0 {
		begin.Size = t.Size
	}
	if t.Raw != nil {
		begin.Raw, begin.Echo = *t.Raw, !*t.Raw && begin.Echo
	}
	if t.Echo != nil {
		begin.Echo = *t.Echo
	}
	return begin, stdio
}

// useTerminal gives the process what belongs to its terminal besides descriptors. A
// terminal for the output alone does not control it: nobody could type what /dev/tty
// is opened to ask for, and its end is no hangup.
func (l *launch) useTerminal() {
	if !l.spec.hasTerminal() {
		return
	}
	l.attributes.Terminal = &keeper.Terminal{FD: 1, Controlling: l.spec.Stdin == StdioTerminal}
	if slices.ContainsFunc(l.spec.Env, func(kv string) bool { return strings.HasPrefix(kv, "TERM=") }) {
		return
	}
	name := outputName
	if l.spec.Stdin == StdioTerminal {
		name = interactiveName
	}
	if t := l.spec.Terminal; t != nil && t.Name != "" {
		name = t.Name
	}
	l.env = slices.DeleteFunc(l.env, func(kv string) bool { return strings.HasPrefix(kv, "TERM=") })
	l.env = append(l.env, "TERM="+name)
}

// Resize gives the terminal behind an end another size; the processes in its
// foreground get WINCH.
func (e *Endpoint) Resize(size pipe.WindowSize) error {
	if size.Rows == 0 || size.Columns == 0 {
		return argument("terminal of %d rows and %d columns: want at least 1 of each", size.Rows, size.Columns)
	}
	err := e.ep.Resize(size)
	switch {
	case errors.Is(err, pipe.ErrNoTerminal):
		return fmt.Errorf("%w: %s is a pipe", ErrNoTerminal, e.Ref())
	case err != nil:
		return fmt.Errorf("%w: %s", err, e.Ref())
	}
	return nil
}

// typed reports whether what is sent into the end is typed into a terminal.
func (e *Endpoint) typed() bool { return e.pipe.kind == pipe.Terminal && e.num == 1 }

// TellsReading reports whether it can be known what the other end has read of what
// is sent: of a terminal the kernel does not tell.
func (e *Endpoint) TellsReading() bool { return !e.typed() }

// Terminal returns the end behind which the process's terminal is.
func (p *Process) Terminal() (*Endpoint, error) {
	for _, e := range p.given {
		if e.pipe.kind.IsTerminal() {
			return e.pipe.ends[0], nil
		}
	}
	return nil, fmt.Errorf("%w: process %s was started without one", ErrNoTerminal, p.name)
}
