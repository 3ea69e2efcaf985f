package main

import (
	"context"
	"fmt"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
)

func newWaitCmd(f *factory) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait NAME[@PROC]",
		Short: "Wait until a process has exited",
		Long: `Wait until a process of a session has exited, the first if none is named, and print
how: "exit CODE" or "signal NAME", and after it "(stopped)" or "(timeout)" where the
daemon ended it for that. It exits with 0 whatever the process did, and with 124 when
the timeout came first.`,
		Example: `  pipectl wait calc
  pipectl wait work@reader --timeout 10s -o json`,
		Args:              arguments("NAME[@PROC]"),
		ValidArgsFunction: f.completeSessions,
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long to wait, as 1.5s; 0 looks once (else for ever)")
	out := outputFlag(cmd)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		session, process, err := parseTarget(args[0])
		if err != nil {
			return err
		}
		if !cmd.Flags().Changed("timeout") {
			timeout = client.Forever
		}
		got, err := c.Wait(ctx, session, process, timeout)
		if err != nil {
			return err
		}
		if got.GetState() != pipedv1.Process_STATE_EXITED {
			return timeoutError("%s is still running after %v", got.GetName(), max(timeout, 0))
		}
		if *out == outputJSON {
			return printProto(f.out, got)
		}
		_, err = fmt.Fprintln(f.out, exitCauseText(got))
		return err
	})
	return cmd
}
