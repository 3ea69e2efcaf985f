package session_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

// settled waits for the finals of the first process: want of them.
func settled(t *testing.T, s *session.Session, want int) []session.Final {
	t.Helper()
	p, err := s.Process("")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the finals", func() bool { return len(p.Info().Finals) == want })
	return p.Info().Finals
}

func TestExitedProcessHasTheLastWordsOfItsPipes(t *testing.T) {
	reg := newRegistry(t, nil)
	yes, no := true, false
	heard := pipe.End{Cause: pipe.CauseClosed, Position: pipe.Position{Message: 2}, Bytes: 3}
	stderr := session.Final{Pipe: "stderr", Incarnation: 1, End: 1, Last: pipe.End{Cause: pipe.CauseClosed, Position: pipe.Position{Message: 2}, Bytes: 4}}
	for _, tc := range []struct {
		name, script string
		send         session.Outgoing
		half         bool // closes its input when it has answered
		sent         session.Final
	}{
		{"read all", "cat; echo err >&2", session.Outgoing{Data: []byte("aa")}, true,
			session.Final{Pipe: "stdio", Incarnation: 1, End: 1, Sent: true, AllRead: &yes, Last: heard}},
		// A shell reads its input byte by byte, so the second line stays.
		{"read one of two", "read x; echo $x; echo err >&2", session.Outgoing{Data: []byte("aabbb"), Sizes: []uint32{2, 3}}, false,
			session.Final{Pipe: "stdio", Incarnation: 1, End: 1, Sent: true, AllRead: &no,
				Last: pipe.End{Cause: pipe.CauseBrokenPipe, Position: pipe.Position{Message: 3}, Bytes: 7}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := create(t, reg, session.Spec{Process: &session.ProcessSpec{Args: []string{"sh", "-c", tc.script}}})
			p, err := s.Process("")
			if err != nil {
				t.Fatal(err)
			}
			if p.Info().Finals != nil {
				t.Errorf("a process that runs has finals: %v", p.Info().Finals)
			}
			e, err := s.Endpoint("stdio", 1)
			if err != nil {
				t.Fatal(err)
			}
			w := writer(t, e, session.WriterOptions{})
			if err := w.Send(t.Context(), tc.send); err != nil {
				t.Fatal(err)
			}
			w.Close()
			receive(t, openReader(t, e, session.ReaderOptions{}))
			if tc.half {
				if err := e.Close(session.CloseOptions{SendOnly: true}); err != nil {
					t.Fatal(err)
				}
			}
			want := []session.Final{tc.sent, {Pipe: "stdio", Incarnation: 1, End: 1, Last: heard}, stderr}
			if diff := cmp.Diff(want, settled(t, s, 3), cmpopts.IgnoreFields(pipe.End{}, "Detail")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFinalsAreThoseOfTheOtherEnd(t *testing.T) {
	reg := newRegistry(t, nil)
	null := session.ProcessSpec{Stdin: session.StdioNull, Stdout: session.StdioNull, Stderr: session.StdioNull}
	spec := null
	spec.Args = []string{"sh", "-c", "echo a >&3; echo b >&3"}
	spec.Inherits = []session.Inherit{{Pipe: "x", End: 2, FD: 3, HandOver: true}}
	s := create(t, reg, session.Spec{Pipes: []session.PipeSpec{{Name: "x"}}, Process: &spec})
	yes := true
	want := []session.Final{
		{Pipe: "x", Incarnation: 1, End: 1, Sent: true, AllRead: &yes, Last: pipe.End{Cause: pipe.CauseBrokenPipe, Position: pipe.Position{Message: 1}}},
		{Pipe: "x", Incarnation: 1, End: 1, Last: pipe.End{Cause: pipe.CauseClosed, Position: pipe.Position{Message: 3}, Bytes: 4}},
	}
	if diff := cmp.Diff(want, settled(t, s, 2), cmpopts.IgnoreFields(pipe.End{}, "Detail")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// Of a pipe between two processes the daemon has nothing to say.
	both := null
	both.Args = []string{"true"}
	both.Inherits = []session.Inherit{{Pipe: "x", End: 1, FD: 3, HandOver: true}, {Pipe: "x", End: 2, FD: 4, HandOver: true}}
	s = create(t, reg, session.Spec{Pipes: []session.PipeSpec{{Name: "x"}}, Process: &both})
	if got := settled(t, s, 0); got != nil {
		t.Errorf("got %v", got)
	}
}
