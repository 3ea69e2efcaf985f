package main

import (
	"context"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
)

type startOptions struct {
	processFlags
	restart  restartFlags
	session  string
	as       string
	inherits []string
}

func newStartCmd(f *factory) *cobra.Command {
	var opts startOptions
	cmd := &cobra.Command{
		Use:   "start [flags] -- PROGRAM [ARG]...",
		Short: "Start a program and leave it running",
		Long: `Start a program in a new session and print the session's name. The pipe "stdio"
leads to its standard input and output, "stderr" to its standard error; with
--merge-stderr that goes into "stdio" too, in the order in which both are written.

With --session, start one more program in that session; --inherit gives it copies
of pipe ends, which the daemon keeps too, as descriptors of its own or, with 0, 1 or 2,
as its standard input, output or error. Then NAME@PROCESS is printed.

After --timeout the daemon stops the program as pipectl stop does; wait says so.

With --restart the daemon starts the program again when it has exited, or failed, with
new pipes, until somebody stops it: see pipectl restart.`,
		Example: `  pipectl start --name calc -- bc
  pipectl start --fd ctl:3:mp -- python3 worker.py
  pipectl start --name nightly --timeout 2h --stop-grace 30s -- ./nightly.sh
  pipectl start --name web --restart on-failure --restart-backoff 1s..1m -- ./web
  pipectl start --session work --as reader --inherit pipe:2:3 -- python3 reader.py
  pipectl start --session work --as counter --inherit pipe:2:0 -- wc -l`,
		Args: arguments("PROGRAM..."),
	}
	opts.add(cmd, "line")
	flags := cmd.Flags()
	flags.DurationVar(&opts.timeout, "timeout", 0, "stop the program after so long, as 90s (else never)")
	opts.restart.add(cmd, flags)
	flags.StringVar(&opts.session, "session", "", "start in this session instead of a new one")
	flags.StringVar(&opts.as, "as", "", "name of the process (else its program's)")
	flags.StringArrayVar(&opts.inherits, "inherit", nil, "`PIPE:END:FD`: a copy of that end as descriptor FD; with --session, repeatable")
	out := outputFlag(cmd)
	exclusive(cmd, "session", "name")
	exclusive(cmd, "session", "fd")
	for _, name := range opts.names() {
		exclusive(cmd, "session", name)
	}
	_ = cmd.RegisterFlagCompletionFunc("session", f.completeMoreSessions)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		return startRun(ctx, f, c, &opts, *out, args)
	})
	return cmd
}

func startRun(ctx context.Context, f *factory, c *client.Client, opts *startOptions, out output, args []string) error {
	process, err := opts.process(args)
	if err != nil {
		return err
	}
	if process.Restart, err = opts.restart.policy(opts.changed); err != nil {
		return err
	}
	if err := checkFeatures(ctx, c, process); err != nil {
		return err
	}
	if process.Name, err = opts.processName(); err != nil {
		return err
	}
	for _, text := range opts.inherits {
		inherit, err := parseInherit(text)
		if err != nil {
			return err
		}
		process.Inherits = append(process.Inherits, inherit)
	}
	if opts.session == "" {
		if len(opts.inherits) > 0 {
			return usageError("--inherit needs --session: a new session has no pipe to inherit; --fd makes one")
		}
		req, err := opts.request(process)
		if err != nil {
			return err
		}
		if err := checkResources(ctx, c, req.GetResources()); err != nil {
			return err
		}
		session, err := c.Create(ctx, req)
		if err != nil {
			return err
		}
		return f.printMade(session.GetName(), session, out)
	}
	name, err := parseName(opts.session)
	if err != nil {
		return err
	}
	started, err := c.Start(ctx, &pipedv1.StartProcessRequest{Session: name, Process: process})
	if err != nil {
		return err
	}
	return f.printMade(name+"@"+started.GetName(), started, out)
}

func (o *startOptions) processName() (string, error) {
	if o.as == "" {
		return "", nil
	}
	if err := client.CheckName(o.as); err != nil {
		return "", usageError("--as: process %w", err)
	}
	return o.as, nil
}
