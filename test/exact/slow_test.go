package exact

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

const (
	// slowOutput is what each child of C6 wants to write: more than the daemon's
	// log and the kernel take.
	slowOutput = 4 << 20
	slowLog    = 1 << 20
)

func TestC6ReaderThatIsSlowOrSilentBlocksItsChildAndNobodyElse(t *testing.T) {
	r := newRow(t, "C6", "--log-size", fmt.Sprint(slowLog))
	lasts := sized(3*time.Second, time.Minute)
	ctx, stop := context.WithTimeout(t.Context(), lasts+2*patience)
	defer stop()
	// The messages of each child, and what became of them.
	var slows []*slow
	for _, s := range []*slow{
		{name: "bytewise", framing: "raw", open: &pipedv1.RecvOpen{MaxBatchBytes: 1, MaxUnackedMessages: 1}, every: time.Second},
		{name: "mute", framing: "line", open: &pipedv1.RecvOpen{MaxUnackedMessages: 1 << 40, MaxBatchMessages: 1024}},
		{name: "trickle", framing: "line", open: &pipedv1.RecvOpen{MaxUnackedMessages: 1 << 40, MaxBatchMessages: 1024}, throttled: true},
	} {
		s.row = r
		if err := s.start(ctx); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		slows = append(slows, s)
	}
	for _, s := range slows {
		if !await(func() bool { return r.endpoint(s.name, 1).GetInbox().GetBlockedSince() != nil }) {
			t.Errorf("%s: the child is not blocked: %v", s.name, r.endpoint(s.name, 1))
		}
	}
	memory := watchMemory(t, r.d.PID())
	with, without := pingBoth(ctx, r, time.Now().Add(lasts))
	slope := memory.slope()
	var blocked string
	for _, s := range slows {
		if in := r.endpoint(s.name, 1).GetInbox(); in.GetBlockedSince() == nil {
			t.Errorf("%s: the child is blocked no more: %v", s.name, in)
		}
		blocked += "," + s.name
		if err := s.drain(ctx); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
	}
	ratio := float64(quantile(with, 0.99)) / float64(max(quantile(without, 0.99), 1))
	r.note("seconds_slow=%.0f rss_slope_kib_s=%.1f child_blocked=yes(%s) pings=%d p99_us=%d p99_without_us=%d p99_ratio=%.2f", lasts.Seconds(), slope, blocked[1:],
		len(with), quantile(with, 0.99).Microseconds(), quantile(without, 0.99).Microseconds(), ratio)
	// In the short form the heap still settles, and few pings say little. What is
	// collected without bound grows by far more: the children write all they can.
	if bound := sized(4096.0, 16.0); slope > bound {
		t.Errorf("the memory of the daemon grows by %.1f KiB/s", slope)
	}
	if bound := sized(5, 1.2); ratio > bound {
		t.Errorf("other sessions have %.2f times the p99", ratio)
	}
	r.finish()
}

// A slow is a session whose reader does not keep up.
type slow struct {
	row           *row
	name, framing string
	open          *pipedv1.RecvOpen
	// every is the pause between two acknowledgements; 0 means that none comes.
	every time.Duration
	// throttled lets one byte a second through the connection.
	throttled bool

	h     *history
	bytes []byte // what was acknowledged
	cut   context.CancelFunc
	loop  sync.WaitGroup
}

// start starts the child and its reader.
func (s *slow) start(ctx context.Context) error {
	s.h = newHistory(s.name, "stdio", "out", byClient)
	s.h.complete = true
	var out bytes.Buffer
	for n := uint64(1); out.Len() < slowOutput; n++ {
		out.Write(append(stamp{session: s.name, pipe: "stdio", direction: "out", writer: "child", number: n}.message(256), '\n'))
		s.h.writer("child").sent, s.h.writer("child").acked = n, n
	}
	file := s.row.path(s.name + ".out")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		return err
	}
	s.row.create(&pipedv1.CreateSessionRequest{Name: s.name, Process: &pipedv1.ProcessSpec{
		Args: []string{"cat", file}, StdioPipe: &pipedv1.PipeSpec{FramingIn: &pipedv1.Framing{Name: s.framing}},
	}})
	addr := s.row.d.Addr
	if s.throttled {
		p := newProxy(s.row.t, addr, func(int) (up, down transfer) { return nil, trickle })
		s.row.atEnd(p.close)
		addr = p.addr
	}
	s.open.Endpoint = &pipedv1.EndpointRef{Session: s.name}
	s.open.ConsumerId = "c"
	ctx, s.cut = context.WithCancel(ctx)
	stream, err := s.row.dial(addr).pipes.Recv(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Open{Open: s.open}}); err != nil {
		return err
	}
	if resp, err := stream.Recv(); err != nil || resp.GetOpened() == nil {
		return fmt.Errorf("opened: %v, %w", resp, err)
	}
	if s.every > 0 {
		s.loop.Go(func() { s.sip(ctx, stream) })
	}
	return nil
}

