package main

import (
	"context"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
)

type pipeOptions struct {
	name, session, pipe string
	framing             string
	oneWay              bool
}

func newPipeCmd(f *factory) *cobra.Command {
	var opts pipeOptions
	cmd := &cobra.Command{
		Use:   "pipe [--name NAME | --session NAME --pipe PIPE]",
		Short: "Make a pipe whose ends the daemon both holds",
		Long: `Make a pipe and print its reference. What is sent into one end is received from
the other; pipectl start --session --inherit gives copies of the ends to programs.
A one-way pipe is received from at end 1 and sent into at end 2.`,
		Example: `  pipectl pipe --name work
  pipectl send work hello && pipectl recv work:2
  pipectl pipe --session work --pipe results --framing mp --one-way`,
		Args: arguments(),
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.name, "name", "", "name of the new session (else one is generated)")
	flags.StringVar(&opts.session, "session", "", "add the pipe to this session instead")
	flags.StringVar(&opts.pipe, "pipe", "", "name of the pipe (else pipe)")
	flags.StringVar(&opts.framing, "framing", "line", "how messages are cut: line, mp or raw")
	flags.BoolVar(&opts.oneWay, "one-way", false, "a kernel pipe instead of a socket pair")
	out := outputFlag(cmd)
	exclusive(cmd, "name", "session")
	_ = cmd.RegisterFlagCompletionFunc("framing", completeFramings)
	_ = cmd.RegisterFlagCompletionFunc("session", f.completeMoreSessions)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, _ []string) error {
		return pipeRun(ctx, f, c, &opts, *out)
	})
	return cmd
}

func pipeRun(ctx context.Context, f *factory, c *client.Client, opts *pipeOptions, out output) error {
	for _, given := range []string{opts.name, opts.session, opts.pipe} {
		if err := client.CheckName(given); given != "" && err != nil {
			return usageError("%w", err)
		}
	}
	framing, err := parseFraming(opts.framing)
	if err != nil {
		return err
	}
	spec := &pipedv1.PipeSpec{Name: opts.pipe, Kind: pipedv1.Pipe_KIND_DUPLEX, FramingIn: framing, FramingOut: framing}
	if opts.oneWay {
		spec.Kind = pipedv1.Pipe_KIND_ONE_WAY
	}
	if opts.session != "" {
		pipe, err := c.CreatePipe(ctx, &pipedv1.CreatePipeRequest{Session: opts.session, Pipe: spec})
		if err != nil {
			return err
		}
		return f.printMade(client.Ref{Session: opts.session, Pipe: pipe.GetName()}.String(), pipe, out)
	}
	session, err := c.Create(ctx, &pipedv1.CreateSessionRequest{Name: opts.name, Pipes: []*pipedv1.PipeSpec{spec}})
	if err != nil {
		return err
	}
	return f.printMade(session.GetName(), session, out)
}
