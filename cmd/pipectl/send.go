package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
)

type sendOptions struct {
	file  string
	wait  ackLevel
	lease leaseFlags
}

// An ackLevel is the flag --wait: how far a message must have got.
type ackLevel pipedv1.AckLevel

// String returns the value.
func (a *ackLevel) String() string {
	return strings.ToLower(strings.TrimPrefix(pipedv1.AckLevel(*a).String(), "ACK_LEVEL_"))
}

// Type names the value in help.
func (a *ackLevel) Type() string { return "LEVEL" }

// Set takes the name of a level.
func (a *ackLevel) Set(text string) error {
	level := pipedv1.AckLevel(pipedv1.AckLevel_value["ACK_LEVEL_"+strings.ToUpper(text)])
	if level == pipedv1.AckLevel_ACK_LEVEL_UNSPECIFIED {
		return errors.New("it is committed, delivered or read")
	}
	*a = ackLevel(level)
	return nil
}

func newSendCmd(f *factory) *cobra.Command {
	var opts sendOptions
	cmd := &cobra.Command{
		Use:   "send REF [MESSAGE]... | --file FILE",
		Short: "Send messages into an end of a pipe",
		Long: `Send each MESSAGE as one message, or a whole file as one, or each line of stdin as
one; the framing adds what it needs, so "line" adds the newline. In the framing
"raw" stdin goes in as it is.

It returns when the daemon has everything; with --wait delivered when all of it lies
in the kernel's buffer of the other end, with --wait read when the other end has read
it. --steal takes the right to send from the client that has it.`,
		Example: `  pipectl send calc '6*7'
  pipectl send work/ctl:1 --file picture.png
  seq 1000 | pipectl send calc --wait read`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := arguments("REF", "[MESSAGE...]")(cmd, args); err != nil {
				return err
			}
			if len(args) > 1 && opts.file != "" {
				return errors.New("give either messages or --file")
			}
			return nil
		},
		ValidArgsFunction: f.completeSessions,
	}
	opts.wait = ackLevel(pipedv1.AckLevel_ACK_LEVEL_COMMITTED)
	cmd.Flags().StringVar(&opts.file, "file", "", "send this file as one message; - is stdin")
	cmd.Flags().Var(&opts.wait, "wait", "how far everything must have got: committed, delivered or read")
	_ = cmd.RegisterFlagCompletionFunc("wait", cobra.FixedCompletions([]string{"committed", "delivered", "read"}, cobra.ShellCompDirectiveNoFileComp))
	opts.lease.add(cmd)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		ref, err := parseRef(args[0])
		if err != nil {
			return err
		}
		token, err := opts.lease.proof(pipedv1.LeaseRole_LEASE_ROLE_WRITER)
		if err != nil {
			return err
		}
		w, err := c.Endpoint(ref).NewWriter(ctx, client.WriterOptions{
			ID: clientName(), Level: pipedv1.AckLevel(opts.wait), LeaseToken: token, LeaseDuration: noLease, Steal: opts.lease.steal,
			ReconnectFor: comeBackFor,
		})
		if err != nil {
			return err
		}
		// What was sent before an error is still worth waiting for.
		err = sendRun(ctx, f, w, opts.file, args[1:])
		return firstError(err, w.Close(ctx))
	})
	return cmd
}

// firstError returns the error that came first: what comes after it is mostly
// the same again.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func sendRun(ctx context.Context, f *factory, w *client.Writer, file string, messages []string) error {
	switch {
	case file == "-":
		return w.SendReader(ctx, f.in, client.UnknownSize)
	case file != "":
		return sendFile(ctx, w, file)
	case len(messages) > 0:
		for _, msg := range messages {
			if err := w.Send(ctx, []byte(msg)); err != nil {
				return err
			}
		}
		return nil
	case w.Raw():
		return w.SendReader(ctx, f.in, client.UnknownSize)
	default:
		return sendLines(ctx, w, f.in)
	}
}

// sendFile sends a file as one message; its size is known beforehand where it is
// a regular one.
func sendFile(ctx context.Context, w *client.Writer, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	size := int64(client.UnknownSize)
	if info.Mode().IsRegular() {
		size = info.Size()
	}
	if err := w.SendReader(ctx, file, size); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// sendLines sends each line as one message, without its newline.
func sendLines(ctx context.Context, w *client.Writer, in io.Reader) error {
	lines := bufio.NewReaderSize(in, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if n := len(line); n > 0 {
			if line[n-1] == '\n' {
				line = line[:n-1]
			}
			if err := w.Send(ctx, line); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
