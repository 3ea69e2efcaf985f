package session

import (
	"bytes"
	"path/filepath"
	"strings"
	"time"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
)

// A Spec says what session to create.
type Spec struct {
	RequestID string
	Name      string // generated when empty
	Labels    map[string]string
	Pipes     []PipeSpec
	Process   *ProcessSpec // nil: none
	// Resources are its limits. They were not in the first version.
	Resources keeper.SessionLimits `json:",omitzero"`
	// Lease binds the session to its creator; nil: it is bound to nobody. It was
	// not in the first version, as those of a ProcessSpec.
	Lease *CreatorLease `json:",omitempty"`
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
	// StdioNull is /dev/null, or the end that an [Inherit] gives at its descriptor.
	StdioNull
	// StdioMerged is the pipe of stdout, for stderr only.
	StdioMerged
	// StdioTerminal is a terminal, the same for all streams of which it is.
	StdioTerminal
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
	Dir                   string // absolute; the home of the daemon, or of User, when empty
	Stdin, Stdout, Stderr StdioMode
	// Stdio and StderrPipe describe the pipes of the standard streams; their
	// names and kinds are not looked at.
	Stdio, StderrPipe PipeSpec
	Inherits          []Inherit

	// What follows was not in the first version: where it is not asked for it is not
	// in the digest of a request either.

	// User, by name or number, is who it runs as; the keeper's user when empty.
	// Group and Groups are its group and all supplementary ones; those of the user
	// in /etc/passwd and /etc/group when empty.
	User   string   `json:",omitzero"`
	Group  string   `json:",omitzero"`
	Groups []string `json:",omitempty"`
	// Limits, Nice, Umask and NoNewPrivileges are those of keeper.Attributes.
	Limits          []keeper.Limit `json:",omitempty"`
	Nice            *int           `json:",omitzero"`
	Umask           *int           `json:",omitzero"`
	NoNewPrivileges bool           `json:",omitzero"`
	// Stop is how it is stopped, Timeout how long after its start; 0: never.
	Stop    StopPolicy    `json:",omitzero"`
	Timeout time.Duration `json:",omitzero"`
	// AfterExit is what becomes of its pipes if somebody holds them after its exit.
	AfterExit AfterExit `json:",omitzero"`
	// Terminal describes the terminal of the streams that lead to one; nil: as
	// [TerminalSpec] says.
	Terminal *TerminalSpec `json:",omitzero"`
	// Restart says when it is started again; nil: never.
	Restart *RestartPolicy `json:",omitempty"`
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
	if err := s.Lease.check(c.MaxLeaseDuration); err != nil {
		return err
	}
	if len(s.Pipes) == 0 && s.Process == nil {
		return argument("a session needs a pipe or a process")
	}
	for i := range s.Pipes {
		if err := s.Pipes[i].check(); err != nil {
			return err
		}
	}
	if err := checkResources(&s.Resources); err != nil {
		return err
	}
	if s.Process != nil {
		if err := s.Process.check(c); err != nil {
			return err
		}
		return s.Process.checkRestart(s.sealed)
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
	if _, _, err := s.attributes(); err != nil {
		return err
	}
	if err := s.checkStdio(); err != nil {
		return err
	}
	if s.Timeout < 0 || s.Timeout > maxTimeout {
		return argument("timeout %v: want 0, which is never, to %v", s.Timeout, maxTimeout)
	}
	if err := s.Stop.check(c.MaxStopGrace); err != nil {
		return err
	}
	if err := s.AfterExit.check(); err != nil {
		return err
	}
	if err := s.Restart.check(); err != nil {
		return err
	}
	return s.checkInherits()
}

func (s *ProcessSpec) checkStdio() error {
	switch {
	case s.Stdin == StdioMerged:
		return argument("stdin is merged: only stderr can be; make stdin a pipe or null")
	case s.Stdout == StdioMerged:
		return argument("stdout is merged: only stderr can be, into stdout; make stdout a pipe and stderr merged")
	case s.Stderr == StdioMerged && s.Stdout != StdioPipe && s.Stdout != StdioTerminal:
		return argument("stderr is merged into a stdout that is null or inherited: make stdout a pipe, or stderr a pipe or null")
	}
	return s.checkTerminal()
}

// streams are the names of the standard streams.
var streams = [...]string{"stdin", "stdout", "stderr"}

func (s *ProcessSpec) checkInherits() error {
	modes, taken := [...]StdioMode{s.Stdin, s.Stdout, s.Stderr}, make(map[int]bool)
	for _, in := range s.Inherits {
		switch {
		case in.End != 1 && in.End != 2:
			return argument("end %d of pipe %q: want 1 or 2", in.End, in.Pipe)
		case in.FD < 0 || in.FD > maxFD:
			return argument("descriptor %d: want 0 to %d", in.FD, maxFD)
		case in.FD == 2 && s.Stderr == StdioMerged:
			return argument("descriptor 2 is stderr, which leads where stdout does: leave its mode unspecified, or null, to give it an end of pipe %q",
				in.Pipe)
		case in.FD < len(modes) && modes[in.FD] == StdioTerminal:
			return argument("descriptor %d is %s, which is a terminal: leave its mode unspecified, or null, to give it an end of pipe %q",
				in.FD, streams[in.FD], in.Pipe)
		case in.FD < len(modes) && modes[in.FD] != StdioNull:
			return argument("descriptor %d is %s, which is a pipe of its own: leave its mode unspecified, or null, to give it an end of pipe %q",
				in.FD, streams[in.FD], in.Pipe)
		case taken[in.FD]:
			return argument("descriptor %d is taken twice", in.FD)
		}
		taken[in.FD] = true
	}
	return nil
}
