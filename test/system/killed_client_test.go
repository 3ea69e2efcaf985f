package system

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestSendAfterAKillGoesOnAtTheNextMessageAndDoublesNothing(t *testing.T) {
	d, p := start(t)
	into := at(p.create(stdio(&pipedv1.ProcessSpec{Args: []string{"cat"}}, "line")), "", 1)
	open := &pipedv1.SendOpen{Endpoint: into, WriterId: "w"}
	// A batch of three and one of two are sent; nobody knows what of it arrived.
	var batches [][]byte
	for _, b := range []*pipedv1.Batch{
		{First: position(1, 0), Data: []byte("m1m2m3"), Sizes: []uint32{2, 2, 2}},
		{First: position(4, 0), Data: []byte("m4m5"), Sizes: []uint32{2, 2}},
	} {
		batches = append(batches, marshal(t, b))
	}
	c := startClient(t, role{Addr: d.Addr, Send: marshal(t, open), Batches: batches})
	c.kill()

	s := p.send(open)
	expected := s.opened.GetExpected().GetMessage()
	if expected > 6 {
		t.Fatalf("expected %d after five messages", expected)
	}
	// The next life repeats everything from the start, in other batches.
	s.batch(&pipedv1.Batch{First: position(1, 0), Data: []byte("m1m2m3m4"), Sizes: []uint32{2, 2, 2, 2}})
	s.batch(&pipedv1.Batch{First: position(2, 0), Data: []byte("m2m3m4m5m6m7"), Sizes: []uint32{2, 2, 2, 2, 2, 2}})
	s.acked(position(8, 0))
	if err := s.end(); err != nil {
		t.Error(err)
	}
	p.closeSend(into)
	got, end := p.everything(into)
	if text := strings.Join(got, " "); text != "m1 m2 m3 m4 m5 m6 m7" || end.GetPosition().GetMessage() != 8 {
		t.Errorf("%q, %v; want each message once", text, end)
	}
}

func TestUnfinishedMessageOfAKilledClientCanBeContinuedByAnybodyAndByNobodyBegunAnew(t *testing.T) {
	d, p := start(t)
	part := partSize(p)
	message := bytes.Repeat([]byte("0123456789abcdef"), 5*part/2/16)
	total := uint64(len(message))
	for _, c := range []struct{ name, writer string }{{"the same writer", "w"}, {"another writer", "other"}, {"a writer without a name", ""}} {
		t.Run(c.name, func(t *testing.T) {
			p := newPeer(t, p.conn)
			ref := at(p.create(stdio(&pipedv1.ProcessSpec{Args: []string{"cat"}}, "mp")), "", 1)
			open := &pipedv1.SendOpen{Endpoint: ref, WriterId: "w"}
			killed := startClient(t, role{Addr: d.Addr, Send: marshal(t, open), Batches: [][]byte{
				marshal(t, &pipedv1.Batch{First: position(1, 0), Data: []byte("first")}),
				marshal(t, &pipedv1.Batch{First: position(2, 0), Data: message[:part], More: true, TotalSize: total}),
			}})
			eventually(t, "the part arrived", func() bool { return p.endpoint(ref).GetOutbox().GetBytes() > uint64(part) })
			killed.kill()
			// Another id gets the right only when the daemon has seen the cut.
			var s *sender
			eventually(t, "the right to write is free", func() bool {
				var err error
				s, err = p.trySend(&pipedv1.SendOpen{Endpoint: ref, WriterId: c.writer})
				return err == nil
			})
			number := s.opened.GetExpected().GetMessage()
			if u := s.opened.GetUnfinished(); u.GetHave() != uint64(part) || u.GetTotal() != total || s.opened.GetExpected().GetOffset() != uint64(part) {
				t.Fatalf("opened %v, want %d of %d", s.opened, part, total)
			}
			s.message(number, "a new one")
			err := s.failure()
			wantReason(t, "a new message", err, "UNFINISHED_MESSAGE")
			if factOf(err, "have") != fmt.Sprint(part) || factOf(err, "total") != fmt.Sprint(total) {
				t.Errorf("facts: %v", status.Convert(err).Details())
			}
			_, err = p.pipes.Write(p.ctx(), writing(ref, "unary"))
			wantReason(t, "Write", err, "UNFINISHED_MESSAGE")

			s = p.send(&pipedv1.SendOpen{Endpoint: ref, WriterId: c.writer})
			s.batch(&pipedv1.Batch{First: position(number, uint64(part)), Data: message[part : 2*part], More: true, TotalSize: total})
			s.batch(&pipedv1.Batch{First: position(number, uint64(2*part)), Data: message[2*part:], TotalSize: total})
			s.acked(position(number+1, 0))
			if err := s.end(); err != nil {
				t.Error(err)
			}
			p.closeSend(ref)
			got, _ := p.everything(ref)
			if len(got) != 2 || got[0] != "first" || got[1] != string(message) {
				t.Errorf("%d messages, want the first and the continued one, whole", len(got))
			}
		})
	}
}

