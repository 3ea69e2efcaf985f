package main

import (
	"context"

	"github.com/piped-dev/piped/client"
	"github.com/spf13/cobra"
)

func newSignalCmd(f *factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "signal NAME[@PROC] SIGNAL",
		Short: "Send a signal to a process",
		Long: `Send a signal to a process of a session, the first if none is named. SIGNAL is a
name with or without SIG, or a number.`,
		Example: `  pipectl signal calc INT
  pipectl signal work@reader SIGUSR1`,
		Args: arguments("NAME[@PROC]", "SIGNAL"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return []string{"INT", "TERM", "KILL", "HUP", "QUIT", "USR1", "USR2", "STOP", "CONT"}, cobra.ShellCompDirectiveNoFileComp
			}
			return f.completeSessions(cmd, args, toComplete)
		},
	}
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		session, process, err := parseTarget(args[0])
		if err != nil {
			return err
		}
		return c.Signal(ctx, session, process, args[1])
	})
	return cmd
}