// trickle lets the beginning of a connection through and then a byte a second.
func trickle(ctx context.Context, dst io.Writer, src io.Reader) {
	if _, err := io.CopyN(dst, src, 4<<10); err != nil {
		return
	}
	for ctx.Err() == nil {
		if _, err := io.CopyN(dst, src, 1); err != nil {
			return
		}
		pause(ctx, time.Second)
	}
}

// sip takes one byte after another.
func (s *slow) sip(ctx context.Context, stream pipedv1.PipeService_RecvClient) {
	for ctx.Err() == nil {
		resp, err := stream.Recv()
		if err != nil {
			return
		}
		b := resp.GetBatch()
		if b == nil {
			continue
		}
		s.bytes = append(s.bytes, b.GetData()...)
		ack := &pipedv1.RecvAck{Position: &pipedv1.Position{Message: b.GetFirst().GetMessage() + uint64(len(b.GetData()))}}
		if err := stream.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Ack{Ack: ack}}); err != nil {
			return
		}
		pause(ctx, s.every)
	}
}

// drain cuts the slow reader and lets an ordinary one take the rest.
func (s *slow) drain(ctx context.Context) error {
	s.cut()
	s.loop.Wait()
	opts := client.ReaderOptions{ConsumerID: "c"}
	if s.framing == "raw" {
		opts.Start, opts.Position = pipedv1.RecvStart_RECV_START_POSITION, client.Position{Message: uint64(len(s.bytes)) + 1}
	}
	rd, err := s.row.c.Endpoint(client.Ref{Session: s.name}).NewReader(ctx, opts)
	if err != nil {
		return err
	}
	k := &talk{r: s.row}
	if err := k.receive(ctx, rd, 1<<60); err != nil {
		return err
	}
	if s.framing == "raw" {
		for _, o := range k.back {
			s.bytes = append(s.bytes, o.body...)
		}
		k.back = cut(s.bytes, "line")
	}
	s.h.got = k.back
	// They waited in the log as long as the row let them.
	for i := range s.h.got {
		s.h.got[i].at = 0
	}
	s.row.judge(s.h)
	return rd.Close(ctx)
}

// pingBoth sends messages to and fro in a session beside the slow ones and in
// one of another daemon, in turn, so that whatever else the machine does meets
// both, and returns the sorted times.
func pingBoth(ctx context.Context, r *row, until time.Time) (with, without []time.Duration) {
	alone := daemon.Start(r.t, "--log-level", "warn", "--log-size", fmt.Sprint(slowLog))
	other := &row{t: r.t, name: r.name, d: alone, c: alone.Dial(r.t)}
	here, there := newPing(ctx, r), newPing(ctx, other)
	for n := uint64(1); time.Now().Before(until) && !r.t.Failed(); n++ {
		with = append(with, here.once(ctx, n))
		without = append(without, there.once(ctx, n))
	}
	here.finish(ctx)
	there.finish(ctx)
	slices.Sort(with)
	slices.Sort(without)
	return with, without
}

// A ping is a talk, one message at a time.
type ping struct {
	k  *talk
	w  *client.Writer
	rd *client.Reader
}

func newPing(ctx context.Context, r *row) *ping {
	r.t.Helper()
	p := &ping{k: r.newTalk("ping", "mp")}
	r.create(p.k.request())
	e := r.c.Endpoint(p.k.ref())
	var err error
	if p.w, err = e.NewWriter(ctx, client.WriterOptions{ID: "w"}); err != nil {
		r.t.Fatal(err)
	}
	if p.rd, err = e.NewReader(ctx, client.ReaderOptions{ConsumerID: "c"}); err != nil {
		r.t.Fatal(err)
	}
	return p
}

// once returns how long message n took there and back.
func (p *ping) once(ctx context.Context, n uint64) time.Duration {
	begun := time.Now()
	p.k.in.writer("w").sent = n
	if err := p.w.Send(ctx, p.k.message("w", n, 64)); err != nil {
		p.k.r.t.Error(err)
	}
	if err := p.k.receive(ctx, p.rd, n); err != nil {
		p.k.r.t.Error(err)
	}
	return time.Since(begun)
}

func (p *ping) finish(ctx context.Context) {
	for _, close := range []func(context.Context) error{p.w.Close, p.rd.Close} {
		if err := close(ctx); err != nil {
			p.k.r.t.Error(err)
		}
	}
	book := p.k.in.writer("w")
	book.acked = book.sent
	p.k.r.remove(p.k.name)
	if err := p.k.judge(true); err != nil {
		p.k.r.t.Error(err)
	}
}
