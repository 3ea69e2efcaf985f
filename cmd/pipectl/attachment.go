package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

const (
	// leaveTimeout bounds how long leaving waits for the daemon's confirmations.
	leaveTimeout = 5 * time.Second
	// inputSize is what one read of the input may bring.
	inputSize = 64 << 10
)

var (
	// errDetached says that the user has left.
	errDetached = errors.New("detached")
	// errOutputEnded says that there is nothing more to show.
	errOutputEnded = errors.New("the output has ended")
)

// An attachment is one attach: an end whose output is shown and into which the
// input is sent.
type attachment struct {
	f      *factory
	client *client.Client
	ref    client.Ref
	opts   *attachOptions
	// name is under which others see who has the pen.
	name string
	// session and pipe are names; the reference may have a uid, or none.
	session, pipe string
	// leave ends it, for a reason.
	leave context.CancelCauseFunc

	pen    *pen
	output *viewer
	// stderr is nil where there is none.
	stderr *viewer
	// input is nil where it is not shown.
	input *viewer

	// terminal is nil where the input is none; then there are no detach keys.
	terminal    *terminal
	suspensions <-chan os.Signal
	scanner     keyScanner
	// interactive: the keys are another terminal's, whose size follows resizes; nil
	// where there is no such signal.
	interactive bool
	resizes     <-chan os.Signal
	// quiet: whoever attaches tells of the end by itself. left: the user has left.
	quiet, left bool
}

// open opens the streams; what it opened before an error it closes.
func (a *attachment) open(ctx context.Context) error {
	a.f.connection.goOn(true)
	// They end by being closed, so that leaving can confirm what was taken.
	ctx = context.WithoutCancel(ctx)
	session, err := a.client.Get(ctx, a.ref.Session)
	if err != nil {
		return err
	}
	a.session = session.GetName()
	pipe := findPipe(session, a.ref.Pipe)
	a.pipe = pipe.GetName()
	end := findEnd(pipe, a.ref.End)
	if end != nil && end.GetInbox() == nil {
		return usageError("nothing comes out of %v: pipectl send sends into it", a.ref)
	}
	a.interactive = !a.opts.observe && isInteractive(pipe)
	err = a.openStreams(ctx, session, pipe, end)
	if err != nil {
		_ = a.close()
	}
	return err
}

// patience is how long the streams try to come back: a person sees that they do
// and can leave, a script would hang.
func (a *attachment) patience() time.Duration {
	if isTerminal(a.f.in) {
		return comeBackForever
	}
	return comeBackFor
}

func (a *attachment) openStreams(ctx context.Context, session *pipedv1.Session, pipe *pipedv1.Pipe, end *pipedv1.Endpoint) error {
	e := a.client.Endpoint(a.ref)
	a.pen = &pen{attachment: a, endpoint: e}
	if !a.opts.observe && takesInput(end) {
		if err := a.pen.open(ctx); err != nil {
			return err
		}
	}
	a.output = &viewer{attachment: a, endpoint: e, to: a.f.out, what: mainOutput}
	if err := a.output.open(ctx, a.opts.from); err != nil {
		return err
	}
	if a.opts.showInput {
		if err := a.openInput(ctx); err != nil {
			return err
		}
	}
	name, isStdio := strings.CutSuffix(pipe.GetName(), "stdio")
	if pipe.GetKind() != pipedv1.Pipe_KIND_STDIO || !isStdio || findPipe(session, name+"stderr") == nil {
		return nil
	}
	from := a.opts.from
	if from.message > 0 {
		from = startFlag{} // a number of the other pipe says nothing here
	}
	ref := client.Ref{Session: a.ref.Session, Pipe: name + "stderr", End: 1}
	a.stderr = &viewer{attachment: a, endpoint: a.client.Endpoint(ref), to: a.f.errOut, what: "stderr"}
	return a.stderr.open(ctx, from)
}

