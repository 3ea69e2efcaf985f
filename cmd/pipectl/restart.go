package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"
)

// featureRestart is what a daemon has that starts processes again.
const featureRestart = "process/restart"

// restartFlags say when the daemon starts a program again.
type restartFlags struct {
	mode    string
	backoff string
	most    uint32
	healthy time.Duration
}

func (r *restartFlags) add(cmd *cobra.Command, flags *pflag.FlagSet) {
	flags.StringVar(&r.mode, "restart", "", "`WHEN` the daemon starts the program again: never, on-failure or always (else never)")
	flags.StringVar(&r.backoff, "restart-backoff", "", "`FIRST[..LONGEST]`: the wait before it, which doubles up to the longest (else 100ms..30s)")
	flags.Uint32Var(&r.most, "restart-max", 0, "give up after `N` starts in a row (else never)")
	flags.DurationVar(&r.healthy, "restart-healthy", 0, "a program that ran so long was well: wait and count begin anew (else 10s)")
	_ = cmd.RegisterFlagCompletionFunc("restart", cobra.FixedCompletions([]string{"never", "on-failure", "always"}, cobra.ShellCompDirectiveNoFileComp))
}

var restartModes = map[string]pipedv1.RestartPolicy_Mode{
	"never": pipedv1.RestartPolicy_MODE_NEVER, "on-failure": pipedv1.RestartPolicy_MODE_ON_FAILURE, "always": pipedv1.RestartPolicy_MODE_ALWAYS,
}

// policy returns what the flags say; nil where they say nothing.
func (r *restartFlags) policy(changed func(flag string) bool) (*pipedv1.RestartPolicy, error) {
	if r.mode == "" {
		for _, flag := range []string{"restart-backoff", "restart-max", "restart-healthy"} {
			if changed(flag) {
				return nil, usageError("--%s needs --restart on-failure or --restart always", flag)
			}
		}
		return nil, nil //nolint:nilnil // there is none
	}
	mode, known := restartModes[r.mode]
	if !known {
		return nil, usageError("--restart %q: want never, on-failure or always", r.mode)
	}
	policy := &pipedv1.RestartPolicy{Mode: mode, MaxRestarts: r.most}
	if changed("restart-healthy") {
		policy.HealthyAfter = durationpb.New(r.healthy)
	}
	if changed("restart-backoff") {
		first, longest, bounded := strings.Cut(r.backoff, "..")
		d, err := time.ParseDuration(first)
		if err != nil {
			return nil, usageError("--restart-backoff %q is not FIRST[..LONGEST], as in 1s..30s", r.backoff)
		}
		policy.InitialBackoff = durationpb.New(d)
		if bounded {
			if d, err = time.ParseDuration(longest); err != nil {
				return nil, usageError("--restart-backoff %q is not FIRST[..LONGEST], as in 1s..30s", r.backoff)
			}
			policy.MaxBackoff = durationpb.New(d)
		}
	}
	return policy, nil
}

func newRestartCmd(f *factory) *cobra.Command {
	var opts stopOptions
	cmd := &cobra.Command{
		Use:   "restart NAME[@PROC]",
		Short: "Start a process anew",
		Long: `Start a process of a session anew, the first if none is named, from what it was started
from: arguments, environment, directory, pipes. One that runs is stopped first, step by
step as pipectl stop does, and killed in the end; one that waits for its next start gets
it now; one that has exited starts again, also in a session that has ended.

It is a new incarnation, with a new stdin, stdout and stderr; a pipe whose end it was
given alone is made anew too. Whoever reads from the one before gets what that has still
said, and its end; NAME~1 names it. What it had not read is not sent again: pipectl
inspect and events tell how much that is. Whoever sends or receives from now on has the
new one. The name and the incarnation are printed.`,
		Example: `  pipectl restart calc
  pipectl restart work@reader --close-grace 0s --grace 30s
  pipectl recv calc~1`,
		Args:              arguments("NAME[@PROC]"),
		ValidArgsFunction: f.completeSessions,
	}
	flags := cmd.Flags()
	flags.DurationVar(&opts.closeGrace, "close-grace", 0, "how long the process has after its input is closed, as 2s")
	flags.DurationVar(&opts.grace, "grace", 0, "how long the process has after the signal, as 5s")
	flags.StringVar(&opts.signal, "signal", "", "the `SIGNAL` that asks it to end (else TERM)")
	flags.BoolVar(&opts.tree, "tree", false, "signal its descendants too, as far as they can be reached")
	opts.output = outputFlag(cmd)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		policy := opts.policy(func(flag string) bool { return flags.Lookup(flag) != nil && flags.Changed(flag) })
		return restartRun(ctx, f, c, args[0], policy, *opts.output)
	})
	return cmd
}

func restartRun(ctx context.Context, f *factory, c *client.Client, target string, policy *pipedv1.StopPolicy, out output) error {
	session, process, err := parseTarget(target)
	if err != nil {
		return err
	}
	info, err := c.Info(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(info.GetFeatures(), featureRestart) {
		return fmt.Errorf("this daemon is too old for restart: it does not have %q", featureRestart)
	}
	p, err := c.Restart(ctx, &pipedv1.RestartProcessRequest{Session: session, Process: process, Policy: policy})
	if err != nil {
		return err
	}
	return f.printMade(fmt.Sprintf("%s %d", p.GetName(), p.GetIncarnation()), p, out)
}

// incarnationText is a name with its incarnation, from the second on.
func incarnationText(name string, incarnation uint64) string {
	if incarnation <= 1 {
		return name
	}
	return fmt.Sprintf("%s~%d", name, incarnation)
}

// startsText says what is known of the starts of a process, or nothing.
func startsText(p *pipedv1.Process) string {
	var parts []string
	if n := p.GetRestarts(); n > 0 {
		parts = append(parts, fmt.Sprintf("incarnation %d, started again %s", p.GetIncarnation(), countText(n, "time")))
	}
	if next := p.GetNextStartTime(); next != nil {
		parts = append(parts, "starts again at "+next.AsTime().Format(time.RFC3339))
	}
	if p.GetRestartFailure() != "" {
		parts = append(parts, printable(p.GetRestartFailure()))
	}
	return strings.Join(parts, "; ")
}

// unreadText says what nobody has read of an incarnation.
func unreadText(u *pipedv1.Unread) string {
	var parts []string
	if n := u.GetInputMessages(); n > 0 {
		parts = append(parts, countText(n, "message")+" of input unread")
	}
	if u.GetOutputMessages() > 0 || u.GetOutputBytes() > 0 {
		parts = append(parts, amountText(u.GetOutputMessages(), u.GetOutputBytes())+" of output unread")
	}
	return strings.Join(parts, ", ")
}
