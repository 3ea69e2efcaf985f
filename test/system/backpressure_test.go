package system

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// logSize is what each direction keeps by default.
const logSize = 4 << 20

// fill sends into an endpoint that nobody reads until the daemon takes no more,
// and returns the stream, which has messages under way.
func fill(p *peer, ref *pipedv1.EndpointRef) *sender {
	p.t.Helper()
	s := p.send(&pipedv1.SendOpen{Endpoint: ref})
	data := make([]byte, 64<<10)
	full := make(chan struct{})
	go func() {
		defer close(full)
		for {
			if s.stream.Send(&pipedv1.SendRequest{Request: &pipedv1.SendRequest_Batch{Batch: &pipedv1.Batch{Data: data}}}) != nil {
				return
			}
		}
	}()
	p.t.Cleanup(func() {
		s.cancel()
		<-full
	})
	eventually(p.t, "the outbox is full", func() bool {
		return p.endpoint(ref).GetOutbox().GetQueuedBytes() > logSize-(80<<10)
	})
	return s
}

func TestSendToAChildThatNeverReadsIsReleased(t *testing.T) {
	_, p := start(t)
	begin := func(p *peer) (*pipedv1.EndpointRef, *sender) {
		ref := at(p.create(stdio(&pipedv1.ProcessSpec{Args: []string{"sleep", "1000"}}, "mp")), "", 1)
		return ref, fill(p, ref)
	}
	t.Run("by cancelling it", func(t *testing.T) {
		p := newPeer(t, p.conn)
		ref, s := begin(p)
		out := p.endpoint(ref).GetOutbox()
		if out.GetBlockedSince() == nil || time.Since(out.GetBlockedSince().AsTime()) > patience {
			t.Errorf("blocked since %v", out.GetBlockedSince())
		}
		_, err := p.pipes.Write(p.ctx(), writing(ref, "x"))
		wantReason(t, "another writer meanwhile", err, "BUSY_WRITER")
		s.cancel()
		if code := status.Code(s.failure()); code != codes.Canceled {
			t.Errorf("the stream ends with %v", code)
		}
		eventually(t, "the right to write is free", func() bool {
			next, err := p.trySend(&pipedv1.SendOpen{Endpoint: ref})
			if err != nil {
				return false
			}
			if u := next.opened.GetUnfinished(); u != nil {
				t.Errorf("unfinished: %v", u)
			}
			next.cancel()
			return true
		})
	})
	t.Run("by Close with discard", func(t *testing.T) {
		p := newPeer(t, p.conn)
		ref, s := begin(p)
		reports := p.close(&pipedv1.CloseRequest{Endpoint: ref, Discard: true, Wait: true})
		wantReason(t, "Send", s.failure(), "ENDPOINT_CLOSED")
		sent := reports[len(reports)-1].GetClosed().GetSent()
		if !strings.Contains(sent.GetDetail(), "discarded") || sent.GetBytes() > 80<<10 {
			t.Errorf("closed: %v, want what the kernel took and how much was discarded", sent)
		}
		if state := p.get(ref.GetSession()).GetProcesses()[0].GetState(); state != pipedv1.Process_STATE_RUNNING {
			t.Error("Close is not kill, but the process is gone")
		}
	})
	t.Run("by the death of the child", func(t *testing.T) {
		p := newPeer(t, p.conn)
		ref, s := begin(p)
		p.signal(ref.GetSession(), "KILL")
		wantReason(t, "Send", s.failure(), "BROKEN_PIPE")
	})
	t.Run("by removing the session", func(t *testing.T) {
		p := newPeer(t, p.conn)
		ref, s := begin(p)
		p.remove(ref.GetSession())
		wantReason(t, "Send", s.failure(), "ENDPOINT_CLOSED")
	})
}

