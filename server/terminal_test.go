package server

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

const tty = pipedv1.StdioMode_STDIO_MODE_TTY

func TestTerminalIsToldWithItsSizeAndItsMode(t *testing.T) {
	c := served(t)
	made, err := c.sessions.CreateSession(t.Context(), &pipedv1.CreateSessionRequest{Name: "s", Process: &pipedv1.ProcessSpec{
		Args: []string{"cat"}, Stdin: tty, Stdout: tty, Stderr: tty,
		Terminal: &pipedv1.TerminalSpec{Size: &pipedv1.TerminalSize{Rows: 40, Columns: 100}, Echo: new(false)}}})
	if err != nil {
		t.Fatal(err)
	}
	p := made.GetSession().GetPipes()[0]
	if got := p.GetTerminal(); p.GetKind() != pipedv1.Pipe_KIND_TERMINAL || p.GetName() != "stdio" || p.GetFramingOut().GetName() != "raw" ||
		got.GetSize().GetRows() != 40 || got.GetSize().GetColumns() != 100 || !got.GetCanonical() || got.GetEcho() || !got.GetInput() {
		t.Errorf("the pipe is %v", p)
	}
	size := &pipedv1.TerminalSize{Rows: 10, Columns: 20, Width: 300, Height: 400}
	for _, req := range []*pipedv1.ResizeTerminalRequest{{Session: "s", Size: size}, {Session: "s", Pipe: "stdio", Size: size}, {Session: "s", Process: "cat", Size: size}} {
		if _, err := c.sessions.ResizeTerminal(t.Context(), req); err != nil {
			t.Errorf("%v: %v", req, err)
		}
	}
	got, err := c.sessions.GetSession(t.Context(), &pipedv1.GetSessionRequest{Session: "s", Holders: true})
	if err != nil {
		t.Fatal(err)
	}
	p = got.GetSession().GetPipes()[0]
	if s := p.GetTerminal().GetSize(); s.GetRows() != 10 || s.GetColumns() != 20 || s.GetWidth() != 300 || s.GetHeight() != 400 {
		t.Errorf("the size is %v", s)
	}
	if holders := p.GetEndpoints()[1].GetHolders(); len(holders) != 1 || holders[0].GetCommand() != "cat" || len(holders[0].GetFds()) != 3 {
		t.Errorf("holders of the process's side: %v", holders)
	}
}

func TestRequestsThatNoTerminalCanAnswerAreRefused(t *testing.T) {
	c := served(t)
	if _, err := c.sessions.CreateSession(t.Context(), &pipedv1.CreateSessionRequest{Name: "s", Process: &pipedv1.ProcessSpec{
		Args: []string{"cat"}, Stdin: tty, Stdout: tty, Stderr: tty}}); err != nil {
		t.Fatal(err)
	}
	size := &pipedv1.TerminalSize{Rows: 1, Columns: 1}
	for want, req := range map[string]*pipedv1.ResizeTerminalRequest{
		"name the terminal by one of them":  {Session: "s", Process: "cat", Pipe: "stdio", Size: size},
		"terminal size 65536: want at most": {Session: "s", Size: &pipedv1.TerminalSize{Rows: 65536, Columns: 1}},
		"want at least 1 of each":           {Session: "s"},
	} {
		_, err := c.sessions.ResizeTerminal(t.Context(), req)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	stream, _ := c.send(t, &pipedv1.SendOpen{Endpoint: end(1), AckLevel: pipedv1.AckLevel_ACK_LEVEL_READ})
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "nobody can tell what was read from a terminal") {
		t.Errorf("acknowledged when read: %v", err)
	}
	_, err := c.sessions.CreateSession(t.Context(), &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
		Args: []string{"cat"}, Stdin: tty, Stdout: tty, Stderr: tty, StderrPipe: &pipedv1.PipeSpec{}}})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "leave it out") {
		t.Errorf("stderr_pipe beside a terminal: %v", err)
	}
}
