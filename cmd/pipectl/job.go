package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

const (
	// heldGrace is how long run waits, after its program has exited, for output
	// that a descendant keeps open.
	heldGrace = time.Second
	// kernelPipe is what a kernel pipe holds at most without privileges.
	kernelPipe = 1 << 20
)

// errHeld says that a descendant holds an output of a program that has exited.
var errHeld = errors.New("a descendant holds the output")

// errStop ends what still goes on when a job is over.
var errStop = errors.New("the job is over")

// A job is one run: a program whose streams are ours.
type job struct {
	f       *factory
	client  *client.Client
	session string
	raw     bool
	merged  bool // stderr comes with stdout
	timeout time.Duration
}

// run passes everything on until the program has exited and its outputs have
// ended. The error is its exit code, or what went wrong.
func (j *job) run(ctx context.Context, signals <-chan os.Signal) error {
	limits, err := j.client.Limits(ctx)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(errStop)
	exited, exit := context.WithCancel(ctx)
	defer exit()
	outputs := []*outlet{{name: "stdout", ref: j.ref("stdio"), to: j.f.out, lines: !j.raw}}
	if !j.merged {
		outputs = append(outputs, &outlet{name: "stderr", ref: j.ref("stderr"), to: j.f.errOut})
	}
	for _, o := range outputs {
		o.job, o.afterExit = j, limits.GetLogSize()+kernelPipe
		if o.reader, err = j.client.Endpoint(o.ref).NewReader(ctx, client.ReaderOptions{
			ConsumerID: clientName(), LeaseDuration: noLease, ReconnectFor: comeBackFor,
		}); err != nil {
			return err
		}
	}
	var running sync.WaitGroup
	for _, o := range outputs {
		running.Go(func() {
			if err := o.pass(ctx, exited); err != nil {
				stop(err)
			}
		})
	}
	running.Go(func() { j.forward(exited, signals) })
	// Not joined: a read of stdin cannot be released, and need not be.
	go j.feed(exited, stop)

	process, err := j.client.Wait(ctx, j.session, "", client.Forever)
	exit()
	if err != nil {
		stop(err)
	}
	running.Wait()
	for _, o := range outputs {
		if o.held {
			j.f.tell("note", fmt.Sprintf("%s has exited, and a process that it left behind still holds its %s", process.GetName(), o.name))
		}
	}
	switch cause := context.Cause(ctx); {
	case cause != nil:
		return cause
	case process.GetExit().GetCause() == pipedv1.Exit_CAUSE_TIMEOUT:
		return timeoutError("%s had not ended after %v, and was stopped", process.GetName(), j.timeout)
	}
	if err := j.verify(ctx, outputs); err != nil {
		return err
	}
	return exitOf(process)
}

// verify compares what was passed on with the last words that the daemon keeps
// with the exit of the program.
func (j *job) verify(ctx context.Context, outputs []*outlet) error {
	for _, o := range outputs {
		if !o.ended {
			continue // its reader, or we, did not want all of it
		}
		if err := j.client.Verify(ctx, j.session, "", o.reader); err != nil {
			return fmt.Errorf("%s is incomplete: %w", o.name, err)
		}
	}
	return nil
}

func (j *job) ref(pipe string) client.Ref { return client.Ref{Session: j.session, Pipe: pipe, End: 1} }

// exitOf turns the exit of the program into ours.
func exitOf(process *pipedv1.Process) error {
	exit := process.GetExit()
	switch {
	case exit.GetSignal() != "":
		return &codedError{code: exitCode(128 + exit.GetSignalNumber())}
	case exit.GetUnknown():
		return &codedError{code: exitFailed, err: fmt.Errorf("%s has exited, and nobody can tell how: the keeper died before it", process.GetName())}
	case exit.GetCode() != 0:
		return &codedError{code: exitCode(exit.GetCode())}
	default:
		return nil
	}
}