func TestStuckSessionsDoNotSlowOthersOnTheSameConnection(t *testing.T) {
	_, p := start(t)
	echo := at(p.create(stdio(&pipedv1.ProcessSpec{Args: []string{"cat"}}, "mp")), "", 1)
	const rounds = 1000
	s, r := p.send(&pipedv1.SendOpen{Endpoint: echo}), p.recv(&pipedv1.RecvOpen{Endpoint: echo, AutoAck: true})
	number := uint64(0)
	measure := func() (median, p99 time.Duration) {
		var took []time.Duration
		for range rounds {
			number++
			began := time.Now()
			s.message(number, "ping")
			r.batch()
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		return took[rounds/2], took[rounds*99/100]
	}
	median, p99 := measure()
	for range 8 {
		fill(p, at(p.create(stdio(&pipedv1.ProcessSpec{Args: []string{"sleep", "1000"}}, "mp")), "", 1))
		noisy := p.create(sh(`exec cat /dev/zero`))
		stuck := p.recv(&pipedv1.RecvOpen{Endpoint: at(noisy, "", 1), MaxUnackedBytes: 1 << 30, MaxUnackedMessages: 1 << 30})
		stuck.next() // and nothing more: its window fills
	}
	stuckMedian, stuckP99 := measure()
	t.Logf("round trip: median %v, p99 %v; beside 16 stuck streams: median %v, p99 %v", median, p99, stuckMedian, stuckP99)
	if stuckP99 > 20*p99+50*time.Millisecond {
		t.Errorf("p99 rose from %v to %v", p99, stuckP99)
	}
}

func TestBothDirectionsFullAndThenDrained(t *testing.T) {
	_, p := start(t)
	name := p.create(nil, framed("", "mp"))
	one, two := at(name, "", 1), at(name, "", 2)
	a, b := fill(p, one), fill(p, two)
	a.cancel()
	b.cancel()
	for _, c := range []struct{ from, to *pipedv1.EndpointRef }{{one, two}, {two, one}} {
		eventually(t, "the sender is gone", func() bool { return p.endpoint(c.from).GetOutbox().GetClient() == "" })
		sent := p.endpoint(c.from).GetOutbox().GetMessages()
		r := p.recv(&pipedv1.RecvOpen{Endpoint: c.to, AutoAck: true})
		for n := range sent {
			if batch := r.batch(); len(batch.GetData()) != 64<<10 || batch.GetFirst().GetMessage() != n+1 {
				t.Fatalf("message %d: %d bytes at %v", n+1, len(batch.GetData()), batch.GetFirst())
			}
		}
	}
}

// written returns how many bytes a process has written, as the kernel counts.
func written(t *testing.T, pid int32) string {
	t.Helper()
	io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(io), "wchar: ")
	line, _, _ := strings.Cut(after, "\n")
	return line
}

func TestGigabyteToNobodyBlocksTheChildAndNotMemory(t *testing.T) {
	d, p := start(t)
	warm := p.create(&pipedv1.ProcessSpec{Args: []string{"head", "-c", "1M", "/dev/zero"}, StdioPipe: framed("", "raw")})
	p.everything(at(warm, "", 1))
	var ref *pipedv1.EndpointRef
	grown := peak(t, d.PID(), func() {
		name := p.create(&pipedv1.ProcessSpec{Args: []string{"head", "-c", "1G", "/dev/zero"}, StdioPipe: framed("", "raw")})
		ref = at(name, "", 1)
		eventually(t, "the inbox is blocked", func() bool { return p.endpoint(ref).GetInbox().GetBlockedSince() != nil })
		pid := p.get(name).GetProcesses()[0].GetPid()
		var before string
		eventually(t, "the child writes no more", func() bool {
			last := before
			before = written(t, pid)
			return before == last
		})
		always(t, "the child is blocked", func() bool { return written(t, pid) == before })
	})
	in := p.endpoint(ref).GetInbox()
	t.Logf("the daemon's peak memory grew by %s, %d bytes queued", mib(grown), in.GetQueuedBytes())
	if grown > 16<<20 || in.GetQueuedBytes() < logSize || in.GetQueuedBytes() > logSize+64<<10 {
		t.Errorf("grew by %s with %d bytes queued, want about %d", mib(grown), in.GetQueuedBytes(), logSize)
	}
	// It goes on as soon as somebody reads.
	r := p.recv(&pipedv1.RecvOpen{Endpoint: ref, AutoAck: true})
	for got := 0; got < 64<<20; {
		got += len(r.batch().GetData())
	}
}

