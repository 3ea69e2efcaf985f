package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// mainOutput is what the output of the end itself is called.
const mainOutput = "output"

// A viewer shows what comes out of an end. It consumes it where nobody else does,
// so that the program is not held up.
type viewer struct {
	*attachment
	endpoint *client.Endpoint
	to       io.Writer
	// what names the output in what is told.
	what string

	printer   *printer
	reader    *client.Reader
	consuming bool
	// from is the first position that is shown; what lies before it is skipped.
	from client.Position
}

// open opens the reader, and shows what was received before where that is wanted.
func (v *viewer) open(ctx context.Context, from startFlag) error {
	if v.opts.observe {
		return v.observe(ctx, from.observer())
	}
	readerOpts := client.ReaderOptions{ConsumerID: v.name, LeaseDuration: noLease, Steal: v.opts.lease.steal, ReconnectFor: v.patience()}
	if v.what == mainOutput {
		var err error
		if readerOpts.LeaseToken, err = v.opts.lease.matching(pipedv1.LeaseRole_LEASE_ROLE_CONSUMER); err != nil {
			return err
		}
	}
	r, err := v.endpoint.NewReader(ctx, readerOpts)
	if errors.Is(err, client.ErrBusyReader) {
		if v.what == mainOutput {
			v.f.tell("note", fmt.Sprintf("%v; its output is shown here too", err))
		}
		return v.observe(ctx, from.observer())
	}
	if err != nil {
		return err
	}
	v.use(r, true)
	switch from.text {
	case "":
		return nil
	case fromNow:
		now, err := v.endpoint.NewReader(ctx, from.observer())
		if err != nil {
			return err
		}
		v.from = now.Position()
		return now.Close(ctx)
	default:
		v.from = client.Position{Message: from.message}
		return v.lookBack(ctx, from.observer())
	}
}

func (v *viewer) use(r *client.Reader, consuming bool) {
	v.reader, v.consuming = r, consuming
	if v.printer == nil {
		v.printer = &printer{out: bufio.NewWriterSize(v.to, inputSize)}
		if !r.Raw() {
			v.printer.end = "\n"
		}
	}
}

func (v *viewer) observe(ctx context.Context, opts client.ReaderOptions) error {
	opts.ReconnectFor = v.patience()
	r, err := v.endpoint.NewReader(ctx, opts)
	if err != nil {
		return err
	}
	v.use(r, false)
	return nil
}

// lookBack shows what is retained of what was received before.
func (v *viewer) lookBack(ctx context.Context, opts client.ReaderOptions) error {
	begin := v.reader.Position()
	if opts.Position.Message > begin.Message {
		return nil // nothing of it was received, and it may not have come yet
	}
	opts.StopAtNow, opts.ReconnectFor = true, comeBackFor
	r, err := v.endpoint.NewReader(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close(ctx) }()
	for r.Position().Compare(begin) < 0 {
		m, err := r.NextPart(ctx)
		if gap, ok := errors.AsType[*client.GapError](err); ok {
			v.f.tell("note", gap.Error())
			continue
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if m.Position.Compare(begin) >= 0 {
			break
		}
		if over := m.After.Message - begin.Message; r.Raw() && m.After.Compare(begin) > 0 {
			m.Data = m.Data[:uint64(len(m.Data))-over]
		}
		if err := v.printer.message(m); err != nil {
			return err
		}
	}
	return v.printer.flush()
}

// pass shows the output until its end, which is nil if it is a whole one.
func (v *viewer) pass(ctx context.Context) error {
	for {
		m, err := v.reader.NextPart(ctx)
		if gap, ok := errors.AsType[*client.GapError](err); ok {
			v.f.tell("note", fmt.Sprintf("%s: %v", v.what, gap))
			continue
		}
		switch {
		case errors.Is(err, io.EOF):
			return wholeEnd(v.reader.End())
		case v.consuming && isTaken(err):
			err = v.lose(ctx, err)
		case err == nil:
			err = v.show(m)
		}
		if err != nil {
			return err
		}
	}
}

// show prints a message and acknowledges what is certain to be printed.
func (v *viewer) show(m client.Message) error {
	if v.from.Compare(m.Position) > 0 {
		skip := uint64(len(m.Data))
		if v.reader.Raw() {
			skip = min(skip, v.from.Message-m.Position.Message)
		}
		if m.Data = m.Data[skip:]; len(m.Data) == 0 {
			return v.taken(m)
		}
	}
	if err := v.printer.message(m); err != nil {
		return outputError(err)
	}
	if v.reader.Buffered() {
		return nil
	}
	return v.taken(m)
}

func (v *viewer) taken(m client.Message) error {
	if err := v.printer.flush(); err != nil {
		return outputError(err)
	}
	return v.reader.Ack(m.After)
}

// outputError says what a failed write means: with nobody to show it to, attach
// ends as other filters do.
func outputError(err error) error {
	if errors.Is(err, syscall.EPIPE) {
		return &codedError{code: signalCode(syscall.SIGPIPE)}
	}
	return err
}

// lose goes on as an observer, where the consumer was cut off.
func (v *viewer) lose(ctx context.Context, cause error) error {
	at := v.reader.Position()
	if v.what == mainOutput && !v.pen.lost() {
		v.f.tell("note", fmt.Sprintf("%s receives the output now, which is still shown here", winner(cause)))
	}
	opts := client.ReaderOptions{Observe: true, Start: pipedv1.RecvStart_RECV_START_POSITION, Position: at}
	return v.observe(context.WithoutCancel(ctx), opts)
}

// close detaches; what was shown is confirmed.
func (v *viewer) close(ctx context.Context) error {
	if v.reader == nil {
		return nil
	}
	return v.reader.Close(ctx)
}
