package session

import (
	"bytes"
	"path/filepath"
	"strings"
	"time"

	"github.com/piped-dev/piped/pipe"
)

// A Spec says what session to create.
type Spec struct {
	RequestID string
	Name      string // generated when empty
	Labels    map[string]string
	Pipes     []PipeSpec
	Process   *ProcessSpec // nil: none
}

// A PipeSpec says what pipe to make.
type PipeSpec struct {
	Name string // "pipe" when empty
	// Kind is pipe.Duplex or pipe.OneWay.
	Kind pipe.Kind
	// In is the framing of what goes into end 1, Out of what comes out of it.
	In, Out pipe.Framing
	// LogSize in bytes; 0 means the default.
	LogSize  uint64
	Overflow pipe.Overflow
}

// StdioMode is where a standard stream leads.
type StdioMode uint8

// The modes of a standard stream.
const (
	StdioPipe StdioMode = iota
	StdioNull
)

// EnvironmentBase is what an environment starts from.
type EnvironmentBase uint8

// The bases of an environment.
const (
	// EnvironmentMinimal is PATH, HOME, USER and LANG of the daemon.
	EnvironmentMinimal EnvironmentBase = iota
	// EnvironmentNone is empty.
	EnvironmentNone
	// EnvironmentAll is the daemon's without what is the daemon's own.
	EnvironmentAll
)

// A ProcessSpec says what to start.
type ProcessSpec struct {
	RequestID             string
	Name                  string // the program's base name when empty
	Args                  []string
	Env                   []string // "KEY=value"
	Base                  EnvironmentBase
	Dir                   string // absolute; the daemon's home when empty
	Stdin, Stdout, Stderr StdioMode
	// Stdio and StderrPipe describe the pipes of the standard streams; their
	// names and kinds are not looked at.
	Stdio, StderrPipe PipeSpec
	Inherits          []Inherit
	// Stop is how it is stopped, Timeout how long after its start; 0: never. Left out
	// of the digest of a request where they are not used, as in those of daemons that
	// did not know them.
	Stop    StopPolicy    `json:",omitzero"`
	Timeout time.Duration `json:",omitzero"`
}

// An Inherit gives a process a copy of an end.
type Inherit struct {
	Pipe string
	End  int
	FD   int
	// HandOver closes the daemon's copy once the process has its own.
	HandOver bool
}

const (
	maxLabels     = 64
	maxLabelKey   = 63
	maxLabelValue = 255
	minLogSize    = 4 << 10
	maxLogSize    = 1 << 30
	maxFD         = 1023 // what select(2) can watch
	maxTimeout    = 366 * 24 * time.Hour
)

func (s *Spec) check(c *Config) error {
	if s.Name != "" {
		if err := checkName("session", s.Name); err != nil {
			return err
		}
	}
	if len(s.Labels) > maxLabels {
		return argument("%d labels, at most %d are allowed", len(s.Labels), maxLabels)
	}
	for k, v := range s.Labels {
		if k == "" || len(k) > maxLabelKey || len(v) > maxLabelValue {
			return argument("label %q: keys have 1 to %d bytes, values up to %d", k, maxLabelKey, maxLabelValue)
		}
	}
	if len(s.Pipes) == 0 && s.Process == nil {
		return argument("a session needs a pipe or a process")
	}
	for i := range s.Pipes {
		if err := s.Pipes[i].check(); err != nil {
			return err
		}
	}
	if s.Process != nil {
		return s.Process.check(c)
	}
	return nil
}

func (s *PipeSpec) check() error {
	if s.Name != "" {
		if err := checkName("pipe", s.Name); err != nil {
			return err
		}
	}
	if s.LogSize != 0 && (s.LogSize < minLogSize || s.LogSize > maxLogSize) {
		return argument("log size %d: want %d to %d bytes, or 0 for the default", s.LogSize, minLogSize, maxLogSize)
	}
	if err := s.In.Check(); err != nil {
		return err
	}
	return s.Out.Check()
}

func (s *ProcessSpec) check(c *Config) error {
	if s.Name != "" {
		if err := checkName("process", s.Name); err != nil {
			return err
		}
	}
	if len(s.Args) == 0 || s.Args[0] == "" {
		return argument("a process needs a program")
	}
	for _, a := range s.Args {
		if strings.IndexByte(a, 0) >= 0 {
			return argument("argument %q contains a NUL byte", a)
		}
	}
	for _, kv := range s.Env {
		if i := strings.IndexByte(kv, '='); i <= 0 || bytes.IndexByte([]byte(kv), 0) >= 0 {
			return argument("environment %q: want KEY=value", kv)
		}
	}
	if s.Dir != "" && !filepath.IsAbs(s.Dir) {
		return argument("directory %q is not absolute", s.Dir)
	}
	for _, p := range []*PipeSpec{&s.Stdio, &s.StderrPipe} {
		if p.Name != "" {
			return argument("the pipes of standard streams have fixed names, not %q", p.Name)
		}
		if err := p.check(); err != nil {
			return err
		}
	}
	if s.Timeout < 0 || s.Timeout > maxTimeout {
		return argument("timeout %v: want 0, which is never, to %v", s.Timeout, maxTimeout)
	}
	if err := s.Stop.check(c.MaxStopGrace); err != nil {
		return err
	}
	return s.checkInherits()
}

func (s *ProcessSpec) checkInherits() error {
	taken := map[int]bool{0: s.Stdin == StdioPipe, 1: s.Stdout == StdioPipe, 2: s.Stderr == StdioPipe}
	for _, in := range s.Inherits {
		switch {
		case in.End != 1 && in.End != 2:
			return argument("end %d of pipe %q: want 1 or 2", in.End, in.Pipe)
		case in.FD < 0 || in.FD > maxFD:
			return argument("descriptor %d: want 0 to %d", in.FD, maxFD)
		case taken[in.FD]:
			return argument("descriptor %d is taken twice", in.FD)
		}
		taken[in.FD] = true
	}
	return nil
}
