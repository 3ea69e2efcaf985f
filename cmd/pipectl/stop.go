package main

import (
	"context"
	"fmt"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
)

func newStopCmd(f *factory) *cobra.Command {
	var inputGrace, termGrace time.Duration
	cmd := &cobra.Command{
		Use:   "stop NAME",
		Short: "End the processes of a session",
		Long: `End the processes of a session step by step: close their input, send TERM, send
KILL, with a grace period before each next step. Print how each ended. The session
stays, with what it still has to receive, until it is removed.`,
		Example: `  pipectl stop calc
  pipectl stop work --term-grace 30s`,
		Args:              arguments("NAME"),
		ValidArgsFunction: f.completeSessions,
	}
	flags := cmd.Flags()
	flags.DurationVar(&inputGrace, "input-grace", 2*time.Second, "how long a process has after its input is closed")
	flags.DurationVar(&termGrace, "term-grace", 5*time.Second, "how long a process has after TERM")
	out := outputFlag(cmd)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		name, err := parseName(args[0])
		if err != nil {
			return err
		}
		processes, err := c.Stop(ctx, &pipedv1.StopSessionRequest{
			Session: name, InputGrace: durationpb.New(inputGrace), TermGrace: durationpb.New(termGrace),
		})
		if err != nil {
			return err
		}
		for _, p := range processes {
			if *out == outputJSON {
				err = printProto(f.out, p)
			} else {
				_, err = fmt.Fprintf(f.out, "%s %s\n", p.GetName(), exitText(p))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return cmd
}
