package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
)

type recvOptions struct {
	printFlags
	count   uint64
	timeout time.Duration
	follow  bool
	force   bool
	lease   leaseFlags
}

func newRecvCmd(f *factory) *cobra.Command {
	var opts recvOptions
	cmd := &cobra.Command{
		Use:   "recv REF",
		Short: "Receive messages from an end of a pipe",
		Long: `Receive one message, COUNT messages, or with --follow all until the end, and print
one a line. Each is acknowledged once stdout has taken it; what is not, stays for
the next recv. In the framing "raw" the bytes are printed as they are, and what
arrives together counts as one message. --steal takes the right to receive from the
client that has it; it keeps what it was given and had not acknowledged, and so it
is received twice.

It exits with 3 when the end comes before COUNT messages, and with 124 when the
timeout does.`,
		Example: `  pipectl recv calc
  pipectl recv calc -n 3 --timeout 5s
  pipectl recv work/ctl --follow -o json`,
		Args:              arguments("REF"),
		ValidArgsFunction: f.completeSessions,
	}
	flags := cmd.Flags()
	flags.Uint64VarP(&opts.count, "count", "n", 1, "how many messages to receive")
	flags.DurationVar(&opts.timeout, "timeout", 0, "how long to wait for all of them, as 1.5s (else for ever)")
	flags.BoolVarP(&opts.follow, "follow", "f", false, "receive until the end")
	flags.BoolVar(&opts.force, "force", false, "receive even though a process holds a copy of the same end and may take some of the bytes")
	opts.lease.add(cmd)
	opts.add(cmd)
	exclusive(cmd, "count", "follow")
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		ref, err := parseRef(args[0])
		if err != nil {
			return err
		}
		switch {
		case opts.count == 0 && !opts.follow:
			return usageError("-n 0 receives nothing: give 1 or more, or --follow for all")
		case cmd.Flags().Changed("timeout") && opts.timeout <= 0:
			return usageError("--timeout %v must be above 0: pipectl poll --timeout 0 looks without waiting", opts.timeout)
		}
		return recvRun(ctx, f, c.Endpoint(ref), &opts)
	})
	return cmd
}

func recvRun(ctx context.Context, f *factory, e *client.Endpoint, opts *recvOptions) error {
	token, err := opts.lease.proof(pipedv1.LeaseRole_LEASE_ROLE_CONSUMER)
	if err != nil {
		return err
	}
	readerOpts := client.ReaderOptions{
		ConsumerID: clientName(), LeaseToken: token, LeaseDuration: noLease, Steal: opts.lease.steal, Force: opts.force,
		ReconnectFor: comeBackFor,
	}
	if opts.timeout > 0 {
		readerOpts.ReconnectFor = min(opts.timeout, comeBackFor)
	}
	if !opts.follow {
		readerOpts.MaxUnackedMessages = opts.count
	}
	r, err := e.NewReader(ctx, readerOpts)
	if err != nil {
		return err
	}
	wait := ctx
	if opts.timeout > 0 {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, opts.timeout)
		defer cancel()
	}
	got, err := recvMessages(wait, f, r, opts)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = timeoutError("%s within %v", receivedText(got, opts), opts.timeout)
	}
	// Only this makes certain that the acknowledgements were taken.
	return firstError(err, r.Close(ctx))
}

// receivedText says how far a recv got before its time was up.
func receivedText(got uint64, opts *recvOptions) string {
	if opts.follow {
		return "no end, but " + countText(got, "message")
	}
	return fmt.Sprintf("got %d of %s", got, countText(opts.count, "message"))
}

// recvMessages prints messages and acknowledges what stdout has taken. It
// returns how many there were.
func recvMessages(ctx context.Context, f *factory, r *client.Reader, opts *recvOptions) (got uint64, err error) {
	p := newPrinter(f.out, &opts.printFlags, r.Raw())
	next := r.NextPart
	if p.json {
		next = r.Next
	}
	for opts.follow || got < opts.count {
		m, err := next(ctx)
		if gap, ok := errors.AsType[*client.GapError](err); ok {
			f.tell("note", gap.Error())
			continue
		}
		switch {
		case errors.Is(err, io.EOF) && opts.follow:
			return got, wholeEnd(r.End())
		case errors.Is(err, io.EOF):
			return got, &codedError{code: exitEnded, err: fmt.Errorf("the end came after %d of %s: %s", got, countText(opts.count, "message"), endText(r.End()))}
		case err != nil:
			return got, err
		}
		if err := p.message(m); err != nil {
			return got, err
		}
		if !m.More || r.Raw() {
			got++
		}
		last := !opts.follow && got == opts.count
		if r.Buffered() && !last {
			continue
		}
		// In this order: what stdout did not take stays for the next recv.
		if err := p.flush(); err != nil {
			return got, err
		}
		if err := r.Ack(m.After); err != nil {
			return got, err
		}
	}
	return got, nil
}

// wholeEnd returns an error for an end that left something out.
func wholeEnd(end *pipedv1.End) error {
	switch end.GetCause() {
	case pipedv1.EndCause_END_CAUSE_TRUNCATED, pipedv1.EndCause_END_CAUSE_BAD_FRAME,
		pipedv1.EndCause_END_CAUSE_FRAME_OVER_LIMIT, pipedv1.EndCause_END_CAUSE_SESSION_LOST:
		return fmt.Errorf("the end is not a whole one: %s", endText(end))
	default:
		return nil
	}
}

// endText says in words why a direction ended.
func endText(end *pipedv1.End) string {
	text := strings.ToLower(strings.TrimPrefix(end.GetCause().String(), "END_CAUSE_"))
	text = strings.ReplaceAll(text, "_", " ")
	// A detail may begin with the cause.
	if detail := strings.TrimPrefix(strings.TrimPrefix(end.GetDetail(), text), "; "); detail != "" {
		text += ", " + detail
	}
	return text
}
