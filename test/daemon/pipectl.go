package daemon

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A Result is what a pipectl that has exited said.
type Result struct {
	// Stdout and Stderr are everything that it wrote.
	Stdout, Stderr string
	// Code is its exit code.
	Code int
}

// Pipectl runs pipectl against the daemon with stdin as its standard input and
// waits for it. A pipectl that does not end within Patience, or is ended by a
// signal, fails the test; an exit code does not.
func (d *Daemon) Pipectl(t testing.TB, stdin string, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	cmd := d.Command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		err = nil
	}
	if err != nil || ctx.Err() != nil {
		t.Fatalf("pipectl %q: %v\nstdout: %s\nstderr: %s", args, errors.Join(err, ctx.Err()), &stdout, &stderr)
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}

// Command returns a pipectl that is set up for the daemon and not yet started;
// the end of ctx kills it. The caller waits for it.
func (d *Daemon) Command(ctx context.Context, args ...string) *exec.Cmd {
	return d.program(ctx, "pipectl", args)
}

// Rival returns another piped, in the same surroundings and with the same log,
// which is not yet started; the end of ctx kills it. The caller waits for it.
func (d *Daemon) Rival(ctx context.Context, args ...string) *exec.Cmd {
	cmd := d.program(ctx, "piped", args)
	cmd.Env = append(cmd.Env, d.opts.Env...)
	cmd.Stderr = d.log
	return cmd
}

func (d *Daemon) program(ctx context.Context, name string, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(d.Bin, name), args...)
	cmd.Env = d.environ()
	cmd.Dir = d.Dir
	return cmd
}
