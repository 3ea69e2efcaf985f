package main

import (
	"context"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// runOnTerminal is run for a program that has a terminal: an attach whose end is
// that of the program, and whose exit code is the program's.
func runOnTerminal(ctx context.Context, f *factory, c *client.Client, opts *runOptions, process *pipedv1.ProcessSpec) error {
	session, release, err := opts.create(ctx, f, c, process)
	if err != nil {
		return err
	}
	defer release()
	ref := client.Ref{Session: session.GetName(), Pipe: "stdio", End: 1}
	inside, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	a := &attachment{f: f, client: c, ref: ref, opts: &attachOptions{keys: opts.keys, closeInput: true}, name: clientName(), leave: leave, quiet: true}
	exited := make(chan struct{})
	go func() { // a process that it has left behind may hold the terminal for hours
		defer close(exited)
		if _, err := c.Wait(inside, session.GetName(), "", client.Forever); err == nil {
			timer := time.AfterFunc(heldGrace, func() { leave(errOutputEnded) })
			context.AfterFunc(inside, func() { timer.Stop() })
		}
	}()
	err = a.attach(inside)
	leave(nil)
	<-exited
	switch {
	case a.left:
		return nil
	case err != nil:
		hangUp(ctx, c, ref)
	default:
		err = terminalExit(ctx, c, session, opts.timeout)
	}
	patience := cleanupTimeout
	if isGone(err) {
		patience = goneTimeout
	}
	removeSession(ctx, f, c, session, patience)
	return err
}

// terminalExit waits for the exit of a program whose output has ended, and turns it
// into ours.
func terminalExit(ctx context.Context, c *client.Client, session *pipedv1.Session, timeout time.Duration) error {
	process, err := c.Wait(ctx, session.GetName(), "", client.Forever)
	switch {
	case err != nil:
		return err
	case process.GetExit().GetCause() == pipedv1.Exit_CAUSE_TIMEOUT:
		return timeoutError("%s had not ended after %v, and was stopped", process.GetName(), timeout)
	}
	return exitOf(process)
}
