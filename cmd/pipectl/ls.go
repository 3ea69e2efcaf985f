package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
)

func newLsCmd(f *factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls [PREFIX]",
		Short: "List sessions",
		Long: `List the sessions, or those whose names begin with PREFIX, oldest first. Where the
daemon has ended the first process of one, how and why stands behind its command.`,
		Example: `  pipectl ls
  pipectl ls sort- -o json`,
		Args:              arguments("[PREFIX]"),
		ValidArgsFunction: f.completeSessions,
	}
	out := outputFlag(cmd)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		req := &pipedv1.ListSessionsRequest{}
		if len(args) > 0 {
			req.NamePrefix = args[0]
		}
		return lsRun(ctx, f, c, req, *out)
	})
	return cmd
}

func lsRun(ctx context.Context, f *factory, c *client.Client, req *pipedv1.ListSessionsRequest, out output) error {
	table := tabwriter.NewWriter(f.out, 0, 0, 2, ' ', 0)
	titled := false
	for session, err := range c.List(ctx, req) {
		if err != nil {
			return firstError(err, table.Flush())
		}
		if out == outputJSON {
			if err := printProto(f.out, session); err != nil {
				return err
			}
			continue
		}
		if !titled {
			titled = true
			_, _ = fmt.Fprintln(table, "NAME\tSTATE\tAGE\tPIPES\tPROCESSES\tCOMMAND")
		}
		command := "-"
		if processes := session.GetProcesses(); len(processes) > 0 {
			command = shorten(commandText(processes[0].GetArgs()), 60)
			if text := exitCauseText(processes[0]); text != exitText(processes[0]) {
				command += "  [" + text + "]"
			}
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%v\t%d\t%d\t%s\n", session.GetName(), enumText(session.GetState().String()),
			age(session), len(session.GetPipes()), len(session.GetProcesses()), command)
	}
	return table.Flush()
}

func age(session *pipedv1.Session) time.Duration {
	return max(time.Since(session.GetCreateTime().AsTime()), 0).Truncate(time.Second)
}