func TestClosingAfterAnUnfinishedMessageEndsTheDirectionTruncated(t *testing.T) {
	_, p := start(t)
	part := partSize(p)
	name := p.create(stdio(&pipedv1.ProcessSpec{Args: []string{"cat"}}, "mp"))
	ref := at(name, "", 1)
	s := p.send(&pipedv1.SendOpen{Endpoint: ref})
	s.batch(&pipedv1.Batch{First: position(1, 0), Data: make([]byte, part), More: true, TotalSize: uint64(part) + 7})
	s.acked(position(1, uint64(part)))
	s.cancel()
	reports := p.close(&pipedv1.CloseRequest{Endpoint: ref, SendOnly: true, Wait: true})
	if got := reports[len(reports)-1].GetClosed().GetSent().GetCause(); got != pipedv1.EndCause_END_CAUSE_TRUNCATED {
		t.Errorf("sent: %v, want truncated", got)
	}
	got, end := p.everything(ref)
	if len(got) != 1 || end.GetCause() != pipedv1.EndCause_END_CAUSE_TRUNCATED || end.GetPosition().GetOffset() != uint64(part) {
		t.Errorf("%d messages, %v", len(got), end)
	}
}

func TestConsumerThatIsKilledLosesNothing(t *testing.T) {
	d, p := start(t)
	name := p.create(nil, framed("", "mp"))
	from, to := at(name, "", 1), at(name, "", 2)
	p.write(from, "one", "two", "three", "four", "five")
	open := &pipedv1.RecvOpen{Endpoint: to, ConsumerId: "c", MaxUnackedMessages: 10}
	killed := startClient(t, role{Addr: d.Addr, Recv: marshal(t, open), Take: 4, Ack: 2})
	eventually(t, "the acknowledgements arrived", func() bool {
		in := p.endpoint(to).GetInbox()
		return in.GetMessages()-in.GetQueuedMessages() == 2
	})
	killed.kill()
	eventually(t, "the right to read is free", func() bool { return p.endpoint(to).GetInbox().GetClient() == "" })
	p.closeEnd(from)
	r := p.recv(&pipedv1.RecvOpen{Endpoint: to, MaxUnackedMessages: 10})
	if r.opened.GetPosition().GetMessage() != 3 {
		t.Errorf("opened at %v, want message 3", r.opened.GetPosition())
	}
	for i, want := range []string{"three", "four", "five"} {
		if b := r.batch(); string(b.GetData()) != want || b.GetFirst().GetMessage() != uint64(i+3) {
			t.Errorf("got %v, want %q", b, want)
		}
		r.ack(uint64(i+4), 0)
	}
	if end := r.ended(); end.GetPosition().GetMessage() != 6 {
		t.Errorf("end %v, want it after message 5", end)
	}
	if err := r.failure(); err != nil {
		t.Error(err)
	}
}

