package server

import (
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/pipe"
)

// clients are the services of a server under test.
type clients struct {
	sessions pipedv1.SessionServiceClient
	pipes    pipedv1.PipeServiceClient
}

// withPipe serves a session "s" with one bare pipe.
func withPipe(t *testing.T, framing string) clients {
	t.Helper()
	conn := serveOptions(t, DefaultOptions()).connect(t)
	c := clients{pipedv1.NewSessionServiceClient(conn), pipedv1.NewPipeServiceClient(conn)}
	_, err := c.sessions.CreateSession(t.Context(), &pipedv1.CreateSessionRequest{Name: "s",
		Pipes: []*pipedv1.PipeSpec{{FramingIn: &pipedv1.Framing{Name: framing}}}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func end(n uint32) *pipedv1.EndpointRef { return &pipedv1.EndpointRef{Session: "s", End: n} }

func (c clients) write(t *testing.T, messages ...string) {
	t.Helper()
	req := &pipedv1.WriteRequest{Endpoint: end(1)}
	for _, m := range messages {
		req.Messages = append(req.Messages, []byte(m))
	}
	if _, err := c.pipes.Write(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

// recv opens a Recv stream, which has ended when the test has.
func (c clients) recv(t *testing.T, open *pipedv1.RecvOpen) grpc.BidiStreamingClient[pipedv1.RecvRequest, pipedv1.RecvResponse] {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	stream, err := c.pipes.Recv(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Open{Open: open}}); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return stream
}

// next returns what comes next, as a word.
func next(t *testing.T, stream grpc.BidiStreamingClient[pipedv1.RecvRequest, pipedv1.RecvResponse]) string {
	t.Helper()
	resp, err := stream.Recv()
	switch {
	case errors.Is(err, io.EOF):
		return "OK"
	case err != nil:
		return answerTo(t, err).Reason
	case resp.GetBatch() != nil:
		return string(resp.GetBatch().GetData())
	case resp.GetEnd() != nil:
		return "end"
	case resp.GetOpened() != nil:
		return "opened"
	}
	return "?"
}

func wantNext(t *testing.T, stream grpc.BidiStreamingClient[pipedv1.RecvRequest, pipedv1.RecvResponse], want ...string) {
	t.Helper()
	for _, w := range want {
		if got := next(t, stream); got != w {
			t.Fatalf("got %q, want %q", got, w)
		}
	}
}

func (c clients) close(t *testing.T, req *pipedv1.CloseRequest) {
	t.Helper()
	stream, err := c.pipes.Close(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

func TestStopAtNowDoesNotWaitAndTellsAnEndThatIsThere(t *testing.T) {
	conn := serveOptions(t, DefaultOptions()).connect(t)
	c := clients{pipedv1.NewSessionServiceClient(conn), pipedv1.NewPipeServiceClient(conn)}
	_, err := c.sessions.CreateSession(t.Context(), &pipedv1.CreateSessionRequest{Name: "s",
		Process: &pipedv1.ProcessSpec{Args: []string{"sh", "-c", "echo a; echo b; printf '> '; read x"}}})
	if err != nil {
		t.Fatal(err)
	}
	follow := c.recv(t, &pipedv1.RecvOpen{Endpoint: end(1), Mode: pipedv1.RecvMode_RECV_MODE_OBSERVE})
	wantNext(t, follow, "opened", "a", "b")
	now := &pipedv1.RecvOpen{Endpoint: end(1), Mode: pipedv1.RecvMode_RECV_MODE_OBSERVE, StopAtNow: true, MaxBatchMessages: 1}
	wantNext(t, c.recv(t, now), "opened", "a", "b", "OK")
	c.close(t, &pipedv1.CloseRequest{Endpoint: end(1), SendOnly: true, Wait: true})
	wantNext(t, follow, "> ", "end", "OK")
	wantNext(t, c.recv(t, now), "opened", "a", "b", "> ", "end", "OK")
	wantNext(t, c.recv(t, &pipedv1.RecvOpen{Endpoint: end(1), StopAtNow: true}), "ARGUMENT")
}

func TestClosingAnEndReleasesAReaderWithoutCredit(t *testing.T) {
	c := withPipe(t, "mp")
	c.write(t, "a", "b")
	stream := c.recv(t, &pipedv1.RecvOpen{Endpoint: end(2)})
	wantNext(t, stream, "opened", "a")
	c.close(t, &pipedv1.CloseRequest{Endpoint: end(2)})
	wantNext(t, stream, "ENDPOINT_CLOSED")
}

func TestDeletionReleasesAReaderThatHasAcknowledgedNothing(t *testing.T) {
	c := withPipe(t, "mp")
	c.write(t, "a")
	c.close(t, &pipedv1.CloseRequest{Endpoint: end(1), Wait: true})
	stream := c.recv(t, &pipedv1.RecvOpen{Endpoint: end(2), MaxUnackedMessages: 5})
	wantNext(t, stream, "opened", "a", "end")
	if _, err := c.sessions.DeleteSession(t.Context(), &pipedv1.DeleteSessionRequest{Session: "s", Force: true}); err != nil {
		t.Fatal(err)
	}
	wantNext(t, stream, "OK")
}

func TestReaderThatIsKilledGivesItsRightBack(t *testing.T) {
	c := withPipe(t, "mp")
	c.write(t, "a")
	ctx, kill := context.WithCancel(t.Context())
	stream, err := c.pipes.Recv(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Open{Open: &pipedv1.RecvOpen{Endpoint: end(2)}}}); err != nil {
		t.Fatal(err)
	}
	wantNext(t, stream, "opened", "a")
	if _, err := c.pipes.Read(t.Context(), &pipedv1.ReadRequest{Endpoint: end(2)}); answerTo(t, err).Reason != "BUSY_READER" {
		t.Fatalf("while it reads: %v", err)
	}
	kill()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := c.pipes.Read(t.Context(), &pipedv1.ReadRequest{Endpoint: end(2)})
		if err == nil {
			if got := string(resp.GetBatch().GetData()); got != "a" {
				t.Errorf("got %q", got)
			}
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

func TestWhatWasCommittedBeforeARefusalIsAcknowledged(t *testing.T) {
	c := withPipe(t, "line")
	stream, err := c.pipes.Send(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, req := range []*pipedv1.SendRequest{
		{Request: &pipedv1.SendRequest_Open{Open: &pipedv1.SendOpen{Endpoint: end(1)}}},
		{Request: &pipedv1.SendRequest_Batch{Batch: &pipedv1.Batch{Data: []byte("ab\n"), Sizes: []uint32{1, 1, 1}}}},
	} {
		if err := stream.Send(req); err != nil {
			t.Fatal(err)
		}
	}
	if resp, err := stream.Recv(); err != nil || resp.GetOpened() == nil {
		t.Fatal(resp, err)
	}
	if resp, err := stream.Recv(); err != nil || resp.GetAck().GetPosition().GetMessage() != 3 {
		t.Errorf("got %v, %v, want that two messages are acknowledged", resp, err)
	}
	if _, err := stream.Recv(); answerTo(t, err).Reason != "MESSAGE_REFUSED" {
		t.Errorf("got %v", err)
	}
}

func TestSendEndsWhenWhatItWaitsForIsDiscarded(t *testing.T) {
	c := withPipe(t, "mp")
	stream, err := c.pipes.Send(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, req := range []*pipedv1.SendRequest{
		{Request: &pipedv1.SendRequest_Open{Open: &pipedv1.SendOpen{Endpoint: end(1), AckLevel: pipedv1.AckLevel_ACK_LEVEL_DELIVERED}}},
		{Request: &pipedv1.SendRequest_Batch{Batch: &pipedv1.Batch{Data: make([]byte, pipe.DefaultPart)}}},
	} {
		if err := stream.Send(req); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for acked := false; !acked; { // some of it lies in the kernel
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		acked = resp.GetAck() != nil
	}
	c.close(t, &pipedv1.CloseRequest{Endpoint: end(1), SendOnly: true, Discard: true})
	for err = nil; err == nil; {
		_, err = stream.Recv()
	}
	if got := answerTo(t, err); got.Reason != "ENDPOINT_CLOSED" {
		t.Errorf("got %v", err)
	}
}

func TestIllegalRequestsAreNamedAndLeaveNothing(t *testing.T) {
	c := withPipe(t, "mp")
	badDuration := &durationpb.Duration{Seconds: 1, Nanos: -1}
	recv := func(open *pipedv1.RecvOpen) func() error {
		return func() error {
			_, err := c.recv(t, open).Recv()
			return err
		}
	}
	send := func(open *pipedv1.SendOpen, batches ...*pipedv1.Batch) func() error {
		return func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			stream, err := c.pipes.Send(ctx)
			if err != nil {
				return err
			}
			reqs := []*pipedv1.SendRequest{{Request: &pipedv1.SendRequest_Open{Open: open}}}
			for _, b := range batches {
				reqs = append(reqs, &pipedv1.SendRequest{Request: &pipedv1.SendRequest_Batch{Batch: b}})
			}
			for _, req := range reqs {
				if err := stream.Send(req); err != nil && !errors.Is(err, io.EOF) {
					return err
				}
			}
			for err == nil {
				_, err = stream.Recv()
			}
			return err
		}
	}
	start := func(p *pipedv1.ProcessSpec) func() error {
		return func() error {
			_, err := c.sessions.StartProcess(t.Context(), &pipedv1.StartProcessRequest{Session: "s", Process: p})
			return err
		}
	}
	one := &pipedv1.SendOpen{Endpoint: end(1)}
	for name, tc := range map[string]struct {
		call   func() error
		reason string
	}{
		"recv: end 3":             {recv(&pipedv1.RecvOpen{Endpoint: end(3)}), "ARGUMENT"},
		"recv: end 4294967295":    {recv(&pipedv1.RecvOpen{Endpoint: end(math.MaxUint32)}), "ARGUMENT"},
		"recv: no endpoint":       {recv(&pipedv1.RecvOpen{}), "ARGUMENT"},
		"recv: incarnation 2":     {recv(&pipedv1.RecvOpen{Endpoint: end(2), Position: &pipedv1.Position{Incarnation: 2}}), "ARGUMENT"},
		"recv: unknown mode":      {recv(&pipedv1.RecvOpen{Endpoint: end(2), Mode: 9}), "ARGUMENT"},
		"recv: unknown start":     {recv(&pipedv1.RecvOpen{Endpoint: end(2), Start: 9}), "ARGUMENT"},
		"recv: lease":             {recv(&pipedv1.RecvOpen{Endpoint: end(2), LeaseToken: []byte("x")}), "ARGUMENT"},
		"recv: observer's lease":  {recv(&pipedv1.RecvOpen{Endpoint: end(2), Mode: pipedv1.RecvMode_RECV_MODE_OBSERVE, Steal: true}), "ARGUMENT"},
		"recv: long id":           {recv(&pipedv1.RecvOpen{Endpoint: end(2), ConsumerId: strings.Repeat("x", 129)}), "ARGUMENT"},
		"recv: bad duration":      {recv(&pipedv1.RecvOpen{Endpoint: end(2), HeartbeatInterval: badDuration}), "ARGUMENT"},
		"recv: negative duration": {recv(&pipedv1.RecvOpen{Endpoint: end(2), HeartbeatInterval: durationpb.New(-1)}), "ARGUMENT"},
		"recv: position to come": {recv(&pipedv1.RecvOpen{Endpoint: end(2), Start: pipedv1.RecvStart_RECV_START_POSITION,
			Position: &pipedv1.Position{Message: math.MaxUint64, Offset: math.MaxUint64}}), "POSITION_OUT_OF_RANGE"},
		"send: level 9":     {send(&pipedv1.SendOpen{Endpoint: end(1), AckLevel: 9}), "UNSUPPORTED"},
		"send: lease":       {send(&pipedv1.SendOpen{Endpoint: end(1), LeaseToken: []byte("x")}), "ARGUMENT"},
		"send: ended lease": {send(&pipedv1.SendOpen{Endpoint: end(1), LeaseToken: make([]byte, 16)}), "FENCED"},
		"send: long lease":  {send(&pipedv1.SendOpen{Endpoint: end(1), LeaseDuration: durationpb.New(2 * time.Hour)}), "ARGUMENT"},
		"recv: long lease":  {recv(&pipedv1.RecvOpen{Endpoint: end(2), LeaseDuration: durationpb.New(2 * time.Hour)}), "ARGUMENT"},
		"recv: an ack first": {func() error {
			stream, err := c.pipes.Recv(t.Context())
			if err == nil {
				err = stream.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Ack{Ack: &pipedv1.RecvAck{}}})
			}
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}, "PROTOCOL"},
		"send: incarnation 2":       {send(one, &pipedv1.Batch{First: &pipedv1.Position{Incarnation: 2}}), "ARGUMENT"},
		"send: gap":                 {send(one, &pipedv1.Batch{First: &pipedv1.Position{Message: math.MaxUint64}}), "SEQUENCE_GAP"},
		"send: offset":              {send(one, &pipedv1.Batch{First: &pipedv1.Position{Offset: math.MaxUint64}, Data: []byte("x")}), "SEQUENCE_GAP"},
		"send: sizes too large":     {send(one, &pipedv1.Batch{Data: []byte("x"), Sizes: []uint32{math.MaxUint32, 2}}), "ARGUMENT"},
		"send: more and sizes":      {send(one, &pipedv1.Batch{Data: make([]byte, pipe.DefaultPart), Sizes: []uint32{1, pipe.DefaultPart - 1}, More: true}), "ARGUMENT"},
		"send: short part":          {send(one, &pipedv1.Batch{Data: []byte("x"), More: true, TotalSize: 2}), "ARGUMENT"},
		"send: no total":            {send(one, &pipedv1.Batch{Data: make([]byte, pipe.DefaultPart), More: true}), "MESSAGE_REFUSED"},
		"send: huge total":          {send(one, &pipedv1.Batch{Data: make([]byte, pipe.DefaultPart), More: true, TotalSize: math.MaxUint64}), "FRAME_OVER_LIMIT"},
		"send: small total":         {send(one, &pipedv1.Batch{Data: []byte("abc"), TotalSize: 2}), "MESSAGE_REFUSED"},
		"send: marks of the server": {send(one, &pipedv1.Batch{Truncated: true}), "ARGUMENT"},
		"start: nothing":            {start(nil), "ARGUMENT"},
		"start: descriptor 5000":    {start(&pipedv1.ProcessSpec{Args: []string{"true"}, Inherits: []*pipedv1.Inherit{{Pipe: "pipe", End: 1, Fd: 5000}}}), "ARGUMENT"},
		"start: descriptor -1":      {start(&pipedv1.ProcessSpec{Args: []string{"true"}, Inherits: []*pipedv1.Inherit{{Pipe: "pipe", End: 1, Fd: -1}}}), "ARGUMENT"},
		"start: descriptor 1": {start(&pipedv1.ProcessSpec{Args: []string{"true"}, Stdout: pipedv1.StdioMode_STDIO_MODE_PIPE,
			Inherits: []*pipedv1.Inherit{{Pipe: "pipe", End: 1, Fd: 1}}}), "ARGUMENT"},
		"start: end 0":              {start(&pipedv1.ProcessSpec{Args: []string{"true"}, Inherits: []*pipedv1.Inherit{{Pipe: "pipe", Fd: 3}}}), "ARGUMENT"},
		"start: zero byte":          {start(&pipedv1.ProcessSpec{Args: []string{"true", "a\x00b"}}), "ARGUMENT"},
		"start: environment":        {start(&pipedv1.ProcessSpec{Args: []string{"true"}, Env: []string{"=x"}}), "ARGUMENT"},
		"start: umask":              {start(&pipedv1.ProcessSpec{Args: []string{"true"}, Umask: new(uint32(0o1000))}), "ARGUMENT"},
		"start: no such user":       {start(&pipedv1.ProcessSpec{Args: []string{"true"}, User: "none-such"}), "ARGUMENT"},
		"start: relative directory": {start(&pipedv1.ProcessSpec{Args: []string{"true"}, Dir: "x"}), "ARGUMENT"},
		"poll: nothing": {func() error {
			_, err := c.pipes.Poll(t.Context(), &pipedv1.PollRequest{})
			return err
		}, "ARGUMENT"},
		"poll: one twice": {func() error {
			_, err := c.pipes.Poll(t.Context(), &pipedv1.PollRequest{Endpoints: []*pipedv1.EndpointRef{end(1), end(0)}})
			return err
		}, "ARGUMENT"},
		"list: negative page": {func() error {
			_, err := c.sessions.ListSessions(t.Context(), &pipedv1.ListSessionsRequest{PageSize: -1})
			return err
		}, "ARGUMENT"},
		"list: bad token": {func() error {
			_, err := c.sessions.ListSessions(t.Context(), &pipedv1.ListSessionsRequest{PageToken: "!"})
			return err
		}, "ARGUMENT"},
		"signal 65": {func() error {
			_, err := c.sessions.SignalProcess(t.Context(), &pipedv1.SignalProcessRequest{Session: "s", Signal: "65"})
			return err
		}, "PROCESS_NOT_FOUND"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.call()
			if err == nil {
				t.Fatal("it was taken")
			}
			if got := answerTo(t, err); got.Reason != tc.reason || got.Code == codes.Internal {
				t.Errorf("got %v %s (%v), want %s", got.Code, got.Reason, err, tc.reason)
			}
		})
	}
	// An empty Write is a look at the sequence, and nothing was sent before.
	resp, err := c.pipes.Write(t.Context(), &pipedv1.WriteRequest{Endpoint: end(1), WriterId: "w"})
	if err != nil || resp.GetExpected().GetMessage() != 1 {
		t.Errorf("an empty Write: %v, %v", resp, err)
	}
	info, err := c.sessions.GetSession(t.Context(), &pipedv1.GetSessionRequest{Session: "s"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range info.GetSession().GetPipes()[0].GetEndpoints() {
		if e.GetInbox().GetClient() != "" || e.GetOutbox().GetClient() != "" || e.GetOutbox().GetBytes() != 0 || e.GetShared() {
			t.Errorf("left behind: %v", e)
		}
	}
	if len(info.GetSession().GetProcesses()) != 0 || len(info.GetSession().GetPipes()) != 1 {
		t.Errorf("left behind: %v", info)
	}
}

func TestOnlyWhatWasSentCanBeAcknowledged(t *testing.T) {
	conn := serveOptions(t, DefaultOptions()).connect(t)
	c := clients{pipedv1.NewSessionServiceClient(conn), pipedv1.NewPipeServiceClient(conn)}
	if _, err := c.sessions.CreateSession(t.Context(), &pipedv1.CreateSessionRequest{Name: "s",
		Process: &pipedv1.ProcessSpec{Args: []string{"printf", `a\nb\n`}}}); err != nil {
		t.Fatal(err)
	}
	// When the observer has seen the end, both have arrived.
	wantNext(t, c.recv(t, &pipedv1.RecvOpen{Endpoint: end(1), Mode: pipedv1.RecvMode_RECV_MODE_OBSERVE}), "opened", "a", "b", "end", "OK")
	stream := c.recv(t, &pipedv1.RecvOpen{Endpoint: end(1), ConsumerId: "one"})
	wantNext(t, stream, "opened", "a")
	if err := stream.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Ack{Ack: &pipedv1.RecvAck{
		Position: &pipedv1.Position{Message: 3}}}}); err != nil {
		t.Fatal(err)
	}
	wantNext(t, stream, "POSITION_OUT_OF_RANGE")
	wantNext(t, c.recv(t, &pipedv1.RecvOpen{Endpoint: end(1), ConsumerId: "one"}), "opened", "a")
}