// openInput shows what others send. A number of --from counts the output.
func (a *attachment) openInput(ctx context.Context) error {
	info, err := a.client.Info(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(info.GetFeatures(), "observe/sent") {
		return errors.New("this daemon cannot show what others send: leave out --show-input")
	}
	from := startFlag{text: fromNow}
	if a.opts.from.text == fromOldest {
		from = a.opts.from
	}
	a.input = &viewer{attachment: a, endpoint: a.client.Endpoint(a.ref), to: a.f.out, what: "input"}
	opts := from.observer()
	opts.Sent = true
	if err := a.input.observe(ctx, opts); err != nil {
		return err
	}
	if !a.input.reader.Raw() {
		a.input.printer.begin = "> "
	}
	return nil
}

// findPipe returns the pipe that a reference names, or nil.
func findPipe(session *pipedv1.Session, name string) *pipedv1.Pipe {
	for _, pipe := range session.GetPipes() {
		if name == "" || pipe.GetName() == name {
			return pipe
		}
	}
	return nil
}

// findEnd returns the end that a reference names, or nil.
func findEnd(pipe *pipedv1.Pipe, number int) *pipedv1.Endpoint {
	for _, end := range pipe.GetEndpoints() {
		if int(end.GetEnd()) == max(number, 1) {
			return end
		}
	}
	return nil
}

// takesInput says whether anything can still be sent into an end. What is not
// known the daemon decides.
func takesInput(end *pipedv1.Endpoint) bool {
	return end == nil || end.GetOutbox() != nil && end.GetOutbox().GetEnd() == nil && end.GetState() == pipedv1.Endpoint_STATE_OPEN
}

// run shows and sends until somebody leaves or the output ends.
func (a *attachment) run(ctx context.Context, signals chan os.Signal) error {
	var running sync.WaitGroup
	start := func(f func()) {
		running.Go(func() {
			defer a.panicking()
			f()
		})
	}
	start(func() { a.leave(a.show(ctx)) })
	start(func() { a.obey(ctx, signals) })
	w := a.pen.current()
	if w != nil {
		start(func() { a.pen.watch(ctx, w) })
	}
	if a.interactive {
		start(func() { a.fit(ctx, a.resizes) })
	}
	if w != nil || a.terminal != nil {
		// Not joined: a read of stdin cannot be released, and need not be.
		go func() {
			defer a.panicking()
			a.read(ctx)
		}()
	}
	<-ctx.Done()
	// A second signal ends what this one could not.
	signal.Stop(signals)
	err := context.Cause(ctx)
	if a.terminal != nil {
		if failed := a.terminal.restore(); failed != nil {
			a.f.tell("note", failed.Error())
		}
	}
	running.Wait()
	closed := a.close()
	if isTerminal(a.f.errOut) && !a.interactive {
		_, _ = fmt.Fprintln(a.f.errOut) // the keys are still in the line
	}
	if errors.Is(err, errOutputEnded) {
		if a.terminal != nil && !a.quiet {
			a.f.tell("note", "the output has ended: "+endText(a.output.reader.End()))
		}
		return nil
	}
	coded, isCoded := errors.AsType[*codedError](err)
	a.left = errors.Is(err, errDetached)
	if a.left && a.interactive && isTerminal(a.f.errOut) {
		_, _ = fmt.Fprintln(a.f.errOut) // the program's line goes on
	}
	if a.left || isCoded && coded.err == nil && !a.quiet {
		if closed != nil {
			a.f.tell("note", fmt.Sprintf("what was typed or shown last may not count as taken: %v", closed))
		}
		a.f.tell("note", fmt.Sprintf("left %v, which goes on; to come back: %s", a.ref, a.comeBack()))
	}
	if a.left {
		return nil
	}
	return err
}

// show shows the outputs. It returns when the first has ended, and the other too
// or its time is up.
func (a *attachment) show(ctx context.Context) error {
	var others sync.WaitGroup
	defer others.Wait()
	others.Go(func() {
		if a.input == nil {
			return
		}
		if err := a.input.pass(ctx); err != nil && a.input.reader.End() == nil {
			a.leave(err) // an end of another kind the output tells
		}
	})
	others.Go(func() {
		if a.stderr == nil {
			return
		}
		if err := a.stderr.pass(ctx); err != nil {
			a.leave(err)
		}
	})
	if err := a.output.pass(ctx); err != nil {
		a.leave(err)
		return err
	}
	grace := time.AfterFunc(heldGrace, func() { a.leave(errOutputEnded) })
	defer grace.Stop()
	others.Wait()
	return errOutputEnded
}

// obey does what signals ask for.
func (a *attachment) obey(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case sig := <-signals:
			a.leave(&codedError{code: signalCode(sig)})
		case <-a.suspensions:
			if err := a.terminal.suspend(); err != nil {
				a.leave(err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// read passes the input on until it ends or the detach keys come.
func (a *attachment) read(ctx context.Context) {
	buffer := make([]byte, inputSize)
	for {
		n, err := a.f.in.Read(buffer)
		input, found := a.scanner.scan(buffer[:n])
		failed := a.pen.take(ctx, input)
		switch {
		case failed != nil:
			a.leave(failed)
			return
		case found:
			a.leave(errDetached)
			return
		case errors.Is(err, io.EOF):
			goOn, err := a.inputEnded(ctx)
			if err != nil {
				a.leave(err)
			}
			if err != nil || !goOn {
				return
			}
		case err != nil:
			a.leave(fmt.Errorf("stdin: %w", err))
			return
		}
	}
}

// inputEnded does what the end of stdin means, and says whether there is more to
// read: a terminal goes on behind a ctrl-d.
func (a *attachment) inputEnded(ctx context.Context) (goOn bool, err error) {
	if err := a.pen.take(ctx, a.scanner.rest()); err != nil {
		return false, err
	}
	if a.interactive && a.terminal != nil { // no key does that: the terminal is gone
		return false, &codedError{code: signalCode(syscall.SIGHUP)}
	}
	closing := a.opts.closeInput && a.pen.held()
	switch err := a.pen.put(ctx, a.opts.closeInput); {
	case err != nil:
		return false, err
	case a.terminal == nil:
		return false, nil
	case closing:
		a.f.tell("note", fmt.Sprintf("the input is closed; %s leaves", a.opts.keys.text))
		return true, nil
	default:
		return false, errDetached
	}
}

// close ends the streams that are open, and waits a while for what they have to
// confirm.
func (a *attachment) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	var errs []error
	if a.pen != nil {
		errs = append(errs, a.pen.close(ctx))
	}
	for _, v := range []*viewer{a.output, a.stderr, a.input} {
		if v != nil {
			errs = append(errs, v.close(ctx))
		}
	}
	return firstError(errs...)
}

// signalCode is the exit code of a shell's command that a signal ended.
func signalCode(sig os.Signal) exitCode {
	number, _ := sig.(syscall.Signal)
	return 128 + exitCode(number)
}
