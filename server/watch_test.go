package server

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

type watchClient = grpc.ServerStreamingClient[pipedv1.WatchSessionsResponse]

func (c clients) watch(t *testing.T, req *pipedv1.WatchSessionsRequest) (stream watchClient, cut context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	stream, err := c.sessions.WatchSessions(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	return stream, cancel
}

// seen returns what a watcher is told next, in words, and where to go on; heartbeats are left out.
func seen(t *testing.T, stream watchClient) (words, token string) {
	t.Helper()
	for {
		resp, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return "OK", ""
		case err != nil:
			return answerTo(t, err).Reason, ""
		case resp.GetSnapshot() != nil:
			return "snapshot " + resp.GetSnapshot().GetName(), resp.GetResumeToken()
		case resp.GetSnapshotEnd() != nil:
			return "snapshot end", resp.GetResumeToken()
		case resp.GetEvent() != nil:
			e := resp.GetEvent()
			words := []string{strings.TrimPrefix(e.GetType().String(), "TYPE_"), e.GetSession()}
			for _, more := range []string{e.GetProcess().GetName(), e.GetPipe(), e.GetLease().GetHolder(), e.GetDetail()} {
				if more != "" {
					words = append(words, more)
				}
			}
			return strings.Join(words, " "), resp.GetResumeToken()
		}
	}
}

func wantSeen(t *testing.T, stream watchClient, want ...string) (token string) {
	t.Helper()
	for _, w := range want {
		got, at := seen(t, stream)
		if got != w {
			t.Fatalf("got %q, want %q", got, w)
		}
		token = at
	}
	return token
}

