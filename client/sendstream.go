package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A sendStream is one stream of a Writer, opened.
type sendStream struct {
	pipedv1.PipeService_SendClient
	opened  *pipedv1.SendOpened
	cancel  context.CancelFunc
	silence *silence
}

// receive returns the next response.
func (s *sendStream) receive() (*pipedv1.SendResponse, error) {
	return listen(s.silence, s.silence.longest, s.Recv)
}

// A sendOpener opens the streams of one Writer, one after another. It belongs to
// one goroutine.
type sendOpener struct {
	endpoint *Endpoint
	open     *pipedv1.SendOpen
	silence  time.Duration
	retry    retry
	// acquired says that the caller brought the lease, and so has to renew it.
	acquired bool
}

// first opens the first stream, also over a restart of the daemon.
func (o *sendOpener) first(ctx context.Context) (*sendStream, error) {
	attempts := retry{limit: o.endpoint.client.openFor(o.retry.limit)}
	for {
		s, err := o.stream(ctx)
		if err == nil {
			o.opened(s)
			return s, nil
		}
		if err := o.endpoint.client.comeBack(ctx, &attempts, err); err != nil {
			return nil, err
		}
	}
}

// again opens the stream after the one that ended with err, or returns why there
// is none.
//
// A lease of the streams' own that has ended, rather than gone to somebody else,
// is given up on the way: the right may be free still, and the daemon knows the
// writer by its ID. Whether somebody had it in between, the epoch tells.
func (o *sendOpener) again(ctx context.Context, err error) (*sendStream, error) {
	for {
		if err := o.endpoint.client.comeBack(ctx, &o.retry, err); err != nil {
			return nil, err
		}
		var s *sendStream
		if s, err = o.stream(ctx); err != nil && !o.acquired && expired(err) {
			o.open.LeaseToken = nil
			s, err = o.stream(ctx)
		}
		if err == nil {
			return s, nil
		}
	}
}

// opened keeps what proves that the next stream goes on with this one's lease, and
// lets all further streams be of the incarnation of the pipe that was found: the next
// one would get the rest of what was meant for this one.
func (o *sendOpener) opened(s *sendStream) {
	incarnation := s.opened.GetExpected().GetIncarnation()
	o.open.Endpoint.Incarnation = incarnation
	o.endpoint = o.endpoint.in(incarnation)
	o.open.Steal = false
	o.open.LeaseToken = s.opened.GetLeaseToken()
	o.retry.proven = !o.acquired && len(o.open.GetLeaseToken()) > 0
	o.retry.reached(time.Now())
}

func (o *sendOpener) stream(ctx context.Context) (*sendStream, error) {
	ctx, cancel := context.WithCancel(ctx)
	ctx, at := withPlace(ctx)
	s := &sendStream{cancel: cancel, silence: newSilence(o.silence, cancel)}
	s.silence.distrust = func() { o.endpoint.client.pool.distrust(at) }
	err := s.openWith(ctx, o)
	if err != nil {
		cancel()
		return nil, fromRPC(err)
	}
	return s, nil
}

func (s *sendStream) openWith(ctx context.Context, o *sendOpener) error {
	resp, err := listen(s.silence, o.retry.left(o.silence), func() (*pipedv1.SendResponse, error) {
		var err error
		if s.PipeService_SendClient, err = o.endpoint.client.pipes.Send(ctx); err != nil {
			return nil, err
		}
		// An error of Send here is EOF; Recv then says what happened.
		err = s.Send(&pipedv1.SendRequest{Request: &pipedv1.SendRequest_Open{Open: o.open}})
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return s.Recv()
	})
	if err != nil {
		return err
	}
	if s.opened = resp.GetOpened(); s.opened == nil {
		return fmt.Errorf("the daemon answered %T instead of opening the stream", resp.GetResponse())
	}
	return nil
}

// run sends over one stream after another, until the Writer is closed or cannot
// go on.
func (w *Writer) run(ctx context.Context, o *sendOpener, s *sendStream) {
	for {
		err := w.serve(s, &o.retry)
		clean := errors.Is(err, io.EOF)
		if s, err = w.resume(ctx, o, err); err != nil {
			w.end(err)
			if w.ownsLease && !clean {
				// Nobody but this Writer could come back to it.
				w.Lease().abandon(ctx)
			}
			close(w.done)
			return
		}
	}
}

