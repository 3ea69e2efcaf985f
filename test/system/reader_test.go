package system

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestOneConsumerAtATimeAndTheSameOneTakesOver(t *testing.T) {
	_, p := start(t)
	name := p.create(nil, framed("", "line"))
	ref := at(name, "", 2)
	p.write(at(name, "", 1), "one", "two")
	first := p.recv(&pipedv1.RecvOpen{Endpoint: ref, ConsumerId: "c"})
	_, err := p.tryRecv(&pipedv1.RecvOpen{Endpoint: ref})
	wantReason(t, "another consumer", err, "BUSY_READER")
	if factOf(err, "client") != "c" {
		t.Errorf("client %q, want c", factOf(err, "client"))
	}
	wantReason(t, "Read", p.readError(ref), "BUSY_READER")
	if b := first.batch(); string(b.GetData()) != "one" {
		t.Errorf("got %q", b.GetData())
	}
	second := p.recv(&pipedv1.RecvOpen{Endpoint: ref, ConsumerId: "c"})
	wantReason(t, "the first stream", first.failure(), "SUPERSEDED")
	if b := second.batch(); string(b.GetData()) != "one" {
		t.Errorf("got %q, want what was not acknowledged", b.GetData())
	}
	second.ack(2, 0)
	if b := second.batch(); string(b.GetData()) != "two" {
		t.Errorf("got %q", b.GetData())
	}
	second.ack(9, 0)
	wantReason(t, "an acknowledgement of what was not sent", second.failure(), "POSITION_OUT_OF_RANGE")
}

func TestTooLongMessageStaysWhereItIs(t *testing.T) {
	_, p := start(t)
	for _, framing := range []string{"mp", "line"} {
		t.Run(framing, func(t *testing.T) {
			p := newPeer(t, p.conn)
			name := p.create(nil, framed("", framing))
			ref := at(name, "", 2)
			p.write(at(name, "", 1), "", "12345678", "x")
			read := func(limit int64) (*pipedv1.ReadResponse, error) {
				return p.pipes.Read(p.ctx(), &pipedv1.ReadRequest{Endpoint: ref, MaxMessageSize: &limit, AutoAck: true})
			}
			if resp, err := read(0); err != nil || len(resp.GetBatch().GetData()) != 0 {
				t.Errorf("an empty one with limit 0: %v, %v", resp, err)
			}
			for range 3 {
				_, err := read(7)
				wantReason(t, "limit 7", err, "MESSAGE_TOO_LONG")
				if factOf(err, "size") != "8" || factOf(err, "max") != "7" {
					t.Errorf("facts: size %s, max %s", factOf(err, "size"), factOf(err, "max"))
				}
			}
			_, err := read(-1)
			wantReason(t, "limit -1", err, "ARGUMENT")
			r, err := p.tryRecv(&pipedv1.RecvOpen{Endpoint: ref, MaxMessageSize: 7})
			if err == nil {
				err = r.failure()
			}
			wantReason(t, "by Recv", err, "MESSAGE_TOO_LONG")
			if resp, err := read(8); err != nil || string(resp.GetBatch().GetData()) != "12345678" {
				t.Errorf("limit 8: %v, %v", resp, err)
			}
			if got := p.read(ref); got != "x" {
				t.Errorf("the next: %q", got)
			}
		})
	}
}

func TestPollConsumesNothingAndKeepsItsWord(t *testing.T) {
	_, p := start(t)
	a, b, c := p.create(nil, framed("", "line")), p.create(nil, framed("", "line")), p.create(nil, framed("", "line"))
	refs := []*pipedv1.EndpointRef{at(c, "", 2), at(a, "", 2), at(b, "", 2)}
	minus := -time.Second
	for what, wait := range map[string]*time.Duration{"zero": atOnce, "negative": &minus} {
		began := time.Now()
		if ready := p.poll(wait, refs...); len(ready) != 0 || time.Since(began) > 10*time.Second {
			t.Errorf("%s timeout: %v after %v", what, ready, time.Since(began))
		}
	}
	short := settle
	began := time.Now()
	if ready := p.poll(&short, refs...); len(ready) != 0 || time.Since(began) < settle {
		t.Errorf("timeout: %v after %v", ready, time.Since(began))
	}
	// Absent waits for ever, that is: until something comes.
	found := make(chan []*pipedv1.Readiness, 1)
	go func() {
		resp, err := p.pipes.Poll(p.ctx(), &pipedv1.PollRequest{Endpoints: refs})
		if err != nil {
			t.Error(err)
		}
		found <- resp.GetReady()
	}()
	always(t, "Poll waits", func() bool { return len(found) == 0 })
	p.write(at(b, "", 1), "x")
	if ready := <-found; len(ready) != 1 || ready[0].GetIndex() != 2 {
		t.Errorf("ready: %v, want index 2", ready)
	}
	// All that are ready, in the order of the request.
	p.closeEnd(at(c, "", 1))
	for range 3 {
		ready := p.poll(nil, refs...)
		if len(ready) != 2 || ready[0].GetIndex() != 0 || !ready[0].GetEnd() || ready[1].GetIndex() != 2 || ready[1].GetEnd() {
			t.Errorf("ready: %v, want the end of index 0 and data of index 2", ready)
		}
	}
	_, err := p.pipes.Poll(p.ctx(), &pipedv1.PollRequest{Endpoints: []*pipedv1.EndpointRef{refs[0], refs[1], refs[0]}})
	wantReason(t, "the same twice", err, "ARGUMENT")
	// Nothing was read: a process that gets the end now finds it whole.
	p.start(b, sh(`head -n 1 <&3 >&3`, &pipedv1.Inherit{Pipe: "pipe", End: 2, Fd: 3}))
	if got := p.read(at(b, "", 1)); got != "x" {
		t.Errorf("the process got %q", got)
	}
}