func TestWatcherComesBackBehindWhatItHasSeen(t *testing.T) {
	c := withPipe(t, "mp")
	stream, cut := c.watch(t, &pipedv1.WatchSessionsRequest{})
	wantSeen(t, stream, "snapshot s", "snapshot end")
	create := func(name string) {
		t.Helper()
		if _, err := c.sessions.CreatePipe(t.Context(), &pipedv1.CreatePipeRequest{Session: "s", Pipe: &pipedv1.PipeSpec{Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	create("a")
	token := wantSeen(t, stream, "PIPE_CREATED s a")
	cut()
	create("b")
	stream, cut = c.watch(t, &pipedv1.WatchSessionsRequest{ResumeToken: token})
	wantSeen(t, stream, "PIPE_CREATED s b")
	cut()
	stream, _ = c.watch(t, &pipedv1.WatchSessionsRequest{ResumeToken: token})
	wantSeen(t, stream, "PIPE_CREATED s b") // whoever repeats itself is told again
	a, _ := c.send(t, &pipedv1.SendOpen{Endpoint: end(1), WriterId: "w"})
	wantTold(t, a, "opened")
	wantSeen(t, stream, "LEASE_ACQUIRED s pipe w")
	b, _ := c.send(t, &pipedv1.SendOpen{Endpoint: end(1), WriterId: "v", Steal: true})
	wantTold(t, b, "opened")
	wantSeen(t, stream, "LEASE_LOST s pipe w v", "LEASE_ACQUIRED s pipe v")
	stop, _ := c.watch(t, &pipedv1.WatchSessionsRequest{ResumeToken: token, StopAtNow: true})
	wantSeen(t, stop, "PIPE_CREATED s b", "LEASE_ACQUIRED s pipe w", "LEASE_LOST s pipe w v", "LEASE_ACQUIRED s pipe v", "OK")
	stop, _ = c.watch(t, &pipedv1.WatchSessionsRequest{Retained: true, StopAtNow: true})
	wantSeen(t, stop, "SESSION_CREATED s", "PIPE_CREATED s a")
	stop, _ = c.watch(t, &pipedv1.WatchSessionsRequest{NamePrefix: "x", StopAtNow: true})
	wantSeen(t, stop, "snapshot end", "OK")
}

func TestWatcherIsToldOfAProcessWithItsExitAndFinals(t *testing.T) {
	c := withPipe(t, "mp")
	stream, _ := c.watch(t, &pipedv1.WatchSessionsRequest{NamePrefix: "p"})
	wantSeen(t, stream, "snapshot end")
	if _, err := c.sessions.CreateSession(t.Context(), &pipedv1.CreateSessionRequest{Name: "p",
		Labels: map[string]string{"k": "v"}, Process: &pipedv1.ProcessSpec{Args: []string{"sh", "-c", "echo x; exit 3"}}}); err != nil {
		t.Fatal(err)
	}
	var exit *pipedv1.SessionEvent
	finals := make(map[string]*pipedv1.Final)
	for exit == nil || finals["stdio"] == nil || finals["stderr"] == nil {
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		e := resp.GetEvent()
		if e.GetLabels()["k"] != "v" || e.GetUid() == "" || e.GetTime() == nil {
			t.Errorf("got %v", e)
		}
		if e.GetType() == pipedv1.SessionEvent_TYPE_PROCESS_EXITED {
			exit = e
		}
		if f := e.GetFinal(); f != nil && !f.GetSent() {
			finals[f.GetPipe()] = f
		}
	}
	if got := exit.GetProcess().GetExit().GetCode(); got != 3 {
		t.Errorf("the exit code is %d", got)
	}
	last := finals["stdio"].GetLast()
	if last.GetPosition().GetMessage() != 2 || last.GetBytes() != 2 || last.GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED || finals["stdio"].GetEnd() != 1 {
		t.Errorf("the last word is %v", last)
	}
	resp, err := c.sessions.GetSession(t.Context(), &pipedv1.GetSessionRequest{Session: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.GetSession().GetProcesses()[0].GetFinals(); len(got) < 2 {
		t.Errorf("the process has the finals %v", got)
	}
}

func TestWatcherThatHearsNothingHearsHeartbeats(t *testing.T) {
	c := withPipe(t, "mp")
	stream, _ := c.watch(t, &pipedv1.WatchSessionsRequest{NamePrefix: "x", HeartbeatInterval: durationpb.New(100 * time.Millisecond)})
	token := wantSeen(t, stream, "snapshot end")
	if _, err := c.sessions.DeleteSession(t.Context(), &pipedv1.DeleteSessionRequest{Session: "s", Force: true}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		resp, err := stream.Recv()
		if err != nil || resp.GetHeartbeat() == nil {
			t.Fatalf("got %v, %v", resp, err)
		}
		if resp.GetResumeToken() == token {
			t.Error("its token does not pass over what was left out")
		}
	}
}

func TestWatchRequestsThatMakeNoSense(t *testing.T) {
	c := withPipe(t, "mp")
	for name, req := range map[string]*pipedv1.WatchSessionsRequest{
		"a token of nobody":  {ResumeToken: "x"},
		"an unknown state":   {State: 9},
		"a bad heartbeat":    {HeartbeatInterval: durationpb.New(-1)},
		"a token of no kind": {ResumeToken: "////"},
	} {
		stream, _ := c.watch(t, req)
		if got, _ := seen(t, stream); got != "ARGUMENT" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestShutdownReleasesWatchers(t *testing.T) {
	r := serveOptions(t, DefaultOptions())
	conn := r.connect(t)
	stream, _ := clients{sessions: pipedv1.NewSessionServiceClient(conn)}.watch(t, &pipedv1.WatchSessionsRequest{})
	wantSeen(t, stream, "snapshot end")
	r.stop()
	wantSeen(t, stream, "SHUTTING_DOWN")
	r.wantEnd(t, 4*time.Second)
}

// A client that does not read holds nobody up. When it reads on, what it missed is a snapshot, never a hole.
func TestWatcherThatDoesNotReadGetsASnapshot(t *testing.T) {
	opts := DefaultOptions()
	opts.Sessions.EventsRetained = 16
	conn := serveOptions(t, opts).connect(t)
	c := clients{pipedv1.NewSessionServiceClient(conn), pipedv1.NewPipeServiceClient(conn)}
	labels := make(map[string]string) // so that a few events fill the windows of the connection
	for i := range 60 {
		labels[strings.Repeat("k", i+1)] = strings.Repeat("v", 255)
	}
	if _, err := c.sessions.CreateSession(t.Context(), &pipedv1.CreateSessionRequest{Name: "s", Labels: labels, Pipes: []*pipedv1.PipeSpec{{}}}); err != nil {
		t.Fatal(err)
	}
	stream, _ := c.watch(t, &pipedv1.WatchSessionsRequest{})
	wantSeen(t, stream, "snapshot s", "snapshot end")
	const holders = 200
	for range holders {
		if _, err := c.pipes.AcquireLease(t.Context(), &pipedv1.AcquireLeaseRequest{
			Endpoint: end(1), Role: pipedv1.LeaseRole_LEASE_ROLE_WRITER, Steal: true}); err != nil {
			t.Fatal(err)
		}
	}
	var last uint64 // the epoch that was seen last
	snapshots := 0
	for last < holders {
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		switch e := resp.GetEvent(); {
		case resp.GetSnapshot() != nil:
			snapshots++
			last = resp.GetSnapshot().GetPipes()[0].GetEndpoints()[0].GetOutbox().GetLease().GetEpoch()
		case e.GetType() == pipedv1.SessionEvent_TYPE_LEASE_ACQUIRED:
			if epoch := e.GetLease().GetEpoch(); epoch > last+1 {
				t.Fatalf("after the holder of epoch %d comes that of %d", last, epoch)
			}
			last = max(last, e.GetLease().GetEpoch())
		}
	}
	if snapshots == 0 {
		t.Error("it was told of everything, so that it was not too slow")
	}
}
