package main

import (
	"context"
	"fmt"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
)

func newWaitCmd(f *factory) *cobra.Command {
	var timeout time.Duration
	var explained, ends bool
	var incarnation uint64
	cmd := &cobra.Command{
		Use:   "wait NAME[@PROC]",
		Short: "Wait until a process has exited",
		Long: `Wait until a process of a session has exited and is not started again, the first if
none is named, or, with --incarnation, until that one has exited, and print
how: "exit CODE" or "signal NAME", and after it "(stopped)" or "(timeout)" where the
daemon ended it for that. It exits with 0 whatever the process did, and with 124 when
the timeout came first.

An exit is not the end of file: a descendant may hold a pipe for hours. With --end it
waits until the session has ended too, which is when nothing can come any more. With
--explain it says on stderr, meanwhile and whenever that changes, what the process may
be waiting for, and who keeps the end of file from coming, and since when.`,
		Example: `  pipectl wait calc
  pipectl wait work@reader --timeout 10s -o json
  pipectl wait calc --end --explain`,
		Args:              arguments("NAME[@PROC]"),
		ValidArgsFunction: f.completeSessions,
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long to wait, as 1.5s; 0 looks once (else for ever)")
	cmd.Flags().BoolVar(&ends, "end", false, "wait also until nothing can come through any pipe any more")
	cmd.Flags().BoolVar(&explained, "explain", false, "say on stderr what is waited for: who holds which end of a pipe, and since when")
	cmd.Flags().Uint64Var(&incarnation, "incarnation", 0, "wait for the exit of incarnation `N`, whatever follows")
	out := outputFlag(cmd)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		session, process, err := parseTarget(args[0])
		if err != nil {
			return err
		}
		if !cmd.Flags().Changed("timeout") {
			timeout = client.Forever
		}
		if explained {
			defer explaining(ctx, f, c, session, process)()
		}
		began := time.Now()
		var got *pipedv1.Process
		if incarnation > 0 {
			got, err = c.WaitIncarnation(ctx, session, process, incarnation, timeout)
		} else {
			got, err = c.Wait(ctx, session, process, timeout)
		}
		switch {
		case err != nil:
			return err
		case got.GetState() == pipedv1.Process_STATE_RUNNING:
			return timeoutError("%s is still running after %v", got.GetName(), max(timeout, 0))
		case got.GetState() == pipedv1.Process_STATE_BACKOFF && incarnation == 0:
			return timeoutError("%s waits for its next start after %v", got.GetName(), max(timeout, 0))
		}
		if ends {
			if timeout != client.Forever {
				timeout = max(timeout-time.Since(began), 0)
			}
			if err := awaitEnd(ctx, c, session, timeout); err != nil {
				return err
			}
		}
		if *out == outputJSON {
			return printProto(f.out, got)
		}
		_, err = fmt.Fprintln(f.out, exitCauseText(got))
		return err
	})
	return cmd
}

// explaining explains in the background until it is told to stop.
func explaining(ctx context.Context, f *factory, c *client.Client, session, process string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		explain(ctx, f.errOut, c, session, process)
	}()
	return func() {
		cancel()
		<-done
	}
}

// awaitEnd waits until a session has ended.
func awaitEnd(ctx context.Context, c *client.Client, session string, timeout time.Duration) error {
	waiting := ctx
	if timeout != client.Forever {
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	there := false
	for resp, err := range c.Watch(waiting, &pipedv1.WatchSessionsRequest{NamePrefix: session}) {
		if err != nil {
			return err
		}
		switch look, event := resp.GetSnapshot(), resp.GetEvent(); {
		case look.GetName() == session:
			if there = true; look.GetState() == pipedv1.Session_STATE_ENDED {
				return nil
			}
		case resp.GetSnapshotEnd() != nil && !there:
			return nil // it was deleted meanwhile
		case event.GetSession() != session:
		case event.GetType() == pipedv1.SessionEvent_TYPE_SESSION_ENDED, event.GetType() == pipedv1.SessionEvent_TYPE_SESSION_DELETED:
			return nil
		}
	}
	if ctx.Err() == nil {
		return timeoutError("%s has exited, and its pipes have not ended after %v: --explain says why", session, timeout)
	}
	return ctx.Err()
}
