package server

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

const (
	piped  = pipedv1.StdioMode_STDIO_MODE_PIPE
	null   = pipedv1.StdioMode_STDIO_MODE_NULL
	merged = pipedv1.StdioMode_STDIO_MODE_MERGED
	open   = pipedv1.StdioMode_STDIO_MODE_UNSPECIFIED
)

func served(t *testing.T) clients {
	t.Helper()
	conn := serveOptions(t, DefaultOptions()).connect(t)
	return clients{pipedv1.NewSessionServiceClient(conn), pipedv1.NewPipeServiceClient(conn)}
}

func TestMergedStderrKeepsItsOrderWithStdout(t *testing.T) {
	c := served(t)
	made, err := c.sessions.CreateSession(t.Context(), &pipedv1.CreateSessionRequest{Name: "s", Process: &pipedv1.ProcessSpec{
		Args: []string{"sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do echo out $i; echo err $i >&2; done; exec cat >&2"}, Stderr: merged}})
	if err != nil {
		t.Fatal(err)
	}
	if pipes := made.GetSession().GetPipes(); len(pipes) != 1 || pipes[0].GetName() != "stdio" {
		t.Errorf("pipes %v, want stdio alone", pipes)
	}
	out := c.recv(t, &pipedv1.RecvOpen{Endpoint: end(1), AutoAck: true})
	wantNext(t, out, "opened")
	for i := 1; i < 10; i++ {
		wantNext(t, out, fmt.Sprint("out ", i), fmt.Sprint("err ", i))
	}
	c.write(t, "through stderr")
	wantNext(t, out, "through stderr")
	c.close(t, &pipedv1.CloseRequest{Endpoint: end(1), SendOnly: true})
	wantNext(t, out, "end", "OK")
}

func TestMergedIsForStderrBesideAStdoutThatIsAPipe(t *testing.T) {
	c := served(t)
	elsewhere := []*pipedv1.Inherit{{Pipe: "x", End: 2, Fd: 1}}
	for want, spec := range map[string]*pipedv1.ProcessSpec{
		"stdin is merged: only stderr can be":                   {Stdin: merged},
		"stdout is merged: only stderr can be":                  {Stdout: merged, Stderr: merged},
		"make stdout a pipe, or stderr a pipe or null":          {Stdout: null, Stderr: merged},
		"a stdout that is null or inherited":                    {Stderr: merged, Inherits: elsewhere},
		"leave it out, stdio_pipe holds for both":               {Stderr: merged, StderrPipe: &pipedv1.PipeSpec{}},
		"descriptor 1 is stdout, which is a pipe of its own":    {Stdout: piped, Stderr: merged, Inherits: elsewhere},
		"descriptor 2 is stderr, which is a pipe of its own":    {Stderr: piped, Inherits: []*pipedv1.Inherit{{Pipe: "x", End: 2, Fd: 2}}},
		`to give it an end of pipe "x"`:                         {Stdin: piped, Inherits: []*pipedv1.Inherit{{Pipe: "x", End: 2, Fd: 0}}},
		"descriptor 0 is taken twice":                           {Inherits: []*pipedv1.Inherit{{Pipe: "x", End: 2}, {Pipe: "x", End: 1}}},
		"descriptor 2 is stderr, which leads where stdout does": {Stderr: merged, Inherits: []*pipedv1.Inherit{{Pipe: "x", End: 2, Fd: 2}}},
	} {
		spec.Args = []string{"cat"}
		_, err := c.sessions.CreateSession(t.Context(), &pipedv1.CreateSessionRequest{Process: spec, Pipes: []*pipedv1.PipeSpec{{Name: "x"}}})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), want) {
			t.Errorf("got %v, want INVALID_ARGUMENT with %q", err, want)
		}
	}
}

func TestPipeOfTheSessionIsAStandardStream(t *testing.T) {
	for name, tc := range map[string]struct {
		stdin pipedv1.StdioMode
		kind  pipedv1.Pipe_Kind
		given uint32 // the end that is stdin
	}{
		"left open":      {open, pipedv1.Pipe_KIND_DUPLEX, 2},
		"null":           {null, pipedv1.Pipe_KIND_DUPLEX, 2},
		"one-way":        {open, pipedv1.Pipe_KIND_ONE_WAY, 1},
		"one-way, null ": {null, pipedv1.Pipe_KIND_ONE_WAY, 1},
	} {
		t.Run(name, func(t *testing.T) {
			c := served(t)
			made, err := c.sessions.CreateSession(t.Context(), &pipedv1.CreateSessionRequest{Name: "s",
				Pipes: []*pipedv1.PipeSpec{{Name: "x", Kind: tc.kind}},
				Process: &pipedv1.ProcessSpec{Args: []string{"sh", "-c", "cat; echo $PIPED_FDS"}, Stdin: tc.stdin,
					Inherits: []*pipedv1.Inherit{{Pipe: "x", End: tc.given, Fd: 0, HandOver: true}}}})
			if err != nil {
				t.Fatal(err)
			}
			if in := made.GetSession().GetPipes()[0].GetEndpoints()[0].GetOutbox(); in != nil {
				t.Errorf("the pipe stdio still leads to a stdin: %v", in)
			}
			input := &pipedv1.EndpointRef{Session: "s", Pipe: "x", End: 3 - tc.given}
			if _, err := c.pipes.Write(t.Context(), &pipedv1.WriteRequest{Endpoint: input, Messages: [][]byte{[]byte("hello")}}); err != nil {
				t.Fatal(err)
			}
			out := c.recv(t, &pipedv1.RecvOpen{Endpoint: &pipedv1.EndpointRef{Session: "s", Pipe: "stdio"}, AutoAck: true})
			wantNext(t, out, "opened", "hello")
			c.close(t, &pipedv1.CloseRequest{Endpoint: input, SendOnly: true})
			wantNext(t, out, "x:0:line", "end", "OK")
		})
	}
}

func TestStderrBesideTheStdioOfAnotherProcessHasAnotherName(t *testing.T) {
	c := served(t)
	if _, err := c.sessions.CreateSession(t.Context(), &pipedv1.CreateSessionRequest{Name: "s",
		Process: &pipedv1.ProcessSpec{Args: []string{"cat"}, Stderr: merged}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.sessions.StartProcess(t.Context(), &pipedv1.StartProcessRequest{Session: "s",
		Process: &pipedv1.ProcessSpec{Name: "second", Args: []string{"cat"}}}); err != nil {
		t.Fatal(err)
	}
	got, err := c.sessions.GetSession(t.Context(), &pipedv1.GetSessionRequest{Session: "s"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range got.GetSession().GetPipes() {
		names = append(names, p.GetName())
	}
	if want := "[stdio second.stdio second.stderr]"; fmt.Sprint(names) != want {
		t.Errorf("pipes %v, want %v", names, want)
	}
}
