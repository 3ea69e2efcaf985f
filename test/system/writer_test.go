package system

import (
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestOneWriterAtATimeAndTheSameOneTakesOver(t *testing.T) {
	_, p := start(t)
	name := p.create(nil, framed("", "line"))
	ref := at(name, "", 1)
	first := p.send(&pipedv1.SendOpen{Endpoint: ref, WriterId: "w", Epoch: 1})
	_, err := p.trySend(&pipedv1.SendOpen{Endpoint: ref, WriterId: "other"})
	wantReason(t, "another writer", err, "BUSY_WRITER")
	if code := status.Code(err); code != codes.Aborted || factOf(err, "client") != "w" {
		t.Errorf("code %v, client %q; want ABORTED and w", code, factOf(err, "client"))
	}
	second := p.send(&pipedv1.SendOpen{Endpoint: ref, WriterId: "w", Epoch: 3})
	wantReason(t, "the first stream", first.failure(), "SUPERSEDED")
	_, err = p.trySend(&pipedv1.SendOpen{Endpoint: ref, WriterId: "w", Epoch: 2})
	wantReason(t, "an older epoch", err, "FENCED")
	second.message(1, "x")
	second.acked(position(2, 0))
	if err := second.end(); err != nil {
		t.Error(err)
	}
}

func TestGapInTheSequenceIsRefusedWithWhatIsExpected(t *testing.T) {
	_, p := start(t)
	name := p.create(nil, framed("", "line"))
	s := p.send(&pipedv1.SendOpen{Endpoint: at(name, "", 1), WriterId: "w"})
	s.message(1, "one")
	s.message(3, "three")
	err := s.failure()
	wantReason(t, "message 3 after 1", err, "SEQUENCE_GAP")
	if factOf(err, "expected_message") != "2" || factOf(err, "expected_offset") != "0" {
		t.Errorf("facts of %v", err)
	}
	if got := p.send(&pipedv1.SendOpen{Endpoint: at(name, "", 1), WriterId: "w"}).opened.GetExpected().GetMessage(); got != 2 {
		t.Errorf("expected %d afterwards, want 2", got)
	}
}

func TestUnaryRepeatIsWrittenOnce(t *testing.T) {
	_, p := start(t)
	name := p.create(nil, framed("", "line"))
	for range 3 {
		req := writing(at(name, "", 1), "one", "two")
		req.WriterId, req.Sequence = "w", 1
		resp, err := p.pipes.Write(p.ctx(), req)
		if err != nil || resp.GetExpected().GetMessage() != 3 {
			t.Errorf("%v, %v; want 3 expected", resp, err)
		}
	}
	p.closeEnd(at(name, "", 1))
	if got, _ := p.everything(at(name, "", 2)); len(got) != 2 {
		t.Errorf("%q, want each once", got)
	}
}

func TestDeliveredComesWhenTheKernelHasTheMessage(t *testing.T) {
	_, p := start(t)
	name := p.create(nil, framed("", "mp"))
	s := p.send(&pipedv1.SendOpen{Endpoint: at(name, "", 1), AckLevel: pipedv1.AckLevel_ACK_LEVEL_DELIVERED})
	const size, messages = 200 << 10, 10 // more than a socket takes
	for n := range uint64(messages) {
		s.message(n+1, string(make([]byte, size)))
	}
	eventually(t, "all is committed", func() bool { return p.endpoint(at(name, "", 1)).GetOutbox().GetMessages() == messages })
	if queued := p.endpoint(at(name, "", 1)).GetOutbox().GetQueuedMessages(); queued == 0 {
		t.Error("nothing is queued; the test needs more bytes")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.acked(position(messages+1, 0))
	}()
	always(t, "no acknowledgement of what is not delivered", func() bool {
		select {
		case <-done:
			return false
		default:
			return true
		}
	})
	r := p.recv(&pipedv1.RecvOpen{Endpoint: at(name, "", 2), AutoAck: true})
	for range messages {
		r.batch()
	}
	<-done
	if err := s.end(); err != nil {
		t.Error(err)
	}
}

func TestMessageThatTheFramingCannotCarryIsRefusedAndTheEndpointLives(t *testing.T) {
	_, p := start(t)
	spec := framed("", "line")
	spec.FramingIn.MaxMessageSize = 10
	name := p.create(nil, spec)
	_, err := p.pipes.Write(p.ctx(), writing(at(name, "", 1), "a\nb"))
	wantReason(t, "a newline", err, "MESSAGE_REFUSED")
	_, err = p.pipes.Write(p.ctx(), writing(at(name, "", 1), "12345678901"))
	wantReason(t, "eleven bytes", err, "FRAME_OVER_LIMIT")
	p.write(at(name, "", 1), "1234567890")
	if got := p.read(at(name, "", 2)); got != "1234567890" {
		t.Errorf("got %q", got)
	}
}

func TestRequestIDMakesCreationRepeatable(t *testing.T) {
	_, p := start(t)
	req := &pipedv1.CreateSessionRequest{RequestId: "r1", Process: &pipedv1.ProcessSpec{Args: []string{"sleep", "1000"}}}
	uids := make([]string, 16)
	var wg sync.WaitGroup
	for i := range uids {
		wg.Go(func() {
			resp, err := p.sessions.CreateSession(p.ctx(), req)
			if err != nil {
				t.Error(err)
			}
			uids[i] = resp.GetSession().GetUid()
		})
	}
	wg.Wait()
	for _, uid := range uids {
		if uid != uids[0] {
			t.Errorf("uids %q, want one", uids)
			break
		}
	}
	list, err := p.sessions.ListSessions(p.ctx(), &pipedv1.ListSessionsRequest{})
	if err != nil || len(list.GetSessions()) != 1 || len(list.GetSessions()[0].GetProcesses()) != 1 {
		t.Errorf("sessions %v, %v; want one with one process", list, err)
	}
	name := list.GetSessions()[0].GetName()
	other := &pipedv1.CreateSessionRequest{RequestId: "r1", Process: &pipedv1.ProcessSpec{Args: []string{"sleep", "1001"}}}
	_, err = p.sessions.CreateSession(p.ctx(), other)
	wantReason(t, "other content", err, "REQUEST_ID_REUSED")
	for range 2 {
		if _, err := p.sessions.StartProcess(p.ctx(), &pipedv1.StartProcessRequest{RequestId: "p", Session: name, Process: sh("exit 0")}); err != nil {
			t.Error(err)
		}
		if _, err := p.sessions.CreatePipe(p.ctx(), &pipedv1.CreatePipeRequest{RequestId: "q", Session: name, Pipe: framed("extra", "mp")}); err != nil {
			t.Error(err)
		}
	}
	if s := p.get(name); len(s.GetProcesses()) != 2 || len(s.GetPipes()) != 5 {
		t.Errorf("%d processes, %d pipes; want 2 and 5", len(s.GetProcesses()), len(s.GetPipes()))
	}
	p.remove(name)
	if again := p.create(&pipedv1.ProcessSpec{Args: []string{"true"}}); again == name {
		t.Error("a new session got the old name")
	}
	if _, err := p.sessions.CreateSession(p.ctx(), other); err != nil {
		t.Errorf("the id after its session was removed: %v", err)
	}
}
