package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
)

func newPollCmd(f *factory) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "poll REF...",
		Short: "Say which ends have something to receive",
		Long: `Wait until at least one of the ends has something to receive or has ended, and
print all that have, one a line: the reference, and what a receive would find
(message, data, end). "data" alone is less than a message. Nothing is consumed.

--timeout 0 looks without waiting. It exits with 124 when nothing was there.`,
		Example: `  pipectl poll calc
  pipectl poll a b c/ctl --timeout 10s`,
		Args:              arguments("REF..."),
		ValidArgsFunction: f.completeMoreSessions,
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long to wait, as 1.5s (else for ever)")
	out := outputFlag(cmd)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		refs := make([]client.Ref, len(args))
		for i, arg := range args {
			ref, err := parseRef(arg)
			if err != nil {
				return err
			}
			refs[i] = ref
		}
		if !cmd.Flags().Changed("timeout") {
			timeout = client.Forever
		}
		ready, err := c.Poll(ctx, refs, timeout)
		if err != nil {
			return err
		}
		if len(ready) == 0 {
			return timeoutError("nothing to receive within %v", max(timeout, 0))
		}
		for _, one := range ready {
			if err := f.printReadiness(args[one.GetIndex()], one, *out); err != nil {
				return err
			}
		}
		return nil
	})
	return cmd
}

func (f *factory) printReadiness(ref string, ready *pipedv1.Readiness, out output) error {
	if out == outputJSON {
		return printJSON(f.out, struct {
			Ref     string `json:"ref"`
			Message bool   `json:"message"`
			Data    bool   `json:"data"`
			End     bool   `json:"end"`
		}{ref, ready.GetMessage(), ready.GetData(), ready.GetEnd()})
	}
	words := []string{ref}
	if ready.GetMessage() {
		words = append(words, "message")
	}
	if ready.GetData() {
		words = append(words, "data")
	}
	if ready.GetEnd() {
		words = append(words, "end")
	}
	_, err := fmt.Fprintln(f.out, strings.Join(words, " "))
	return err
}