func TestUnattendedStderrDropsItsOldestAndNeverBlocks(t *testing.T) {
	const lines, width = 1 << 20, 100
	d, p := start(t)
	var name string
	grown := peak(t, d.PID(), func() {
		name = p.create(sh(fmt.Sprintf(`head -c %d /dev/zero | tr '\0' x | fold -w %d >&2`, lines*(width-1), width-1)))
		if code := p.exit(name).GetCode(); code != 0 {
			t.Errorf("exit %d", code)
		}
	})
	ref := at(name, "stderr", 1)
	eventually(t, "the end of stderr", func() bool { return p.endpoint(ref).GetInbox().GetEnd() != nil })
	in := p.endpoint(ref).GetInbox()
	t.Logf("the daemon's peak memory grew by %s", mib(grown))
	// fold writes no newline after the last line.
	if in.GetMessages() != lines || in.GetBytes() != lines*width-1 || in.GetDroppedMessages()+in.GetQueuedMessages() != lines ||
		in.GetDroppedBytes()+in.GetQueuedBytes() != lines*width-1 || in.GetQueuedBytes() > logSize || grown > 24<<20 {
		t.Errorf("inbox %v, memory grew by %s", in, mib(grown))
	}
	wantGapThenRest(p, ref, in)
}

// wantGapThenRest receives what is left of lines after those that were dropped.
func wantGapThenRest(p *peer, ref *pipedv1.EndpointRef, in *pipedv1.Flow) {
	p.t.Helper()
	r := p.recv(&pipedv1.RecvOpen{Endpoint: ref, Mode: pipedv1.RecvMode_RECV_MODE_OBSERVE, Start: pipedv1.RecvStart_RECV_START_POSITION,
		Position: position(1, 0), MaxBatchMessages: 1000})
	gap := r.next().GetGap()
	if gap.GetFrom().GetMessage() != 1 || gap.GetTo().GetMessage() < 2 || gap.GetTo().GetOffset() != 0 {
		p.t.Fatalf("gap %v, want one from message 1 to a later one", gap)
	}
	next := gap.GetTo().GetMessage()
	for {
		resp := r.next()
		if end := resp.GetEnd(); end != nil {
			if next != in.GetMessages()+1 || end.GetPosition().GetMessage() != next {
				p.t.Errorf("end %v after message %d", end, next-1)
			}
			break
		}
		b := resp.GetBatch()
		if b.GetFirst().GetMessage() != next || bytes.ContainsFunc(b.GetData(), func(c rune) bool { return c != 'x' }) {
			p.t.Fatalf("batch at %v, want %d", b.GetFirst(), next)
		}
		next += uint64(max(len(b.GetSizes()), 1))
	}
	// The consumer has just what was not dropped.
	resp, err := p.pipes.Read(p.ctx(), &pipedv1.ReadRequest{Endpoint: ref})
	if err != nil || resp.GetBatch().GetFirst().GetMessage() != in.GetDroppedMessages()+1 {
		p.t.Errorf("the consumer begins at %v, %v; want %d", resp.GetBatch().GetFirst(), err, in.GetDroppedMessages()+1)
	}
}

func TestAttendedConsumerUnderDropOldestIsToldOfEachGap(t *testing.T) {
	_, p := start(t)
	process := sh(`i=1; while [ $i -le 40000 ]; do echo "$i"; i=$((i+1)); done`)
	process.StdioPipe = framed("", "line")
	process.StdioPipe.Log = &pipedv1.LogSpec{Size: 64 << 10, Overflow: pipedv1.LogSpec_OVERFLOW_DROP_OLDEST}
	name := p.create(process)
	r := p.recv(&pipedv1.RecvOpen{Endpoint: at(name, "", 1)})
	next, missed := uint64(1), uint64(0)
	for {
		resp := r.next()
		switch {
		case resp.GetBatch() != nil:
			b := resp.GetBatch()
			if b.GetFirst().GetMessage() != next || string(b.GetData()) != fmt.Sprint(next) {
				t.Fatalf("got %q at %v, want line %d", b.GetData(), b.GetFirst(), next)
			}
			if next == 1 {
				p.exit(name) // too slow for nearly everything
			}
			next++
			r.ack(next, 0)
		case resp.GetGap() != nil:
			if resp.GetGap().GetFrom().GetMessage() != next {
				t.Fatalf("gap %v at %d", resp.GetGap(), next)
			}
			missed += resp.GetGap().GetTo().GetMessage() - next
			next = resp.GetGap().GetTo().GetMessage()
		default:
			in := p.endpoint(at(name, "", 1)).GetInbox()
			if next != 40001 || missed == 0 || missed != in.GetDroppedMessages() && missed+1 != in.GetDroppedMessages() {
				t.Errorf("ended at %d with %d missed, inbox %v", next, missed, in)
			}
			return
		}
	}
}
