package main

import (
	"context"
	"fmt"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
)

func newCloseCmd(f *factory) *cobra.Command {
	var opts client.CloseOptions
	cmd := &cobra.Command{
		Use:   "close REF",
		Short: "Close an end of a pipe",
		Long: `Close the daemon's copy of an end. What was sent is still handed over before,
unless --discard drops it. Other holders of a copy keep the pipe open, and no
process is ended by it. Closing twice is no error.

--send-only closes the sending direction alone: a program sees the end of its
input, and what it answers can still be received.`,
		Example: `  pipectl close sorter --send-only
  pipectl close work:2 --wait`,
		Args:              arguments("REF"),
		ValidArgsFunction: f.completeSessions,
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.SendOnly, "send-only", false, "close the sending direction alone")
	flags.BoolVar(&opts.Wait, "wait", false, "return only when everything is handed over")
	flags.BoolVar(&opts.Discard, "discard", false, "drop what was not yet handed over")
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		ref, err := parseRef(args[0])
		if err != nil {
			return err
		}
		if isTerminal(f.errOut) {
			opts.Progress = func(pending *pipedv1.ClosePending) {
				f.tell("note", amountText(pending.GetMessages(), pending.GetBytes())+" to be handed over")
			}
		}
		result, err := c.Endpoint(ref).Close(ctx, opts)
		if err != nil {
			return err
		}
		if sent := result.Sent; sent.GetCause() == pipedv1.EndCause_END_CAUSE_BROKEN_PIPE && !opts.Discard {
			return fmt.Errorf("not everything was handed over: %s (pipectl inspect %s shows how the reader ended)", endText(sent), ref.Session)
		}
		return nil
	})
	return cmd
}
