package exact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// playTerminal has a child that writes to a terminal, in pieces, and exits; its last
// words must be there.
func playTerminal(ctx context.Context, c *client.Client, name string) error {
	const tty, lines = pipedv1.StdioMode_STDIO_MODE_TTY, 20
	req := script(name, fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); done", lines), tty)
	req.Process.Stdin, req.Process.Stdout = tty, tty
	req.Process.StdioPipe = &pipedv1.PipeSpec{FramingIn: &pipedv1.Framing{Name: "raw"}, FramingOut: &pipedv1.Framing{Name: "raw"}}
	if _, err := c.Create(ctx, req); err != nil {
		return err
	}
	rd, err := c.Endpoint(client.Ref{Session: name}).NewReader(ctx, client.ReaderOptions{})
	if err != nil {
		return err
	}
	var want, got strings.Builder
	for i := range lines {
		fmt.Fprintf(&want, "line %d\r\n", i)
	}
	for {
		m, err := rd.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(err, rd.Close(ctx))
		}
		got.Write(m.Data)
		if err := rd.Ack(m.After); err != nil {
			return errors.Join(err, rd.Close(ctx))
		}
	}
	if err := rd.Close(ctx); err != nil {
		return err
	}
	if got.String() != want.String() {
		return fmt.Errorf("a terminal showed %q, want %q", got.String(), want.String())
	}
	_, err = c.Wait(ctx, name, "", patience)
	return err
}
