package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A recvStream is one stream of a Reader, opened.
type recvStream struct {
	pipedv1.PipeService_RecvClient
	opened  *pipedv1.RecvOpened
	cancel  context.CancelFunc
	silence *silence
}

// receive returns the next response.
func (s *recvStream) receive() (*pipedv1.RecvResponse, error) {
	return listen(s.silence, s.silence.longest, s.Recv)
}

// A recvOpener opens the streams of one Reader, one after another. It belongs to
// one goroutine.
type recvOpener struct {
	endpoint *Endpoint
	open     *pipedv1.RecvOpen
	silence  time.Duration
	retry    retry
	// acquired says that the caller brought the lease, and so has to renew it.
	acquired bool
	// now is where a Reader with StopAtNow stops.
	now *Position
	// fullBatch is how large the daemon makes batches by itself, in bytes.
	fullBatch uint64
}

// minBatch is the least that batches are made smaller to, in bytes.
const minBatch = 4 << 10

// resize makes the batches of the next stream smaller after one that was cut
// before it brought anything: a connection may last for less than a whole batch.
// They are large again after a stream that brought as much as that.
func (o *recvOpener) resize(fresh uint64) {
	size := cmp.Or(uint64(o.open.GetMaxBatchBytes()), o.fullBatch)
	switch {
	case fresh >= o.fullBatch:
		o.open.MaxBatchBytes = 0
	case fresh == 0 && size > minBatch:
		o.open.MaxBatchBytes = uint32(max(size/2, minBatch))
	}
}

// first opens the first stream; see sendOpener.first.
func (o *recvOpener) first(ctx context.Context) (*recvStream, error) {
	attempts := retry{limit: o.endpoint.client.openFor(o.retry.limit)}
	for {
		s, err := o.begin(ctx)
		if err == nil {
			o.opened(s)
			return s, nil
		}
		if err := o.endpoint.client.comeBack(ctx, &attempts, err); err != nil {
			return nil, err
		}
	}
}

// begin opens a stream, and finds out before what "now" is: a later stream would
// have another.
func (o *recvOpener) begin(ctx context.Context) (*recvStream, error) {
	if o.open.GetStopAtNow() && o.now == nil {
		look := &pipedv1.RecvOpen{
			Endpoint: o.open.GetEndpoint(), Mode: pipedv1.RecvMode_RECV_MODE_OBSERVE,
			Start: pipedv1.RecvStart_RECV_START_NOW, StopAtNow: true, Sent: o.open.GetSent(),
		}
		s, err := o.stream(ctx, look)
		if err != nil {
			return nil, err
		}
		s.cancel()
		now := positionOf(s.opened.GetPosition())
		o.now = &now
		o.stay(now)
	}
	return o.stream(ctx, o.open)
}

// again opens the stream after the one that ended with err, or returns why there
// is none; see sendOpener.again.
func (o *recvOpener) again(ctx context.Context, err error) (*recvStream, error) {
	for {
		if err := o.endpoint.client.comeBack(ctx, &o.retry, err); err != nil {
			return nil, err
		}
		var s *recvStream
		if s, err = o.stream(ctx, o.open); err != nil && !o.acquired && expired(err) {
			o.open.LeaseToken = nil
			s, err = o.stream(ctx, o.open)
		}
		if err == nil {
			return s, nil
		}
	}
}

// stay lets all further streams be of the incarnation of the pipe that was found:
// messages of another one would not be the ones behind these.
func (o *recvOpener) stay(at Position) {
	o.open.Endpoint.Incarnation = at.Incarnation
	o.endpoint = o.endpoint.in(at.Incarnation)
}

// opened keeps what proves that the next stream goes on with this one's lease.
func (o *recvOpener) opened(s *recvStream) {
	o.stay(positionOf(s.opened.GetPosition()))
	o.open.Steal = false
	o.open.LeaseToken = s.opened.GetLeaseToken()
	o.retry.proven = !o.acquired && len(o.open.GetLeaseToken()) > 0
	o.retry.reached(time.Now())
}

func (o *recvOpener) stream(ctx context.Context, open *pipedv1.RecvOpen) (*recvStream, error) {
	ctx, cancel := context.WithCancel(ctx)
	ctx, at := withPlace(ctx)
	s := &recvStream{cancel: cancel, silence: newSilence(o.silence, cancel)}
	s.silence.distrust = func() { o.endpoint.client.pool.distrust(at) }
	err := s.openWith(ctx, o, open)
	if err != nil {
		cancel()
		return nil, fromRPC(err)
	}
	return s, nil
}

func (s *recvStream) openWith(ctx context.Context, o *recvOpener, open *pipedv1.RecvOpen) error {
	resp, err := listen(s.silence, o.retry.left(o.silence), func() (*pipedv1.RecvResponse, error) {
		var err error
		if s.PipeService_RecvClient, err = o.endpoint.client.pipes.Recv(ctx); err != nil {
			return nil, err
		}
		// An error of Send here is EOF; Recv then says what happened.
		err = s.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Open{Open: open}})
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

// An arrival is what Next is given: one of the three is set.
type arrival struct {
	batch unpacked
	gap   *GapError
	end   *pipedv1.End
}

// A course is how far the streams of one Reader have come together. It belongs to
// the goroutine that receives.
type course struct {
	r *Reader
	// to is the position up to which everything was handed on.
	to Position
	// fresh is how much of what the present stream brought was not there before, in
	// bytes and messageCost for each message; 0 only where nothing came at all.
	fresh uint64
	// ended is set once the last word was handed on.
	ended bool
	// now, if set, is where the streams stop.
	now *Position
}

// run receives from one stream after another, until the Reader is closed, the
// direction has ended, or it cannot go on.
func (r *Reader) run(ctx context.Context, o *recvOpener, s *recvStream) {
	defer close(r.incoming)
	start := positionOf(s.opened.GetPosition())
	c := &course{r: r, to: start}
	for {
		err := r.serve(ctx, s, c, &o.retry)
		clean := errors.Is(err, io.EOF) || errors.Is(fromRPC(err), ErrDetached)
		if s, err = c.resume(ctx, o, err); err != nil {
			r.final = err
			if r.ownsLease && !clean {
				// Nobody but this Reader could come back to it.
				r.Lease().abandon(ctx)
			}
			return
		}
	}
}

// serve receives and acknowledges until the stream ends.
func (r *Reader) serve(ctx context.Context, s *recvStream, c *course, back *retry) error {
	start := positionOf(s.opened.GetPosition())
	r.mu.Lock()
	r.began, r.came, r.acked = start, start, start
	r.mu.Unlock()
	ended, acknowledged := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(acknowledged)
		r.acknowledge(s, ended)
	}()
	err := c.receive(ctx, s, back)
	s.cancel()
	close(ended)
	<-acknowledged
	return err
}

