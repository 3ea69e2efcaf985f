package main

import (
	"context"
	"errors"
	"io"

	"github.com/piped-dev/piped/client"
	"github.com/spf13/cobra"
)

func newTailCmd(f *factory) *cobra.Command {
	var opts printFlags
	var from startFlag
	var follow bool
	cmd := &cobra.Command{
		Use:   "tail REF",
		Short: "Look at what came out of an end, without consuming it",
		Long: `Print what the daemon still has of the messages that came out of an end, also of
those that were received. Nothing is consumed, and nobody is disturbed. With
--follow go on until the end; where this is too slow, messages are left out, and
stderr says so. --from N begins with message N, or says what of it is not there any
more; messages are numbered from 1, in "raw" bytes are.

Of a bare pipe, the daemon has only what a recv made it read: the rest is in the
kernel, where a program that inherits the end would find it.`,
		Example: `  pipectl tail calc/stderr
  pipectl tail calc --follow --from now
  pipectl tail work/ctl --from 1200 -o json`,
		Args:              arguments("REF"),
		ValidArgsFunction: f.completeSessions,
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the end")
	from.add(cmd, "else with the oldest")
	opts.add(cmd)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		ref, err := parseRef(args[0])
		if err != nil {
			return err
		}
		if from.text == "" {
			from.text = fromOldest
		}
		readerOpts := from.observer()
		readerOpts.StopAtNow = !follow
		if !follow {
			readerOpts.ReconnectFor = comeBackFor
		}
		r, err := c.Endpoint(ref).NewReader(ctx, readerOpts)
		if err != nil {
			return err
		}
		return firstError(tailRun(ctx, f, r, &opts), r.Close(ctx))
	})
	return cmd
}

func tailRun(ctx context.Context, f *factory, r *client.Reader, opts *printFlags) error {
	p := newPrinter(f.out, opts, r.Raw())
	next := r.NextPart
	if p.json {
		next = r.Next
	}
	for {
		m, err := next(ctx)
		if gap, ok := errors.AsType[*client.GapError](err); ok {
			f.tell("note", gap.Error())
			continue
		}
		if errors.Is(err, io.EOF) {
			return p.flush()
		}
		if err != nil {
			return firstError(err, p.flush())
		}
		if err := p.message(m); err != nil {
			return err
		}
		if !r.Buffered() {
			if err := p.flush(); err != nil {
				return err
			}
		}
	}
}