// resume opens the next stream and finds out where it goes on. io.EOF means that
// nothing is left to be done.
func (w *Writer) resume(ctx context.Context, o *sendOpener, err error) (*sendStream, error) {
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	away, giveUp := context.WithCancel(ctx)
	byClose := giveUp
	if o.retry.overtaken(err) {
		// Close has to tell if somebody else writes now.
		byClose = nil
	}
	if w.finished(byClose) && lost(err) && ctx.Err() == nil {
		giveUp()
		return nil, io.EOF
	}
	s, err := o.again(away, err)
	if done := w.finished(nil); err != nil {
		giveUp()
		if done && ctx.Err() == nil && errors.Is(err, context.Canceled) {
			return nil, io.EOF
		}
		return nil, err
	}
	s.cancel = giveUp // it contains the stream's own
	if err := w.goOn(o.endpoint, s); err != nil {
		s.cancel()
		if errors.Is(err, ErrFenced) {
			w.Lease().abandon(ctx)
		}
		return nil, err
	}
	o.opened(s)
	return s, nil
}

// finished says whether the Writer only waited for the stream to end. giveUp is
// what Close may call when it becomes true later.
func (w *Writer) finished(giveUp context.CancelFunc) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.giveUp = giveUp
	return w.closing && w.acked.Compare(w.next) >= 0
}

// goOn compares where the daemon stands with what it was sent, and makes the rest
// due for the stream.
func (w *Writer) goOn(e *Endpoint, s *sendStream) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	expected := positionOf(s.opened.GetExpected())
	before := w.lease
	w.lease = leaseOf(e, s.opened.GetLease(), s.opened.GetLeaseToken())
	switch {
	case w.lease.heldBetween(before):
		return fmt.Errorf("the lease ended, and somebody else had it since: %w", ErrFenced)
	case expected.Compare(w.committed) < 0:
		return &IncompleteError{Have: expected, Want: w.committed, Detail: "the daemon has lost what it acknowledged"}
	case expected.Compare(w.window.to) > 0:
		return fmt.Errorf("writer %q has sent up to %v from elsewhere: %w", w.id, expected, ErrSuperseded)
	case expected.Offset > 0 && expected.Compare(w.committed) != 0 && !w.window.endsAt(expected):
		return fmt.Errorf("another writer left message %v unfinished: %w", expected, ErrUnfinishedMessage)
	}
	w.committedLocked(expected)
	if w.level == pipedv1.AckLevel_ACK_LEVEL_COMMITTED {
		w.ackedLocked(expected)
	}
	w.window.rewind()
	return nil
}

// committedLocked says that the daemon has everything below.
func (w *Writer) committedLocked(below Position) {
	if below.Compare(w.committed) > 0 {
		w.committed = below
		w.window.drop(below)
		w.changedLocked()
	}
}

// ackedLocked says that everything below is at the level that was asked for.
func (w *Writer) ackedLocked(below Position) {
	if below.Compare(w.acked) > 0 {
		w.acked = below
		w.changedLocked()
	}
}

// serve sends and takes acknowledgements until the stream ends.
func (w *Writer) serve(s *sendStream, r *retry) error {
	ended, flushed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(flushed)
		w.flush(s, ended)
	}()
	err := w.acknowledge(s, r)
	s.cancel()
	close(ended)
	<-flushed
	return err
}

// flush sends what has gathered, until the Writer closes or the stream ends.
func (w *Writer) flush(s *sendStream, ended <-chan struct{}) {
	for {
		batch, closing := w.due()
		switch {
		case batch != nil:
			// Why sending stopped, the reader of acknowledgements learns.
			if err := s.Send(batch.request(w.raw)); err != nil {
				return
			}
		case closing:
			_ = s.CloseSend()
			return
		default:
			select {
			case <-w.wake:
			case <-ended:
				return
			}
		}
	}
}

// due returns the next batch for the stream, if there is one.
func (w *Writer) due() (batch *gathered, closing bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if batch = w.window.next(); batch == nil && !w.pending.empty() {
		w.pending = w.window.push(w.pending)
		batch = w.window.next()
		w.changedLocked()
	}
	return batch, w.closing
}

// acknowledge takes acknowledgements until the stream ends.
func (w *Writer) acknowledge(s *sendStream, r *retry) error {
	for {
		resp, err := s.receive()
		if err != nil {
			return err
		}
		r.succeeded()
		if ack := resp.GetAck(); ack != nil {
			at := positionOf(ack.GetPosition())
			w.mu.Lock()
			w.committedLocked(at)
			if ack.GetLevel() >= w.level {
				w.ackedLocked(at)
			}
			w.mu.Unlock()
		}
	}
}

// end records why the last stream ended and releases everyone.
func (w *Writer) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !errors.Is(err, io.EOF):
		w.err = fromRPC(err)
	case w.committed.Compare(w.next) < 0:
		w.err = &IncompleteError{Have: w.committed, Want: w.next}
	default:
		// The stream ends well only after everything is acknowledged.
		w.ackedLocked(w.next)
		w.err = ErrClosed
	}
	w.changedLocked()
}
