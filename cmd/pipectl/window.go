package main

import (
	"context"
	"os"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// useTerminal makes standard streams of the program a terminal where that is asked
// for: of the kind and the size of the one that we are on, if we are on one.
func (p *processFlags) useTerminal(spec *pipedv1.ProcessSpec) {
	const tty = pipedv1.StdioMode_STDIO_MODE_TTY
	switch {
	case p.tty:
		spec.Stdin, spec.Stdout, spec.Stderr = tty, tty, tty
		if size := localSize(os.Stdin, os.Stdout); size != nil {
			spec.Terminal = &pipedv1.TerminalSpec{Size: size, Name: os.Getenv("TERM")}
		}
	case p.stdoutTTY:
		spec.Stdout = tty
		if size := localSize(os.Stdout, os.Stdin); size != nil {
			spec.Terminal = &pipedv1.TerminalSpec{Size: size}
		}
	}
}

// localSize is the size of the first of our streams that is a terminal; nil where
// none is, or where it does not know.
func localSize(streams ...any) *pipedv1.TerminalSize {
	for _, stream := range streams {
		if !isTerminal(stream) {
			continue
		}
		if size, err := windowSize(stream.(*os.File)); err == nil && size.GetRows() > 0 && size.GetColumns() > 0 {
			return size
		}
	}
	return nil
}

// isInteractive says whether keys are to be passed on as they are typed: to a
// terminal that takes them, which does with each what the program wants.
func isInteractive(p *pipedv1.Pipe) bool {
	return p.GetKind() == pipedv1.Pipe_KIND_TERMINAL && p.GetTerminal().GetInput() && p.GetFramingIn().GetName() == rawFraming &&
		p.GetFramingOut().GetName() == rawFraming
}

// fit gives the terminal of the session the size of ours, now and whenever that
// changes. The session goes on in the wrong size where the daemon cannot be reached:
// the next change tries again.
func (a *attachment) fit(ctx context.Context, changed <-chan os.Signal) {
	for {
		if size := localSize(a.f.in, a.f.out); size != nil && a.pen.held() {
			_ = a.client.ResizeTerminal(ctx, &pipedv1.ResizeTerminalRequest{Session: a.session, Pipe: a.pipe, Size: size})
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// panicking restores the terminal before a panic ends this process. It is deferred.
func (a *attachment) panicking() {
	if cause := recover(); cause != nil {
		if a.terminal != nil {
			_ = a.terminal.restore()
		}
		panic(cause)
	}
}

// hangUp ends a terminal as the loss of its connection does, and waits a moment for
// what the program makes of it.
func hangUp(ctx context.Context, c *client.Client, ref client.Ref) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goneTimeout)
	defer cancel()
	if _, err := c.Endpoint(ref).Close(ctx, client.CloseOptions{Discard: true}); err == nil {
		_, _ = c.Wait(ctx, ref.Session, "", heldGrace)
	}
}