func TestCancelledRecvGivesItsMessageToTheNext(t *testing.T) {
	_, p := start(t)
	name := p.create(nil, framed("", "line"))
	p.write(at(name, "", 1), "one", "two")
	for range 20 {
		r, err := p.tryRecv(&pipedv1.RecvOpen{Endpoint: at(name, "", 2), ConsumerId: "c"})
		if err != nil {
			t.Fatal(err)
		}
		if b := r.batch(); string(b.GetData()) != "one" {
			t.Fatalf("got %q, want the first message again", b.GetData())
		}
		r.cancel()
	}
	p = newPeer(t, p.conn)
	var resp *pipedv1.ReadResponse
	eventually(t, "the last stream is gone", func() bool {
		var err error
		resp, err = p.pipes.Read(p.ctx(), &pipedv1.ReadRequest{Endpoint: at(name, "", 2), AutoAck: true})
		return reasonOf(err) != "BUSY_READER"
	})
	if got := string(resp.GetBatch().GetData()); got != "one" {
		t.Errorf("got %q, want one", got)
	}
	if got := p.read(at(name, "", 2)); got != "two" {
		t.Errorf("got %q, want two", got)
	}
}

func TestDeadlineInTheMiddleOfAFrameLosesNothing(t *testing.T) {
	_, p := start(t)
	// The process writes half a frame, and the rest when it is told to.
	script := `printf '\000\000\000\006abc'; read x; printf 'def\000\000\000\001z'`
	process := sh(script)
	process.StdioPipe = &pipedv1.PipeSpec{FramingIn: &pipedv1.Framing{Name: "line"}, FramingOut: &pipedv1.Framing{Name: "mp"}}
	low := sh(script+` <&3 >&3`, copies(2, 3))
	low.Args[2] = `exec <&3 >&3; ` + script
	for _, c := range []struct {
		name string
		ref  *pipedv1.EndpointRef
	}{
		{"that reads ahead", at(p.create(process), "", 1)},
		{"that is read on demand", at(p.create(quiet(low), &pipedv1.PipeSpec{Name: "pipe",
			FramingIn: &pipedv1.Framing{Name: "line"}, FramingOut: &pipedv1.Framing{Name: "mp"}}), "", 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPeer(t, p.conn)
			if ready := p.poll(nil, c.ref); ready[0].GetMessage() || !ready[0].GetData() || ready[0].GetEnd() {
				t.Errorf("poll with half a frame: %v, want data alone", ready)
			}
			ctx, cancel := context.WithTimeout(t.Context(), settle)
			_, err := p.pipes.Read(ctx, &pipedv1.ReadRequest{Endpoint: c.ref})
			cancel()
			if code := status.Code(err); code != codes.DeadlineExceeded {
				t.Errorf("deadline: %v, want gRPC's own code", err)
			}
			var resp *pipedv1.ReadResponse
			eventually(t, "the daemon has seen that the client is gone", func() bool {
				resp, err = p.pipes.Read(p.ctx(), &pipedv1.ReadRequest{Endpoint: c.ref, Timeout: durationpb.New(time.Millisecond)})
				return reasonOf(err) != "BUSY_READER"
			})
			if err != nil || resp.GetBatch() != nil {
				t.Errorf("timeout: %v, %v; want nothing and no error", resp, err)
			}
			r := p.recv(&pipedv1.RecvOpen{Endpoint: c.ref, ConsumerId: "c"})
			r.cancel()
			p.write(c.ref, "go on")
			r = p.recv(&pipedv1.RecvOpen{Endpoint: c.ref, ConsumerId: "c", MaxUnackedMessages: 2})
			if b := r.batch(); string(b.GetData()) != "abcdef" {
				t.Errorf("got %q, want the whole frame", b.GetData())
			}
			if b := r.batch(); string(b.GetData()) != "z" {
				t.Errorf("got %q, want the next frame", b.GetData())
			}
			r.ack(3, 0)
			// The daemon has a copy of the other end as well, where it was not
			// handed over.
			p.closeEnd(at(c.ref.GetSession(), c.ref.GetPipe(), 2))
			if end := r.ended(); end.GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED || end.GetPosition().GetMessage() != 3 {
				t.Errorf("end %v, want it after message 2", end)
			}
		})
	}
}
