package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
)

// An Endpoint is one end of a pipe of a session, with the roles that clients
// have on it.
type Endpoint struct {
	session *Session
	pipe    *Pipe
	num     int
	ep      *pipe.Endpoint
	ids     []keeper.End

	mu sync.Mutex
	// handedTo is the process that was given the end instead of the daemon.
	handedTo string
	// heirs are the processes that were given copies.
	heirs []*Process
	// bequest is the process that is just being started with a copy, or "".
	bequest string
	// writing and consuming are nil until somebody was the writer, the consumer.
	writing   *lease
	consuming *lease
	records   writerRecords
	// sender is the writer whose messages are appended, or were last; used counts
	// its changes.
	sender *writerRecord
	used   uint64
	// announced: the session is there, so that there are events; told: those of
	// the ends of the two directions.
	announced, toldSent, toldReceived bool

	// lent: also incarnations that are dropped were given copies.
	lent bool
	// forgotten: it was dropped with its incarnation, and nothing of it is recorded.
	forgotten bool

	closing sync.Once // starts lookWhenClosed
}

// Ref returns the endpoint's full reference, SESSION/PIPE:END, with ~N before the
// colon for an incarnation N after the first.
func (e *Endpoint) Ref() string {
	return fmt.Sprintf("%s/%s:%d", e.session.name, e.pipe.recordKey(), e.num)
}

// Incarnation returns that of the pipe, from 1.
func (e *Endpoint) Incarnation() uint64 { return e.pipe.incarnation }

// Framing returns the framing of what comes out of the end (recv) or goes into
// it.
func (e *Endpoint) Framing(recv bool) pipe.Framing {
	if recv == (e.num == 1) {
		return e.pipe.out
	}
	return e.pipe.in
}

