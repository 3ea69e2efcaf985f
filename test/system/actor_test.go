package system

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"google.golang.org/protobuf/proto"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// clientRole makes the test binary be a client that a test kills. What it has
// to do comes over its standard input, as JSON of [role].
const clientRole = "PIPED_TEST_CLIENT"

// A role is what a client in a process of its own does before it waits to be
// killed.
type role struct {
	Addr string
	// Open is a SendOpen or RecvOpen in protobuf's wire format.
	Send, Recv []byte
	// Batches are sent after Send is open, in protobuf's wire format.
	Batches [][]byte
	// Take and Ack are how many batches are received after Recv is open, and
	// how many of them acknowledged.
	Take, Ack int
}

// playClient does what the role says, prints "ready" once it has, and then
// waits without end.
func playClient() int {
	var r role
	if err := json.NewDecoder(os.Stdin).Decode(&r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := r.play(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if _, err := fmt.Fprintln(os.Stdout, "ready"); err != nil {
		return 1
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test is gone
	return 0
}

func (r *role) play(ctx context.Context) error {
	conn, err := connect(r.Addr)
	if err != nil {
		return err
	}
	pipes := pipedv1.NewPipeServiceClient(conn)
	if r.Send != nil {
		return r.playSend(ctx, pipes)
	}
	return r.playRecv(ctx, pipes)
}

func (r *role) playSend(ctx context.Context, pipes pipedv1.PipeServiceClient) error {
	var open pipedv1.SendOpen
	if err := proto.Unmarshal(r.Send, &open); err != nil {
		return err
	}
	stream, err := pipes.Send(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&pipedv1.SendRequest{Request: &pipedv1.SendRequest_Open{Open: &open}}); err != nil {
		return err
	}
	for _, data := range r.Batches {
		var b pipedv1.Batch
		if err := proto.Unmarshal(data, &b); err != nil {
			return err
		}
		if err := stream.Send(&pipedv1.SendRequest{Request: &pipedv1.SendRequest_Batch{Batch: &b}}); err != nil {
			return err
		}
	}
	return nil
}

func (r *role) playRecv(ctx context.Context, pipes pipedv1.PipeServiceClient) error {
	var open pipedv1.RecvOpen
	if err := proto.Unmarshal(r.Recv, &open); err != nil {
		return err
	}
	stream, err := pipes.Recv(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Open{Open: &open}}); err != nil {
		return err
	}
	for taken := 0; taken < r.Take; {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		b := resp.GetBatch()
		if b == nil {
			continue
		}
		if taken++; taken <= r.Ack {
			ack := &pipedv1.RecvAck{Position: &pipedv1.Position{Message: b.GetFirst().GetMessage() + 1}}
			if err := stream.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Ack{Ack: ack}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// A clientProcess is a client that can be killed.
type clientProcess struct {
	t   *testing.T
	cmd *exec.Cmd
}

// startClient starts a client and returns once it has done what r says.
func startClient(t *testing.T, r role) *clientProcess {
	t.Helper()
	c := &clientProcess{t, exec.CommandContext(t.Context(), os.Args[0])}
	c.cmd.Env = append(os.Environ(), clientRole+"=1")
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	// Its input stays open as long as the test lives.
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // kill may have
		c.kill()
	})
	if err := json.NewEncoder(in).Encode(r); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the client says %q, %v", line, err)
	}
	return c
}

// kill kills the client with SIGKILL.
func (c *clientProcess) kill() {
	c.t.Helper()
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill() // Wait tells
		_ = c.cmd.Wait()
	}
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
