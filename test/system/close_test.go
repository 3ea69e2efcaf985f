package system

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestCloseReleasesEverybodyAndIsIdempotent(t *testing.T) {
	_, p := start(t)
	name := p.create(nil, framed("", "line"))
	ref := at(name, "", 1)
	consumer := p.recv(&pipedv1.RecvOpen{Endpoint: ref})
	observer := p.recv(&pipedv1.RecvOpen{Endpoint: ref, Mode: pipedv1.RecvMode_RECV_MODE_OBSERVE})
	writer := p.send(&pipedv1.SendOpen{Endpoint: ref})
	polled := make(chan error, 1)
	go func() {
		_, err := p.pipes.Poll(p.ctx(), &pipedv1.PollRequest{Endpoints: []*pipedv1.EndpointRef{at(name, "", 2), ref}})
		polled <- err
	}()
	for range 3 {
		reports := p.close(&pipedv1.CloseRequest{Endpoint: ref, Wait: true})
		if last := reports[len(reports)-1].GetClosed(); last.GetSent().GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED {
			t.Errorf("closed: %v", reports)
		}
	}
	wantReason(t, "the consumer", consumer.failure(), "ENDPOINT_CLOSED")
	wantReason(t, "the observer", observer.failure(), "ENDPOINT_CLOSED")
	wantReason(t, "the writer", writer.failure(), "ENDPOINT_CLOSED")
	if err := <-polled; err != nil && reasonOf(err) != "ENDPOINT_CLOSED" {
		// The other end may have become ready first.
		t.Errorf("Poll: %v", err)
	}
	wantReason(t, "Read", p.readError(ref), "ENDPOINT_CLOSED")
	_, err := p.pipes.Write(p.ctx(), writing(ref, "x"))
	wantReason(t, "Write", err, "ENDPOINT_CLOSED")
	_, err = p.pipes.Poll(p.ctx(), &pipedv1.PollRequest{Endpoints: []*pipedv1.EndpointRef{ref}})
	wantReason(t, "Poll", err, "ENDPOINT_CLOSED")
	if code := status.Code(err); code != codes.FailedPrecondition {
		t.Errorf("code %v", code)
	}
}

func TestClosedIsNotUnknown(t *testing.T) {
	_, p := start(t)
	name := p.create(nil, framed("", "line"))
	p.closeEnd(at(name, "", 1))
	for what, c := range map[string]struct {
		ref    *pipedv1.EndpointRef
		reason string
		code   codes.Code
	}{
		"a closed end":       {at(name, "", 1), "ENDPOINT_CLOSED", codes.FailedPrecondition},
		"an unknown pipe":    {at(name, "other", 1), "PIPE_NOT_FOUND", codes.NotFound},
		"an unknown session": {at("other", "", 1), "SESSION_NOT_FOUND", codes.NotFound},
		"an end 3":           {at(name, "", 3), "ARGUMENT", codes.InvalidArgument},
	} {
		err := p.readError(c.ref)
		wantReason(t, what, err, c.reason)
		if status.Code(err) != c.code {
			t.Errorf("%s: code %v, want %v", what, status.Code(err), c.code)
		}
	}
}

func TestWrongDirectionIsRefused(t *testing.T) {
	_, p := start(t)
	spec := framed("", "line")
	spec.Kind = pipedv1.Pipe_KIND_ONE_WAY
	name := p.create(nil, spec)
	_, err := p.pipes.Write(p.ctx(), writing(at(name, "", 1), "x"))
	wantReason(t, "Write to the reading end", err, "WRONG_DIRECTION")
	_, err = p.trySend(&pipedv1.SendOpen{Endpoint: at(name, "", 1)})
	wantReason(t, "Send to the reading end", err, "WRONG_DIRECTION")
	wantReason(t, "Read from the writing end", p.readError(at(name, "", 2)), "WRONG_DIRECTION")
	_, err = p.tryRecv(&pipedv1.RecvOpen{Endpoint: at(name, "", 2)})
	wantReason(t, "Recv from the writing end", err, "WRONG_DIRECTION")
	_, err = p.pipes.Poll(p.ctx(), &pipedv1.PollRequest{Endpoints: []*pipedv1.EndpointRef{at(name, "", 2)}})
	wantReason(t, "Poll of the writing end", err, "WRONG_DIRECTION")
	_, err = p.tryClose(&pipedv1.CloseRequest{Endpoint: at(name, "", 1), SendOnly: true})
	wantReason(t, "half-close of the reading end", err, "WRONG_DIRECTION")
	p.write(at(name, "", 2), "the right way")
	if got := p.read(at(name, "", 1)); got != "the right way" {
		t.Errorf("got %q", got)
	}
}

func TestCloseHandsOverWhatWasAcceptedAndThenTellsTheExit(t *testing.T) {
	_, p := start(t)
	// The child begins to read when its first pipe says so.
	process := sh(`head -n 1 <&3 >/dev/null; exec wc -c`, gives(2, 3))
	name := p.create(process, framed("pipe", "line"))
	ref := at(name, "stdio", 1)
	s := p.send(&pipedv1.SendOpen{Endpoint: ref})
	const messages, size = 16, 64 << 10
	for n := range uint64(messages) {
		s.message(n+1, string(make([]byte, size)))
	}
	s.acked(position(messages+1, 0))
	stream, err := p.pipes.Close(p.ctx(), &pipedv1.CloseRequest{Endpoint: ref, SendOnly: true, WaitExit: true})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || first.GetPending().GetMessages() == 0 || first.GetPending().GetBytes() == 0 {
		t.Fatalf("first report %v, %v; want what is pending", first, err)
	}
	p.write(at(name, "pipe", 1), "go")
	reports, err := drain(stream.Recv)
	if err != nil || len(reports) < 2 {
		t.Fatalf("reports %v, %v", reports, err)
	}
	closed, exit := reports[len(reports)-2].GetClosed(), reports[len(reports)-1].GetExit()
	if closed.GetSent().GetBytes() != messages*(size+1) || closed.GetSent().GetPosition().GetMessage() != messages+1 {
		t.Errorf("closed %v, want all %d messages", closed, messages)
	}
	if exit.GetExit() == nil || exit.GetExit().GetCode() != 0 {
		t.Errorf("exit %v, want 0", exit)
	}
	if got := p.read(ref); got != "1048592" {
		t.Errorf("the child read %s bytes", got)
	}
}

func TestCloseWithoutWaitReturnsAtOnceAndStillHandsOver(t *testing.T) {
	_, p := start(t)
	name := p.create(nil, framed("", "line"))
	const messages = 10
	for range messages {
		p.write(at(name, "", 1), string(make([]byte, 200<<10)))
	}
	if reports := p.close(&pipedv1.CloseRequest{Endpoint: at(name, "", 1)}); len(reports) != 0 {
		t.Errorf("reports %v, want none", reports)
	}
	if state := p.endpoint(at(name, "", 1)).GetState(); state != pipedv1.Endpoint_STATE_CLOSING {
		t.Errorf("state %v, want closing", state)
	}
	got, end := p.everything(at(name, "", 2))
	if len(got) != messages || end.GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED {
		t.Errorf("%d messages, %v", len(got), end)
	}
}
