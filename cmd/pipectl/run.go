package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
)

// cleanupTimeout bounds the removal of the session, and goneTimeout where the daemon
// was waited for in vain.
const (
	cleanupTimeout = 10 * time.Second
	goneTimeout    = time.Second
)

type runOptions struct {
	processFlags
	bound boundFlag
	quiet bool
	keys  detachKeys
}

func newRunCmd(f *factory) *cobra.Command {
	opts := runOptions{keys: defaultDetachKeys()}
	cmd := &cobra.Command{
		Use:   "run [flags] -- PROGRAM [ARG]...",
		Short: "Run a program: my stdin is its stdin, its stdout is mine",
		Long: `Run a program in a new session as if the shell had started it: stdin, stdout and
stderr are passed on byte by byte, INT, TERM, HUP and QUIT are forwarded, and the exit
code is the program's, or 128+n when a signal ended it. With --merge-stderr both
outputs come out of stdout, in the order in which they were written. The session is
removed afterwards; if pipectl is killed it stays under the name that stderr has said.
With --bound the program is stopped then, when pipectl has been gone for so long.

The program is looked up in its own PATH. Its environment is PATH, HOME, USER and
LANG of the daemon, and what --env adds. With a framing other than raw, each line
of stdin is a message, and so is each line of stdout.

With -t the program has a terminal, as with ssh -t: it is asked for each key, its size
follows that of this one, ctrl-p ctrl-q leaves it running, and its session is removed
when it ends or pipectl is told to. If stdin is no terminal, what comes is typed, and
its end too where the program reads lines. With --stdout-tty the output alone goes
through a terminal, which changes no byte of it, so that programs write each line at
once; stdin stays a pipe.

After --timeout the daemon stops the program, also when pipectl is gone by then: TERM,
and KILL after --stop-grace. It exits with 124 then, with 125 when piped failed or the result is
incomplete, with 126 when the program cannot be executed, 127 when it is not found.`,
		Example: `  pipectl run -- sort < names
  pipectl run --env TZ=UTC --dir /tmp -- date
  pipectl run --merge-stderr -- make > build.log
  pipectl run -t -- top
  pipectl run --stdout-tty -- python3 slow.py | tee log
  pipectl run --name solver --timeout 10m -- ./solve problem.cnf
  pipectl run --bound=30s -- ./serve`,
		Args: arguments("PROGRAM..."),
	}
	opts.add(cmd, rawFraming)
	opts.bound.add(cmd.Flags())
	cmd.Flags().BoolVarP(&opts.quiet, "quiet", "q", false, "do not say the session's name on stderr")
	cmd.Flags().Var(&opts.keys, "detach-keys", "with -t: keys that leave the program running: characters or ctrl-X, with commas between them")
	cmd.Flags().DurationVar(&opts.timeout, "timeout", 0, "stop the program after so long, as 90s, and exit with 124 (else never)")
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		return runRun(ctx, f, c, &opts, args)
	})
	return cmd
}

// rawFraming is the framing in which bytes are passed on as they are.
const rawFraming = "raw"

func runRun(ctx context.Context, f *factory, c *client.Client, opts *runOptions, args []string) error {
	process, err := opts.process(args)
	if err != nil {
		return err
	}
	if process.GetTimeout() != nil {
		// Nobody waits for what it makes of the end of its input.
		if process.Stop == nil {
			process.Stop = &pipedv1.StopPolicy{}
		}
		process.Stop.CloseGrace = durationpb.New(0)
	}
	if err := checkFeatures(ctx, c, process); err != nil {
		return err
	}
	if opts.tty {
		return runOnTerminal(ctx, f, c, opts, process)
	}
	// Nothing of stderr is dropped: when nobody takes it the program waits.
	raw := &pipedv1.Framing{Name: rawFraming}
	if !opts.merge {
		process.StderrPipe = &pipedv1.PipeSpec{
			FramingIn: raw, FramingOut: raw, Log: &pipedv1.LogSpec{Overflow: pipedv1.LogSpec_OVERFLOW_BLOCK},
		}
	}
	// From before the start: a signal must not leave the session behind.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	// Noted, so that a write to a closed stdout returns an error instead of
	// ending this process.
	brokenPipes := make(chan os.Signal, 1)
	signal.Notify(brokenPipes, syscall.SIGPIPE)
	defer signal.Stop(brokenPipes)

	session, release, err := opts.create(ctx, f, c, process)
	if err != nil {
		return err
	}
	defer release()
	j := &job{f: f, client: c, session: session.GetName(), raw: opts.framing == rawFraming, merged: opts.merge, timeout: opts.timeout}
	err = j.run(ctx, signals)

	patience := cleanupTimeout
	if isGone(err) {
		patience = goneTimeout // it was waited for already
	}
	removeSession(ctx, f, c, session, patience)
	return err
}

// create creates the session and says its name. release is as that of a boundFlag.
func (o *runOptions) create(ctx context.Context, f *factory, c *client.Client, process *pipedv1.ProcessSpec) (s *pipedv1.Session, release func(), err error) {
	req, err := o.request(process)
	if err != nil {
		return nil, nil, err
	}
	if err := checkResources(ctx, c, req.GetResources()); err != nil {
		return nil, nil, err
	}
	s, release, err = o.bound.create(ctx, f, c, req)
	if err == nil && !o.quiet {
		f.tell("session", s.GetName())
	}
	return s, release, err
}

func removeSession(ctx context.Context, f *factory, c *client.Client, session *pipedv1.Session, patience time.Duration) {
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if gone := c.Delete(clean, session.GetUid(), true); gone != nil && !errors.Is(gone, client.ErrSessionNotFound) {
		f.tell("note", fmt.Sprintf("session %s may still be there: %v", session.GetName(), gone))
	}
}
