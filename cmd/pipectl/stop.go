package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
)

type stopOptions struct {
	closeGrace, grace time.Duration
	signal            string
	tree              bool
	output            *output
}

func newStopCmd(f *factory) *cobra.Command {
	var opts stopOptions
	cmd := &cobra.Command{
		Use:   "stop NAME[@PROC]",
		Short: "End the processes of a session, or one of them",
		Long: `End all processes of a session, or the one that is named, step by step: close its
input, send TERM, send KILL, with a grace period before each next step. Print how each
ended. The session stays, with what it still has to receive, until it is removed.

What no flag says is as the start of the process said (--stop-grace), or as the daemon
has it. The steps go on when pipectl is gone. A second stop joins the first, and can
make it shorter. --tree signals the process's whole process group, and kills what is
left of it when the process has ended; a descendant that has left the group is not
reached.`,
		Example: `  pipectl stop calc
  pipectl stop work@reader --grace 30s
  pipectl stop work --signal INT --close-grace 0s --tree`,
		Args:              arguments("NAME[@PROC]"),
		ValidArgsFunction: f.completeSessions,
	}
	flags := cmd.Flags()
	flags.DurationVar(&opts.closeGrace, "close-grace", 0, "how long a process has after its input is closed, as 2s")
	flags.DurationVar(&opts.grace, "grace", 0, "how long a process has after the signal, as 5s")
	flags.StringVar(&opts.signal, "signal", "", "the `SIGNAL` that asks it to end (else TERM)")
	flags.BoolVar(&opts.tree, "tree", false, "signal its descendants too, as far as they can be reached")
	// What they were called before.
	flags.DurationVar(&opts.closeGrace, "input-grace", 0, "the same as --close-grace")
	flags.DurationVar(&opts.grace, "term-grace", 0, "the same as --grace")
	for _, old := range []string{"input-grace", "term-grace"} {
		_ = flags.MarkHidden(old)
	}
	exclusive(cmd, "close-grace", "input-grace")
	exclusive(cmd, "grace", "term-grace")
	signals := []string{"TERM", "INT", "HUP", "QUIT", "USR1", "USR2"}
	_ = cmd.RegisterFlagCompletionFunc("signal", cobra.FixedCompletions(signals, cobra.ShellCompDirectiveNoFileComp))
	opts.output = outputFlag(cmd)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		return stopRun(ctx, f, c, args[0], opts.policy(flags.Changed), *opts.output)
	})
	return cmd
}

// policy returns what the flags say; what they do not say stays open.
func (o *stopOptions) policy(changed func(flag string) bool) *pipedv1.StopPolicy {
	policy := &pipedv1.StopPolicy{Signal: o.signal}
	if changed("close-grace") || changed("input-grace") {
		policy.CloseGrace = durationpb.New(o.closeGrace)
	}
	if changed("grace") || changed("term-grace") {
		policy.Grace = durationpb.New(o.grace)
	}
	if o.tree {
		policy.Scope = pipedv1.StopPolicy_SCOPE_TREE
	}
	return policy
}

func stopRun(ctx context.Context, f *factory, c *client.Client, target string, policy *pipedv1.StopPolicy, out output) error {
	session, process, err := parseTarget(target)
	if err != nil {
		return err
	}
	var stopped []*pipedv1.Process
	if strings.Contains(target, "@") {
		var one *pipedv1.Process
		one, err = c.StopProcess(ctx, &pipedv1.StopProcessRequest{Session: session, Process: process, Policy: policy})
		stopped = append(stopped, one)
	} else {
		stopped, err = c.Stop(ctx, &pipedv1.StopSessionRequest{Session: session, Policy: policy})
	}
	if err != nil {
		return err
	}
	for _, p := range stopped {
		if out == outputJSON {
			err = printProto(f.out, p)
		} else {
			_, err = fmt.Fprintf(f.out, "%s %s\n", p.GetName(), exitText(p))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