// forward sends the signals that we get to the program.
func (j *job) forward(ctx context.Context, signals <-chan os.Signal) {
	names := map[os.Signal]string{os.Interrupt: "INT", syscall.SIGTERM: "TERM", syscall.SIGHUP: "HUP", syscall.SIGQUIT: "QUIT"}
	for {
		select {
		case sig := <-signals:
			err := j.client.Signal(ctx, j.session, "", names[sig])
			if err != nil && ctx.Err() == nil && !errors.Is(err, client.ErrProcessExited) {
				j.f.tell("note", fmt.Sprintf("signal %s was not sent: %v", names[sig], err))
			}
		case <-ctx.Done():
			return
		}
	}
}

// feed passes our stdin on and then closes the program's. A program that does
// not want its input is no error; an input that could not be read is.
func (j *job) feed(ctx context.Context, stop context.CancelCauseFunc) {
	e := j.client.Endpoint(j.ref("stdio"))
	w, err := e.NewWriter(ctx, client.WriterOptions{ID: clientName(), LeaseDuration: noLease, ReconnectFor: comeBackFor})
	if err == nil {
		if j.raw {
			err = w.SendReader(ctx, j.f.in, client.UnknownSize)
		} else {
			err = sendLines(ctx, w, j.f.in)
		}
		err = firstError(err, w.Close(ctx))
	}
	err = firstError(err, e.CloseSend(ctx))
	switch {
	case err == nil, ctx.Err() != nil:
	case errors.Is(err, client.ErrBrokenPipe), errors.Is(err, client.ErrEndpointClosed):
	default:
		stop(fmt.Errorf("stdin: %w", err))
	}
}

// An outlet passes one output of the program on to one of ours.
type outlet struct {
	*job
	name   string
	ref    client.Ref
	to     io.Writer
	lines  bool
	reader *client.Reader
	// afterExit bounds what the program itself may have left on the way when it
	// exited; what comes after so many bytes is a descendant's.
	afterExit uint64
	// held says that a descendant still has it, ended that all of it came.
	held, ended bool
}

// pass passes the output on to its end.
func (o *outlet) pass(ctx, exited context.Context) error {
	defer func() {
		// The session is about to go; nobody needs the confirmation.
		cut, cancel := context.WithCancel(ctx)
		cancel()
		_ = o.reader.Close(cut)
	}()
	late := uint64(0)
	for {
		m, err := o.next(ctx, exited)
		switch {
		case errors.Is(err, io.EOF):
			if err := wholeEnd(o.reader.End()); err != nil {
				return fmt.Errorf("%s is incomplete: %w", o.name, err)
			}
			o.ended = true
			return nil
		case errors.Is(err, errHeld), late > o.afterExit:
			o.held = true
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", o.name, err)
		}
		if exited.Err() != nil {
			late += uint64(len(m.Data))
		}
		if err := o.write(m); errors.Is(err, syscall.EPIPE) {
			// As in a shell: the program finds out at its next write.
			_, err := o.client.Endpoint(o.ref).Close(ctx, client.CloseOptions{Discard: true})
			return err
		} else if err != nil {
			return err
		}
		if err := o.reader.Ack(m.After); err != nil {
			return err
		}
	}
}

// next waits for output, and once the program has exited only so long.
func (o *outlet) next(ctx, exited context.Context) (client.Message, error) {
	wait, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(exited, func() {
		timer := time.AfterFunc(heldGrace, func() { cancel(errHeld) })
		context.AfterFunc(wait, func() { timer.Stop() })
	})()
	m, err := o.reader.NextPart(wait)
	if err != nil && errors.Is(context.Cause(wait), errHeld) && !errors.Is(err, io.EOF) {
		return m, errHeld
	}
	return m, err
}

func (o *outlet) write(m client.Message) error {
	data := m.Data
	if o.lines && !m.More && !m.Partial {
		data = append(data, '\n')
	}
	_, err := o.to.Write(data)
	return err
}
