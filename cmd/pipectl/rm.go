package main

import (
	"context"

	"github.com/piped-dev/piped/client"
	"github.com/spf13/cobra"
)

func newRmCmd(f *factory) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm [--force] NAME...",
		Short: "Remove sessions",
		Long: `Remove ended sessions, with what they still hold. --force removes sessions that have
not ended too: their processes are killed and their pipes closed. What cannot be
removed does not keep the others.`,
		Example: `  pipectl rm calc
  pipectl rm --force work sorter`,
		Args:              arguments("NAME..."),
		ValidArgsFunction: f.completeMoreSessions,
	}
	cmd.Flags().BoolVar(&force, "force", false, "also those that have not ended")
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		for _, arg := range args {
			if _, err := parseName(arg); err != nil {
				return err
			}
		}
		var failed error
		for _, name := range args {
			err := c.Delete(ctx, name, force)
			if err == nil {
				continue
			}
			if failed != nil {
				f.tell("error", failed.Error())
			}
			failed = err
		}
		return failed
	})
	return cmd
}