// usable returns ErrClosed, saying why, once the daemon has no copy of its own.
func (e *Endpoint) usable() error {
	if !e.ep.Closing() {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.handedTo != "" {
		return fmt.Errorf("%w: %s was handed over to process %s", pipe.ErrClosed, e.Ref(), e.handedTo)
	}
	return fmt.Errorf("%w: %s", pipe.ErrClosed, e.Ref())
}

func (e *Endpoint) inbox() (*pipe.Inbox, error) {
	in, err := e.ep.Inbox()
	if err != nil {
		return nil, fmt.Errorf("%w: %s cannot receive", err, e.Ref())
	}
	return in, e.usable()
}

func (e *Endpoint) outbox() (*pipe.Outbox, error) {
	out, err := e.ep.Outbox()
	if err != nil {
		return nil, fmt.Errorf("%w: %s cannot send", err, e.Ref())
	}
	return out, e.usable()
}

// CloseOptions say how to close an endpoint.
type CloseOptions struct {
	// SendOnly closes only the sending direction.
	SendOnly bool
	// Discard drops what was accepted and not handed over.
	Discard bool
}

// Close closes the daemon's copy of the end, or half of it, and releases
// everyone who waits on it. It does not wait; see [Endpoint.WaitClosed]. It is
// idempotent.
func (e *Endpoint) Close(o CloseOptions) error {
	if o.SendOnly {
		if o.Discard && e.typed() {
			return argument("closing the input of %s, a terminal, and discarding what was sent: the end of input comes behind that; close both directions", e.Ref())
		}
		switch err := e.ep.CloseSend(o.Discard); {
		case errors.Is(err, pipe.ErrTerminalRaw):
			return fmt.Errorf("%w: %s", err, e.Ref())
		case err != nil:
			return fmt.Errorf("%w: %s cannot send", err, e.Ref())
		}
		return nil
	}
	e.ep.Close(o.Discard)
	e.endLeases()
	e.closing.Do(func() { e.session.reg.background(e.lookWhenClosed) })
	return nil
}

// lookWhenClosed looks whether the session has ended once the end is closed:
// nobody may be reading the other one, who would find out.
func (e *Endpoint) lookWhenClosed(ctx context.Context) {
	select {
	case <-e.ep.Closed():
		e.session.Ended()
	case <-ctx.Done():
	}
}

// A Pending is what Close still has to hand over.
type Pending struct{ Messages, Bytes uint64 }

// WaitClosed waits until a Close has handed over what it had to and closed the
// end, or the half of it. It calls report whenever what is left has changed. It
// returns the last word about what was sent, nil where the end cannot send.
func (e *Endpoint) WaitClosed(ctx context.Context, sendOnly bool, report func(Pending) error) (*pipe.End, error) {
	done := e.ep.Closed()
	out, err := e.ep.Outbox()
	if err != nil {
		select {
		case <-done:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if sendOnly {
		done = out.Flushed()
	}
	changed, stop := out.Watch()
	defer stop()
	for {
		info := out.Info()
		if info.QueuedBytes > 0 {
			if err := report(Pending{info.QueuedMessages, info.QueuedBytes}); err != nil {
				return nil, err
			}
		}
		select {
		case <-done:
			return out.End(), nil
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// otherHeirs returns the processes that were given the other end of the pipe.
func (e *Endpoint) otherHeirs() []*Process {
	other := e.pipe.ends[2-e.num]
	other.mu.Lock()
	defer other.mu.Unlock()
	return slices.Clone(other.heirs)
}

// WaitExits waits for the processes that were given the other end, and calls
// report for each.
func (e *Endpoint) WaitExits(ctx context.Context, report func(ProcessInfo) error) error {
	for _, p := range e.otherHeirs() {
		if err := p.Wait(ctx); err != nil {
			return err
		}
		if err := report(p.Info()); err != nil {
			return err
		}
	}
	return nil
}

// handOver closes the daemon's copy because p has its own. What was accepted
// for the end in the meantime still goes out first; handOver waits for that, but
// not for long.
func (e *Endpoint) handOver(p *Process) {
	e.mu.Lock()
	e.handedTo = p.name
	e.mu.Unlock()
	e.ep.Close(false)
	e.endLeases()
	timer := time.NewTimer(flushWait)
	defer timer.Stop()
	select {
	case <-e.ep.Closed():
	case <-timer.C:
	}
}

// inherited notes that p has a copy.
func (e *Endpoint) inherited(p *Process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Contains(e.heirs, p) {
		e.heirs = append(e.heirs, p)
	}
}

// shared reports whether any process was ever given a copy.
func (e *Endpoint) shared() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.heirs) > 0 || e.lent
}

// flushWait is how long a start waits until the kernel has taken what was
// accepted for an end.
const flushWait = time.Second

// bequeath prepares the end to be inherited by a process: it pushes what was
// accepted into the kernel, and refuses where the process would miss bytes that
// the daemon already read or is about to read. Until settle is called nobody can
// begin to read it.
func (e *Endpoint) bequeath(ctx context.Context, process string) error {
	if e.ep.Sealed() {
		return fmt.Errorf("%w: %s was reserved for the daemon when its other end was handed over", ErrSealed, e.Ref())
	}
	if err := e.usable(); err != nil {
		return err
	}
	if err := e.reserveFor(process); err != nil {
		return err
	}
	err := e.unread()
	if err == nil {
		err = e.flush(ctx)
	}
	if err != nil {
		e.settle()
	}
	return err
}

// reserveFor refuses an end of which a client is receiving messages, or has the
// right to.
func (e *Endpoint) reserveFor(process string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if l := e.consuming; l.taken() && !l.force {
		return fmt.Errorf("process %s cannot inherit %s: %w", process, e.Ref(), l.busy())
	}
	e.bequest = process
	return nil
}

// settle ends what bequeath began: the process has its copy, or never will.
func (e *Endpoint) settle() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.bequest = ""
}

// refuseBequestLocked refuses to consume from an end that a process is just being
// started with.
func (e *Endpoint) refuseBequestLocked() error {
	if e.bequest == "" {
		return nil
	}
	return &BusyError{Err: ErrBusyReader, Client: fmt.Sprintf("process %s, which gets a copy of %s,", e.bequest, e.Ref())}
}

// unread refuses an end of which the daemon holds bytes.
func (e *Endpoint) unread() error {
	in, err := e.ep.Inbox()
	if err != nil {
		return nil // it cannot receive
	}
	if info := in.Info(); info.QueuedBytes > 0 {
		return fmt.Errorf("%w: %s holds %d messages, %d bytes: receive and acknowledge them first",
			ErrUnreadBuffered, e.Ref(), info.QueuedMessages, info.QueuedBytes)
	}
	return nil
}

// flush pushes what was accepted for the end into the kernel. That nobody reads
// it any more is not its business.
func (e *Endpoint) flush(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, flushWait)
	defer cancel()
	err := e.ep.Flush(wait)
	switch {
	case err == nil, errors.Is(err, pipe.ErrBrokenPipe):
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case wait.Err() != nil:
		return fmt.Errorf("%w: the other end of %s does not read them", ErrUnsentBuffered, e.Ref())
	}
	return fmt.Errorf("%w: %s", err, e.Ref())
}

// refuseShared refuses to read an end of which a process holds a copy, because
// the two would tear messages apart.
func (e *Endpoint) refuseShared(ctx context.Context) error {
	if !e.shared() {
		return nil
	}
	holders, err := e.session.reg.link.Holders(ctx, e.ids)
	if err != nil {
		return err
	}
	for _, h := range slices.Concat(holders...) {
		if h.Pid != os.Getpid() {
			return &BusyError{Err: ErrBusyReader, Client: fmt.Sprintf("pid %d (%s) holds a copy of %s", h.Pid, h.Command, e.Ref())}
		}
	}
	return nil
}
