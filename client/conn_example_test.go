//go:build linux

package client_test

import (
	"context"
	"fmt"
	"io"
	"log"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A process as a connection, for whatever takes a net.Conn.
func ExampleEndpoint_Conn() {
	ctx := context.Background()
	c, err := client.Dial(ctx, daemonAddr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	raw := &pipedv1.Framing{Name: "raw"}
	session, err := c.Create(ctx, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
		Args: []string{"tr", "a-z", "A-Z"}, StdioPipe: &pipedv1.PipeSpec{FramingIn: raw, FramingOut: raw},
	}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Delete(ctx, session.GetName(), true)

	conn, err := c.Endpoint(client.Ref{Session: session.GetName()}).Conn(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, "hello"); err != nil {
		log.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		log.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", answer)
	// Output: HELLO
}
