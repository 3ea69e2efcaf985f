package exact

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

const (
	linearWriters = 4
	linearOpens   = 5
	linearSends   = 4
)

func TestConcurrentSendReceiveTakeOverAndCloseAreAnAppendOnlyLog(t *testing.T) {
	r := newRow(t, "LIN")
	p := r.dial(r.d.Addr)
	rounds := sized(15, 1000)
	var ops, takeOvers, unknowns, refused int
	for i := range rounds {
		l := newLinear(r, p, i)
		if err := l.run(); err != nil {
			t.Errorf("round %d: %v", i, err)
			break
		}
		if result := porcupine.CheckOperationsTimeout(logModel, l.ops, patience); result != porcupine.Ok {
			t.Errorf("round %d: the history is %v:\n%s", i, result, describe(l.ops))
			break
		}
		mutants, accepted := l.mutants()
		if accepted != "" {
			t.Errorf("round %d: the checker accepts %s", i, accepted)
		}
		refused += mutants
		ops += len(l.ops)
		for _, op := range l.ops {
			switch in := op.Input.(type) {
			case opOpen:
				takeOvers++
			case opSend:
				if in.outcome != acknowledged {
					unknowns++
				}
			}
		}
	}
	r.note("rounds=%d operations=%d take_overs=%d not_acknowledged=%d linearizable=yes mutants_refused=%d", rounds, ops, takeOvers, unknowns, refused)
	r.finish()
}

func describe(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var text string
	for _, op := range ops {
		text += fmt.Sprintf("%8d..%8d %T%+q\n", op.Call/1000, op.Return/1000, op.Input, op.Input)
	}
	return text
}

// A linear is one round: writers that take the lease from each other, an
// observer and a consumer, and one who closes.
type linear struct {
	r    *row
	p    peer
	name string
	seed uint64
	zero time.Time

	streams atomic.Int64
	mu      sync.Mutex
	ops     []porcupine.Operation
	h       *history
}

func newLinear(r *row, p peer, i int) *linear {
	l := &linear{r: r, p: p, name: fmt.Sprintf("linear-%d", i), seed: uint64(i), zero: time.Now()}
	l.h = newHistory(l.name, "pipe", "in", byClient)
	l.h.complete = true
	for w := range linearWriters {
		l.h.writer(strconv.Itoa(w + 1))
	}
	return l
}

// did adds an operation that began then and has ended now.
func (l *linear) did(client int, began int64, input any, until int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops = append(l.ops, porcupine.Operation{ClientId: client, Input: input, Call: began, Return: until})
}

func (l *linear) now() int64 { return int64(time.Since(l.zero)) }

func (l *linear) ref(end uint32) *pipedv1.EndpointRef {
	return &pipedv1.EndpointRef{Session: l.name, End: end}
}

func (l *linear) run() error {
	ctx, cancel := context.WithTimeout(l.r.t.Context(), patience)
	defer cancel()
	l.r.create(&pipedv1.CreateSessionRequest{Name: l.name, Pipes: []*pipedv1.PipeSpec{{Name: "pipe", FramingIn: &pipedv1.Framing{Name: "mp"}}}})
	defer l.r.remove(l.name)
	var writers, readers sync.WaitGroup
	errs := make([]error, linearWriters+3)
	for w := range linearWriters {
		writers.Go(func() { errs[w] = l.write(ctx, w+1) })
	}
	readers.Go(func() { errs[linearWriters] = l.read(ctx, linearWriters, pipedv1.RecvMode_RECV_MODE_OBSERVE) })
	readers.Go(func() { errs[linearWriters+1] = l.read(ctx, linearWriters+1, pipedv1.RecvMode_RECV_MODE_CONSUME) })
	// Every other round closes while the writers are at it.
	if l.seed%2 == 0 {
		writers.Wait()
	} else {
		pause(ctx, time.Duration(rand.New(rand.NewPCG(l.seed, 7)).IntN(40))*time.Millisecond)
	}
	errs[linearWriters+2] = l.close(ctx)
	writers.Wait()
	readers.Wait()
	l.r.judge(l.h)
	return errors.Join(errs...)
}

// write takes the lease a few times, and sends a few messages each time; some of
// the streams it cuts.
func (l *linear) write(ctx context.Context, w int) error {
	random := rand.New(rand.NewPCG(l.seed, uint64(w)))
	for range linearOpens {
		pause(ctx, time.Duration(random.IntN(8))*time.Millisecond)
		stream := int(l.streams.Add(1))
		began := l.now()
		s, err := l.p.send(ctx, &pipedv1.SendOpen{Endpoint: l.ref(1), WriterId: strconv.Itoa(w), Steal: true})
		if closedReason(err) {
			l.did(w, began, opOpen{writer: w, stream: stream, closed: true}, l.now())
			return nil
		}
		if reason, _ := reasonOf(err); reason == "FENCED" || reason == "SUPERSEDED" {
			l.did(w, began, opOpen{writer: w, stream: stream, lost: true}, l.now())
			continue
		}
		if err != nil {
			return fmt.Errorf("open: %w", err)
		}
		if s.opened.GetLease() == nil {
			return fmt.Errorf("opened without a lease: %v", s.opened)
		}
		number := int(s.opened.GetExpected().GetMessage())
		l.did(w, began, opOpen{writer: w, stream: stream, epoch: int(s.opened.GetLease().GetEpoch()), expected: number}, l.now())
		err = l.sendSome(s, random, w, stream, number)
		s.cut()
		if err != nil {
			return err
		}
	}
	return nil
}

