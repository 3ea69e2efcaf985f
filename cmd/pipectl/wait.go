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
	var incarnation uint64
	cmd := &cobra.Command{
		Use:   "wait NAME[@PROC]",
		Short: "Wait until a process has exited",
		Long: `Wait until a process of a session has exited and is not started again, the first if
none is named, or, with --incarnation, until that one has exited, and print
how: "exit CODE" or "signal NAME", and after it "(stopped)" or "(timeout)" where the
daemon ended it for that. It exits with 0 whatever the process did, and with 124 when
the timeout came first.`,
		Example: `  pipectl wait calc
  pipectl wait work@reader --timeout 10s -o json`,
		Args:              arguments("NAME[@PROC]"),
		ValidArgsFunction: f.completeSessions,
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long to wait, as 1.5s; 0 looks once (else for ever)")
	cmd.Flags().Uint64Var(&incarnation, "incarnation", 0, "wait for the exit of incarnation `N`, whatever follows")
	out := outputFlag(cmd)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		session, process, err := parseTarget(args[0])
		if err != nil {
			return err
		}
		if !cmd.Flags().Changed("timeout") {
			timeout = client.Forever
		}
		var got *pipedv1.Process
		if incarnation > 0 {
			got, err = c.WaitIncarnation(ctx, session, process, incarnation, timeout)
		} else {
			got, err = c.Wait(ctx, session, process, timeout)
		}
		switch {
		case err != nil:
			return err
		case got.GetState() == pipedv1.Process_STATE_RUNNING:
			return timeoutError("%s is still running after %v", got.GetName(), max(timeout, 0))
		case got.GetState() == pipedv1.Process_STATE_BACKOFF && incarnation == 0:
			return timeoutError("%s waits for its next start after %v", got.GetName(), max(timeout, 0))
		}
		if *out == outputJSON {
			return printProto(f.out, got)
		}
		_, err = fmt.Fprintln(f.out, exitCauseText(got))
		return err
	})
	return cmd
}