func TestPollSeesHalfAFrameAsDataAndAWholeOneAsMessage(t *testing.T) {
	_, p := start(t)
	ref := at(p.create(stdio(sh(`printf '\000\000'; read x; printf '\000\001a'; exec sleep 1000`), "mp")), "", 1)
	// The framing of the input is mp as well: four bytes and the newline.
	if ready := p.poll(nil, ref); ready[0].GetMessage() || !ready[0].GetData() {
		t.Errorf("half a header: %v", ready)
	}
	p.write(ref, "\n")
	eventually(t, "the message is there", func() bool { return p.poll(nil, ref)[0].GetMessage() })
	if got := p.read(ref); got != "a" {
		t.Errorf("got %q", got)
	}
}

func TestIdleStreamsCarryHeartbeats(t *testing.T) {
	_, p := start(t)
	name := p.create(nil, framed("", "line"))
	every := durationpb.New(100 * time.Millisecond)
	r := p.recv(&pipedv1.RecvOpen{Endpoint: at(name, "", 1), HeartbeatInterval: every})
	s := p.send(&pipedv1.SendOpen{Endpoint: at(name, "", 1), HeartbeatInterval: every})
	for range 3 {
		if resp, err := r.stream.Recv(); err != nil || resp.GetHeartbeat() == nil {
			t.Fatalf("Recv: %v, %v; want a heartbeat", resp, err)
		}
		if resp, err := s.stream.Recv(); err != nil || resp.GetHeartbeat() == nil {
			t.Fatalf("Send: %v, %v; want a heartbeat", resp, err)
		}
	}
}

func TestObserverDelaysAndFreesNothing(t *testing.T) {
	_, p := start(t)
	name := p.create(stdio(&pipedv1.ProcessSpec{Args: []string{"cat"}}, "line"))
	ref := at(name, "", 1)
	p.write(ref, "one", "two")
	look := func() *receiver {
		return p.recv(&pipedv1.RecvOpen{Endpoint: ref, Mode: pipedv1.RecvMode_RECV_MODE_OBSERVE})
	}
	for range 2 {
		o := look()
		for _, want := range []string{"one", "two"} {
			if b := o.batch(); string(b.GetData()) != want {
				t.Errorf("observer got %q, want %q", b.GetData(), want)
			}
		}
		o.cancel()
	}
	for _, want := range []string{"one", "two"} {
		if got := p.read(ref); got != want {
			t.Errorf("consumer got %q, want %q", got, want)
		}
	}
	// The tail is there after acknowledgement too.
	if b := look().batch(); string(b.GetData()) != "one" {
		t.Errorf("late observer got %q", b.GetData())
	}
	o := look()
	o.ack(2, 0)
	wantReason(t, "an acknowledgement by an observer", o.failure(), "PROTOCOL")
	stop := p.recv(&pipedv1.RecvOpen{Endpoint: ref, Mode: pipedv1.RecvMode_RECV_MODE_OBSERVE, StopAtNow: true, MaxBatchMessages: 10})
	if b := stop.batch(); len(b.GetSizes()) != 2 {
		t.Errorf("got %v, want both", b)
	}
	if err := stop.failure(); err != nil {
		t.Errorf("stop_at_now ends with %v, want OK", err)
	}
}

func TestCreditBoundsWhatIsOnItsWay(t *testing.T) {
	_, p := start(t)
	name := p.create(nil, framed("", "line"))
	p.write(at(name, "", 1), "1", "2", "3", "4", "5")
	r := p.recv(&pipedv1.RecvOpen{Endpoint: at(name, "", 2), MaxUnackedMessages: 2, HeartbeatInterval: durationpb.New(100 * time.Millisecond)})
	r.batch()
	r.batch()
	if resp, err := r.stream.Recv(); err != nil || resp.GetHeartbeat() == nil {
		t.Fatalf("%v, %v; want a heartbeat instead of a third message", resp, err)
	}
	r.ack(2, 0)
	if b := r.batch(); string(b.GetData()) != "3" {
		t.Errorf("got %q", b.GetData())
	}
	// Nothing was read ahead: two messages are still in the kernel for whoever
	// inherits the end, once the others are acknowledged.
	if arrived := p.endpoint(at(name, "", 2)).GetInbox().GetMessages(); arrived != 3 {
		t.Errorf("%d messages were read from the kernel, want 3", arrived)
	}
}
