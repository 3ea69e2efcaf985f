package client

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A Ref names an endpoint: one end of a pipe of a session.
type Ref struct {
	// Session is the name or uid of the session.
	Session string
	// Pipe is the name of the pipe; empty means the session's first.
	Pipe string
	// End is 1 or 2; 0 means 1.
	End int
	// Incarnation of the pipe, from 1; 0 means the current one. A Reader or Writer
	// stays with the one that it has found.
	Incarnation uint64
}

// name is what sessions, pipes and processes may be called. Generated names and
// uids obey it too.
var name = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// ParseRef reads SESSION[/PIPE][~INCARNATION][:END].
func ParseRef(text string) (Ref, error) {
	var ref Ref
	rest := text
	if before, end, found := strings.Cut(rest, ":"); found {
		switch end {
		case "1":
			ref.End = 1
		case "2":
			ref.End = 2
		default:
			return Ref{}, fmt.Errorf("%q: the end after the colon is %q, and it must be 1 or 2", text, end)
		}
		rest = before
	}
	if before, incarnation, found := strings.Cut(rest, "~"); found {
		n, err := strconv.ParseUint(incarnation, 10, 64)
		if err != nil || n == 0 || incarnation[0] == '0' || incarnation[0] == '+' {
			return Ref{}, fmt.Errorf("%q: the incarnation after the tilde is %q, and it must be a number from 1 on", text, incarnation)
		}
		ref.Incarnation, rest = n, before
	}
	session, pipe, found := strings.Cut(rest, "/")
	ref.Session, ref.Pipe = session, pipe
	if err := CheckName(session); err != nil {
		return Ref{}, fmt.Errorf("%q is not SESSION[/PIPE][:END]: session %w", text, err)
	}
	if found {
		if err := CheckName(pipe); err != nil {
			return Ref{}, fmt.Errorf("%q is not SESSION[/PIPE][:END]: pipe %w", text, err)
		}
	}
	return ref, nil
}

// CheckName says what is wrong with a name of a session, pipe or process.
func CheckName(text string) error {
	switch {
	case text == "":
		return fmt.Errorf("name is missing")
	case !name.MatchString(text):
		return fmt.Errorf("name %q must be 1 to 63 of a-z 0-9 . _ - and begin with a letter or digit", text)
	default:
		return nil
	}
}

// String returns SESSION[/PIPE][~INCARNATION][:END], without the parts that are not set.
func (r Ref) String() string {
	var b strings.Builder
	b.WriteString(r.Session)
	if r.Pipe != "" {
		b.WriteString("/" + r.Pipe)
	}
	if r.Incarnation != 0 {
		fmt.Fprintf(&b, "~%d", r.Incarnation)
	}
	if r.End != 0 {
		fmt.Fprintf(&b, ":%d", r.End)
	}
	return b.String()
}

func (r Ref) proto() *pipedv1.EndpointRef {
	ref := &pipedv1.EndpointRef{Session: r.Session, Pipe: r.Pipe, Incarnation: r.Incarnation}
	if r.End > 0 {
		ref.End = uint32(r.End)
	}
	return ref
}
