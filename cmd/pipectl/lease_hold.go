package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/piped-dev/piped/client"
	"github.com/spf13/cobra"
)

func newLeaseHoldCmd(f *factory) *cobra.Command {
	var opts acquireFlags
	cmd := &cobra.Command{
		Use:   "hold [flags] REF -- COMMAND [ARG]...",
		Short: "Hold a lease while a command runs here",
		Long: `Take a lease, run a command on this machine with the lease in ` + leaseVariable + `, renew
the lease while the command runs, and release it then. When the lease is lost, the
command gets TERM. stdin, stdout and stderr are the command's, TERM and HUP are
forwarded to it.

It exits as the command does, with 128+n for a signal, with 125 when the lease
could not be had or was lost, 126 when the command cannot be executed, and 127 when it
is not found.`,
		Example: `  pipectl lease hold calc -- ./talk-to-calc.sh
  pipectl lease hold --role consumer work/ctl -- sh -c 'pipectl recv work/ctl -n 10'`,
		Args:              arguments("REF", "COMMAND..."),
		ValidArgsFunction: f.completeSessions,
	}
	// What comes after the command belongs to it.
	cmd.Flags().SetInterspersed(false)
	opts.add(cmd)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		if len(args) > 2 && args[1] == "--" {
			args = append(args[:1:1], args[2:]...)
		}
		return holdRun(ctx, f, c, &opts, args)
	})
	return cmd
}

func holdRun(ctx context.Context, f *factory, c *client.Client, opts *acquireFlags, args []string) error {
	ref, err := parseRef(args[0])
	if err != nil {
		return err
	}
	leaseOpts, err := opts.options()
	if err != nil {
		return err
	}
	program, err := exec.LookPath(args[1])
	if err != nil {
		return commandError(err)
	}
	lease, err := c.Endpoint(ref).AcquireLease(ctx, leaseOpts)
	if err != nil {
		return &codedError{code: exitFailed, err: err}
	}
	token := leaseToken{role: lease.Role(), proof: lease.Token()}
	command := exec.Command(program, args[2:]...)
	command.Args[0] = args[1]
	command.Env = append(os.Environ(), leaseVariable+"="+token.String())
	command.Stdin, command.Stdout, command.Stderr = f.in, f.out, f.errOut
	err = f.holding(ctx, lease, command)

	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if gone := lease.Release(clean); gone != nil {
		f.tell("note", fmt.Sprintf("the lease may last until its time runs out: %v", gone))
	}
	return err
}

// holding runs a command while the lease is renewed.
func (f *factory) holding(ctx context.Context, lease *client.Lease, command *exec.Cmd) error {
	// A terminal sends INT and QUIT to the command as well.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := command.Start(); err != nil {
		return commandError(err)
	}
	alive, stop := context.WithCancel(ctx)
	lost := make(chan error, 1)
	go func() { lost <- lease.KeepAlive(alive) }()
	exited := make(chan error, 1)
	go func() { exited <- command.Wait() }()
	var reason error
	for {
		select {
		case sig := <-signals:
			if sig == syscall.SIGTERM || sig == syscall.SIGHUP {
				_ = command.Process.Signal(sig)
			}
		case reason = <-lost:
			f.tell("note", fmt.Sprintf("the lease is lost, to %s", winner(reason)))
			_ = command.Process.Signal(syscall.SIGTERM)
			lost = nil
		case err := <-exited:
			stop()
			if lost != nil {
				reason = <-lost // nil, unless it was lost just now
			}
			if reason != nil {
				return &codedError{code: exitFailed, err: fmt.Errorf("the lease was lost while the command ran: %w", reason)}
			}
			return commandError(err)
		}
	}
}

// commandError turns how a command of this machine ended into our exit code.
func commandError(err error) error {
	exit, isExit := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return nil
	case isExit && exit.ExitCode() >= 0:
		return &codedError{code: exitCode(exit.ExitCode())}
	case isExit:
		return &codedError{code: waitSignal(exit.ProcessState)}
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return &codedError{code: exitNotFound, err: err}
	default:
		return &codedError{code: exitNotExecutable, err: err}
	}
}

// waitSignal is the exit code for a command that a signal ended.
func waitSignal(state *os.ProcessState) exitCode {
	if status, ok := state.Sys().(syscall.WaitStatus); ok {
		return signalCode(status.Signal())
	}
	return exitFailed
}