// sendSome sends messages until the lease is lost; sometimes it cuts the stream
// without waiting for an answer.
func (l *linear) sendSome(s *sending, random *rand.Rand, w, stream, number int) error {
	for range random.IntN(linearSends) + 1 {
		op := opSend{writer: w, stream: stream, number: number, outcome: acknowledged}
		l.mu.Lock()
		book := l.h.writer(strconv.Itoa(w))
		book.sent = max(book.sent, uint64(number))
		l.mu.Unlock()
		began := l.now()
		s.message(uint64(number), stamp{session: l.name, pipe: "pipe", direction: "in", writer: strconv.Itoa(w), number: uint64(number)}.message(0))
		if random.IntN(5) == 0 {
			op.outcome = unknown
			l.did(w, began, op, forever)
			return nil
		}
		_, err := s.acked(uint64(number) + 1)
		reason, _ := reasonOf(err)
		switch {
		case err == nil:
			l.mu.Lock()
			book.acked = max(book.acked, uint64(number))
			l.mu.Unlock()
		case reason == "FENCED" || reason == "SUPERSEDED":
			op.outcome = fenced
		case closedReason(err):
			op.outcome = shut
		default:
			return fmt.Errorf("send: %w", err)
		}
		l.did(w, began, op, l.now())
		if err != nil {
			return nil
		}
		number++
	}
	return nil
}

// closedReason says that the daemon refused something because the direction is
// closed.
func closedReason(err error) bool {
	reason, _ := reasonOf(err)
	return reason == "ENDPOINT_CLOSED"
}

// read receives everything to the end.
func (l *linear) read(ctx context.Context, client int, mode pipedv1.RecvMode) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := l.p.pipes.Recv(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Open{Open: &pipedv1.RecvOpen{Endpoint: l.ref(2), Mode: mode}}}); err != nil {
		return err
	}
	for index := 0; ; {
		began := l.now()
		resp, err := stream.Recv()
		switch {
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		case resp.GetEnd() != nil:
			l.did(client, began, opRecv{index: index, end: true}, l.now())
			return nil
		case resp.GetGap() != nil:
			return fmt.Errorf("gap %v", resp.GetGap())
		case resp.GetBatch() == nil:
			continue
		}
		b := resp.GetBatch()
		if got := b.GetFirst().GetMessage(); got != uint64(index+1) {
			return fmt.Errorf("message %d, want %d", got, index+1)
		}
		s, err := readStamp(b.GetData())
		if err != nil {
			return err
		}
		w, err := strconv.Atoi(s.writer)
		if err != nil {
			return err
		}
		l.did(client, began, opRecv{index: index, token: messageToken(w, int(s.number))}, l.now())
		index++
		if mode == pipedv1.RecvMode_RECV_MODE_OBSERVE {
			continue
		}
		l.h.got = append(l.h.got, observation{body: b.GetData(), position: uint64(index), at: time.Now().UnixNano()})
		if err := stream.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Ack{Ack: &pipedv1.RecvAck{Position: &pipedv1.Position{Message: uint64(index + 1)}}}}); err != nil {
			return err
		}
	}
}

// close closes the direction.
func (l *linear) close(ctx context.Context) error {
	began := l.now()
	stream, err := l.p.pipes.Close(ctx, &pipedv1.CloseRequest{Endpoint: l.ref(1), SendOnly: true})
	for err == nil {
		_, err = stream.Recv()
	}
	if reason, _ := reasonOf(err); reason != "Unknown" { // io.EOF
		return fmt.Errorf("close: %w", err)
	}
	l.did(linearWriters+2, began, opClose{}, l.now())
	return nil
}

// epochBefore returns the highest epoch that was seen before an opening began, so
// that a lower one is wrong in whatever order things happened.
func (l *linear) epochBefore(open opOpen) (epoch int) {
	var began int64
	for _, op := range l.ops {
		if op.Input == any(open) {
			began = op.Call
		}
	}
	for _, op := range l.ops {
		if in, ok := op.Input.(opOpen); ok && op.Return < began && !in.closed && !in.lost {
			epoch = max(epoch, in.epoch)
		}
	}
	return epoch
}

// mutants makes histories that are wrong out of the one that is right, and
// returns how many, and what the checker accepts.
func (l *linear) mutants() (refused int, accepted string) {
	for _, m := range []struct {
		name string
		// change changes an operation, or says that it cannot.
		change func(in any) (any, bool)
	}{
		{"a message that nobody sent", func(in any) (any, bool) {
			op, ok := in.(opRecv)
			op.token = messageToken(linearWriters, 999)
			return op, ok && !op.end
		}},
		{"an end one message early", func(in any) (any, bool) {
			op, ok := in.(opRecv)
			op.index--
			return op, ok && op.end && op.index >= 0
		}},
		{"an epoch that goes back", func(in any) (any, bool) {
			op, ok := in.(opOpen)
			seen := l.epochBefore(op)
			op.epoch = seen - 1
			return op, ok && !op.closed && !op.lost && seen > 1
		}},
		{"a wrong expectation", func(in any) (any, bool) {
			op, ok := in.(opOpen)
			op.expected++
			return op, ok && !op.closed && !op.lost
		}},
	} {
		for i, op := range l.ops {
			in, ok := m.change(op.Input)
			if !ok {
				continue
			}
			ops := slices.Clone(l.ops)
			ops[i].Input = in
			if porcupine.CheckOperationsTimeout(logModel, ops, patience) != porcupine.Illegal {
				return refused, m.name
			}
			refused++
			break
		}
	}
	return refused, ""
}
