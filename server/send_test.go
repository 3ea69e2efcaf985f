package server

import (
	"strings"
	"testing"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// unread sends one message that the other end has not read, and ends the requests.
func unread(t *testing.T, c clients, ref *pipedv1.EndpointRef, level pipedv1.AckLevel) sendClient {
	t.Helper()
	stream, _ := c.send(t, &pipedv1.SendOpen{Endpoint: ref, AckLevel: level})
	batch(t, stream, "x")
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	wantTold(t, stream, "opened")
	return stream
}

func TestReadIsAcknowledgedWhenTheOtherEndHasRead(t *testing.T) {
	for name, kind := range map[string]pipedv1.Pipe_Kind{"socket": pipedv1.Pipe_KIND_DUPLEX, "kernel pipe": pipedv1.Pipe_KIND_ONE_WAY} {
		t.Run(name, func(t *testing.T) {
			c := withKind(t, kind)
			delivered := unread(t, c, end(2), pipedv1.AckLevel_ACK_LEVEL_DELIVERED)
			wantTold(t, delivered, "ack 2", "OK")
			stream := unread(t, c, end(2), pipedv1.AckLevel_ACK_LEVEL_READ)
			heard := make(chan string, 1)
			go func() {
				got, _ := told(t, stream)
				heard <- got
			}()
			reader := c.recv(t, &pipedv1.RecvOpen{Endpoint: end(1), MaxUnackedMessages: 1})
			wantNext(t, reader, "opened", "x")
			select {
			case got := <-heard: // the first message alone was read
				t.Fatalf("got %q before it was read", got)
			default:
			}
			if err := reader.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Ack{Ack: &pipedv1.RecvAck{Position: &pipedv1.Position{Message: 2}}}}); err != nil {
				t.Fatal(err)
			}
			wantNext(t, reader, "x")
			if got := <-heard; got != "ack 2" {
				t.Errorf("got %q", got)
			}
			wantTold(t, stream, "OK")
		})
	}
}

// withKind serves a session "s" with one bare pipe of a kind.
func withKind(t *testing.T, kind pipedv1.Pipe_Kind) clients {
	t.Helper()
	conn := serveOptions(t, DefaultOptions()).connect(t)
	c := clients{pipedv1.NewSessionServiceClient(conn), pipedv1.NewPipeServiceClient(conn)}
	_, err := c.sessions.CreateSession(t.Context(), &pipedv1.CreateSessionRequest{Name: "s",
		Pipes: []*pipedv1.PipeSpec{{Kind: kind, FramingIn: &pipedv1.Framing{Name: "mp"}}}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhatNobodyWillReadIsABrokenPipe(t *testing.T) {
	for name, kind := range map[string]pipedv1.Pipe_Kind{"socket": pipedv1.Pipe_KIND_DUPLEX, "kernel pipe": pipedv1.Pipe_KIND_ONE_WAY} {
		t.Run(name, func(t *testing.T) {
			c := withKind(t, kind)
			stream := unread(t, c, end(2), pipedv1.AckLevel_ACK_LEVEL_READ)
			c.close(t, &pipedv1.CloseRequest{Endpoint: end(1), Wait: true})
			wantTold(t, stream, "BROKEN_PIPE")
		})
	}
	t.Run("half-closed", func(t *testing.T) {
		c := withPipe(t, "mp")
		stream := unread(t, c, end(1), pipedv1.AckLevel_ACK_LEVEL_READ)
		c.close(t, &pipedv1.CloseRequest{Endpoint: end(1), SendOnly: true, Wait: true})
		wantTold(t, stream, "ENDPOINT_CLOSED")
	})
}

func TestProcessThatExitsHavingReadEverythingHasRead(t *testing.T) {
	conn := serveOptions(t, DefaultOptions()).connect(t)
	c := clients{pipedv1.NewSessionServiceClient(conn), pipedv1.NewPipeServiceClient(conn)}
	for i, tc := range []struct{ script, want string }{
		{"read a && read b && sleep 0.05", "OK"},
		{"read a && exec sleep 0.05", "BROKEN_PIPE"}, // a shell reads byte by byte
	} {
		name := strings.Repeat("p", i+1)
		if _, err := c.sessions.CreateSession(t.Context(), &pipedv1.CreateSessionRequest{Name: name,
			Process: &pipedv1.ProcessSpec{Args: []string{"sh", "-c", tc.script}}}); err != nil {
			t.Fatal(err)
		}
		stream, _ := c.send(t, &pipedv1.SendOpen{Endpoint: &pipedv1.EndpointRef{Session: name}, AckLevel: pipedv1.AckLevel_ACK_LEVEL_READ})
		batch(t, stream, "one")
		batch(t, stream, "two")
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		got := "opened"
		for got == "opened" || strings.HasPrefix(got, "ack") {
			got, _ = told(t, stream)
		}
		if got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.script, got, tc.want)
		}
	}
}
