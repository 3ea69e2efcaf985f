package server

import (
	"context"
	"math"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

// ResizeTerminal finds the terminal by its pipe, or by the process that it was made
// for.
func (v *sessionService) ResizeTerminal(_ context.Context, req *pipedv1.ResizeTerminalRequest) (*pipedv1.ResizeTerminalResponse, error) {
	if req.GetPipe() != "" && req.GetProcess() != "" {
		return nil, statusError(argument("process %q and pipe %q: name the terminal by one of them", req.GetProcess(), req.GetPipe()))
	}
	size, err := toWindowSize(req.GetSize())
	if err != nil {
		return nil, statusError(err)
	}
	ses, err := v.s.reg.Get(req.GetSession())
	if err != nil {
		return nil, statusError(err)
	}
	var e *session.Endpoint
	if req.GetPipe() != "" {
		e, err = ses.Endpoint(req.GetPipe(), 1)
	} else {
		var p *session.Process
		if p, err = ses.Process(req.GetProcess()); err == nil {
			e, err = p.Terminal()
		}
	}
	if err != nil {
		return nil, statusError(err)
	}
	return &pipedv1.ResizeTerminalResponse{}, statusError(e.Resize(size))
}

// toWindowSize reads a size; absent is all zeros.
func toWindowSize(s *pipedv1.TerminalSize) (pipe.WindowSize, error) {
	for _, n := range []uint32{s.GetRows(), s.GetColumns(), s.GetWidth(), s.GetHeight()} {
		if n > math.MaxUint16 {
			return pipe.WindowSize{}, argument("terminal size %d: want at most %d", n, math.MaxUint16)
		}
	}
	//nolint:gosec // checked
	return pipe.WindowSize{Rows: uint16(s.GetRows()), Columns: uint16(s.GetColumns()), Width: uint16(s.GetWidth()), Height: uint16(s.GetHeight())}, nil
}

func toTerminalSpec(t *pipedv1.TerminalSpec) (*session.TerminalSpec, error) {
	if t == nil {
		return nil, nil
	}
	size, err := toWindowSize(t.GetSize())
	return &session.TerminalSpec{Size: size, Raw: t.Raw, Echo: t.Echo, Name: t.GetName()}, err
}

func fromTerminal(p session.PipeInfo) *pipedv1.Terminal {
	t := p.Terminal
	if t == nil {
		return nil
	}
	s := t.Size
	return &pipedv1.Terminal{Canonical: t.Canonical, Echo: t.Echo, Input: p.Kind == pipe.Terminal,
		Size: &pipedv1.TerminalSize{Rows: uint32(s.Rows), Columns: uint32(s.Columns), Width: uint32(s.Width), Height: uint32(s.Height)}}
}