// resume opens the next stream. io.EOF means that nothing is left to be done.
func (c *course) resume(ctx context.Context, o *recvOpener, err error) (*recvStream, error) {
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	away, giveUp := context.WithCancel(ctx)
	if c.finished(giveUp) && lost(err) && ctx.Err() == nil {
		giveUp()
		return nil, io.EOF
	}
	o.resize(c.fresh)
	switch o.open.GetMode() {
	case pipedv1.RecvMode_RECV_MODE_OBSERVE:
		o.open.Start, o.open.Position, c.now = pipedv1.RecvStart_RECV_START_POSITION, c.to.proto(), o.now
	default:
		o.open.Start, o.open.Position = pipedv1.RecvStart_RECV_START_UNACKED, nil
	}
	s, err := o.again(away, err)
	if done := c.finished(nil); err != nil {
		giveUp()
		if done && ctx.Err() == nil && errors.Is(err, context.Canceled) {
			return nil, io.EOF
		}
		return nil, err
	}
	s.cancel = giveUp // it contains the stream's own
	lease := leaseOf(o.endpoint, s.opened.GetLease(), s.opened.GetLeaseToken())
	if lease.heldBetween(c.r.Lease()) {
		s.cancel()
		lease.abandon(ctx)
		return nil, fmt.Errorf("the lease ended, and somebody else had it since: %w", ErrFenced)
	}
	c.r.mu.Lock()
	c.r.lease = lease
	c.r.mu.Unlock()
	o.opened(s)
	return s, nil
}

// finished says whether the last stream has nothing more to bring or to take.
// giveUp is what Close may call when it becomes true later.
func (c *course) finished(giveUp context.CancelFunc) bool {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.giveUp = giveUp
	return c.r.settledLocked() && (c.r.closing || c.ended && !c.r.acking)
}

// settledLocked says whether every acknowledgement is certain.
func (r *Reader) settledLocked() bool { return !r.acking || r.ackTo.Compare(r.began) <= 0 }

// receive hands on what comes on a stream until the stream ends; what was handed
// on before it leaves out.
func (c *course) receive(ctx context.Context, s *recvStream, back *retry) error {
	c.fresh = 0
	if err := c.start(ctx, positionOf(s.opened.GetPosition())); err != nil {
		return err
	}
	for {
		resp, err := s.receive()
		if err != nil {
			return err
		}
		back.succeeded()
		switch {
		case resp.GetBatch() != nil:
			err = c.batch(ctx, resp.GetBatch())
		case resp.GetHeartbeat() != nil:
			// A batch that was on its way would have come before.
			c.fresh++
		case resp.GetGap() != nil:
			err = c.gap(ctx, positionOf(resp.GetGap().GetFrom()), positionOf(resp.GetGap().GetTo()))
		case resp.GetEnd() != nil && !c.ended:
			c.ended = true
			err = c.hand(ctx, arrival{end: resp.GetEnd()})
		}
		if err != nil {
			return err
		}
	}
}

// start says what is missing where a stream begins further on than the one before
// it came: it was acknowledged on its way, or dropped since.
func (c *course) start(ctx context.Context, at Position) error {
	if at.Compare(c.to) <= 0 {
		return nil
	}
	return c.gap(ctx, c.to, at)
}

func (c *course) gap(ctx context.Context, from, to Position) error {
	c.arrived(to)
	if to.Compare(c.to) <= 0 {
		return nil
	}
	if from.Compare(c.to) < 0 {
		from = c.to
	}
	c.to = to
	return c.hand(ctx, arrival{gap: &GapError{From: from, To: to}})
}

func (c *course) batch(ctx context.Context, b *pipedv1.Batch) error {
	u := unpacked{batch: b, raw: c.r.raw, at: positionOf(b.GetFirst())}
	if c.now != nil {
		if u.cutAt(*c.now); u.empty() {
			return io.EOF
		}
	}
	end := u.end()
	c.arrived(end)
	if u.skipTo(c.to); u.empty() {
		return nil
	}
	c.to = end
	c.fresh += uint64(len(b.GetData()) + messageCost*max(len(b.GetSizes()), 1))
	return c.hand(ctx, arrival{batch: u})
}

// arrived says how far the present stream has come.
func (c *course) arrived(to Position) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.came = to
	if c.r.acked.Compare(c.r.ackTo) < 0 {
		c.r.wakeAcks()
	}
}

// hand hands something on; after Close it drops it.
func (c *course) hand(ctx context.Context, next arrival) error {
	select {
	case c.r.incoming <- next:
	case <-c.r.detached:
	case <-ctx.Done():
		// Nothing may follow what is dropped here.
		return ctx.Err()
	}
	return nil
}
