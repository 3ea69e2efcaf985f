package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/piped-dev/piped/client"
	"github.com/spf13/cobra"
)

type attachOptions struct {
	observe    bool
	showInput  bool
	lease      leaseFlags
	closeInput bool
	keys       detachKeys
	from       startFlag
}

func newAttachCmd(f *factory) *cobra.Command {
	opts := attachOptions{keys: defaultDetachKeys()}
	cmd := &cobra.Command{
		Use:   "attach REF",
		Short: "Take over a running program: type to it, see what it says, leave, come back",
		Long: `Connect this terminal, or stdin and stdout, to an end of a pipe. What comes out of it
is printed as it is, colours too; each line that is typed is sent as one message (in
the framing "raw" the bytes as they come). For the input and output of a program its
stderr is shown too. Output begins with what nobody has received yet, so that
whoever comes back misses nothing.

Leaving ends nothing. On a terminal, ctrl-p ctrl-q leaves, and so do ctrl-c and ctrl-d:
they act on pipectl alone, unlike with docker attach; "pipectl signal" signals the
program. A line is edited here and sent by Enter; one that was not sent when the keys
came is dropped. Where the program has a terminal of its own (run -t, start -t) every
key goes to it as it is typed, ctrl-c too, and its size follows that of this one; then
ctrl-p ctrl-q alone leaves. In a script, the end of stdin leaves nothing: the output goes on to
its end, as with docker attach and kubectl attach -i. With --close-input the end of
stdin, or ctrl-d, closes the input of the program too, once and for all.

One client at a time has the pen: the right to send. --steal takes it from whoever has
it; who loses it is told to whom, and goes on looking. --observe only looks, and any
number may; of a bare pipe they see what somebody receives, for nothing else is read.
With --show-input they see what others send too, each message behind "> ".

It exits with 0 when it was left or the output came to its end, with 1 when that is
not a whole one, as recv --follow does, and with 128+n after a signal.`,
		Example: `  pipectl attach calc
  pipectl attach calc --observe --show-input
  pipectl attach work/ctl --steal --detach-keys ctrl-a,d
  pipectl attach calc --close-input < script`,
		Args:              arguments("REF"),
		ValidArgsFunction: f.completeSessions,
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.observe, "observe", false, "only look: send nothing, consume nothing")
	flags.BoolVar(&opts.showInput, "show-input", false, "with --observe, show also what others send")
	opts.lease.add(cmd)
	flags.BoolVar(&opts.closeInput, "close-input", false, "close the program's input when stdin ends")
	flags.Var(&opts.keys, "detach-keys", "keys that leave, on a terminal: characters or ctrl-X, with commas between them")
	opts.from.add(cmd, "else at what nobody has received")
	exclusive(cmd, "observe", "steal")
	exclusive(cmd, "observe", "close-input")
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		ref, err := parseRef(args[0])
		if err != nil {
			return err
		}
		if opts.showInput && !opts.observe {
			return usageError("--show-input needs --observe: who types sees what is typed")
		}
		return attachRun(ctx, f, c, ref, &opts)
	})
	return cmd
}

func attachRun(ctx context.Context, f *factory, c *client.Client, ref client.Ref, opts *attachOptions) error {
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	a := &attachment{f: f, client: c, ref: ref, opts: opts, name: clientName(), leave: leave}
	return a.attach(ctx)
}

// attach opens the streams, sets the terminal if there is one, and runs until
// somebody leaves or the output ends.
func (a *attachment) attach(ctx context.Context) error {
	if err := a.open(ctx); err != nil {
		return err
	}
	// From before the terminal is changed: every way out restores it.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	// Noted, so that a write to a closed stdout returns an error instead of
	// ending this process.
	brokenPipes := make(chan os.Signal, 1)
	signal.Notify(brokenPipes, syscall.SIGPIPE)
	defer signal.Stop(brokenPipes)

	if isTerminal(a.f.in) {
		suspensions := make(chan os.Signal, 1)
		if suspendSignal >= 0 {
			signal.Notify(suspensions, suspendSignal)
			defer signal.Stop(suspensions)
		}
		terminal, err := a.setTerminal(a.f.in.(*os.File))
		if err != nil {
			return firstError(err, a.close())
		}
		defer func() { _ = terminal.restore() }()
		a.terminal, a.suspensions = terminal, suspensions
		a.scanner.keys = a.opts.keys.sent
	}
	if a.interactive && resizeSignal >= 0 {
		resizes := make(chan os.Signal, 1)
		signal.Notify(resizes, resizeSignal)
		defer signal.Stop(resizes)
		a.resizes = resizes
	}
	return a.run(ctx, signals)
}

func (a *attachment) setTerminal(file *os.File) (*terminal, error) {
	if a.interactive {
		return newRawTerminal(file)
	}
	return newTerminal(file, a.opts.keys.sent)
}

// comeBack is the command that attaches again.
func (a *attachment) comeBack() string {
	text := "pipectl "
	if a.f.addr != "" {
		text += "--addr " + quoteArg(a.f.addr) + " "
	}
	text += "attach " + a.ref.String()
	if a.opts.observe {
		text += " --observe"
	}
	if a.opts.showInput {
		text += " --show-input"
	}
	return text
}
