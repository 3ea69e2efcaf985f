//go:build linux

package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A pipe whose ends the daemon both holds.
func Example() {
	ctx := context.Background()
	addr, err := client.FindAddress(ctx, daemonAddr) // "" looks in the usual places
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.Dial(ctx, addr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	session, err := c.Create(ctx, &pipedv1.CreateSessionRequest{
		Pipes: []*pipedv1.PipeSpec{{Name: "pipe"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Delete(ctx, session.GetName(), true)

	if err := c.Endpoint(client.Ref{Session: session.GetName(), End: 1}).Send(ctx, []byte("123456")); err != nil {
		log.Fatal(err)
	}
	r, err := c.Endpoint(client.Ref{Session: session.GetName(), End: 2}).NewReader(ctx, client.ReaderOptions{})
	if err != nil {
		log.Fatal(err)
	}
	m, err := r.Next(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("message %v: %s\n", m.Position, m.Data)
	if err := r.Ack(m.After); err != nil {
		log.Fatal(err)
	}
	if err := r.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: message 1: 123456
}

// A filter that answers at the end of its input: half-close, then receive up to
// the end.
func ExampleEndpoint_CloseSend() {
	ctx := context.Background()
	c, err := client.Dial(ctx, daemonAddr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	session, err := c.Create(ctx, &pipedv1.CreateSessionRequest{
		Process: &pipedv1.ProcessSpec{Args: []string{"sort"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Delete(ctx, session.GetName(), true)
	stdio := c.Endpoint(client.Ref{Session: session.GetName()})

	w, err := stdio.NewWriter(ctx, client.WriterOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for _, line := range []string{"cherry", "apple", "banana"} {
		if err := w.Send(ctx, []byte(line)); err != nil {
			log.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(ctx), stdio.CloseSend(ctx)); err != nil {
		log.Fatal(err)
	}

	r, err := stdio.NewReader(ctx, client.ReaderOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close(ctx)
	for {
		m, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			break // provably everything
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(m.Data))
		if err := r.Ack(m.After); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// apple
	// banana
	// cherry
}

// Errors are found by their reason.
func ExampleReason() {
	ctx := context.Background()
	c, err := client.Dial(ctx, daemonAddr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = c.Get(ctx, "nobody")
	fmt.Println(errors.Is(err, client.ErrSessionNotFound))
	// Output: true
}

func ExampleParseRef() {
	ref, err := client.ParseRef("work/ctl:2")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ref.Session, ref.Pipe, ref.End)
	// Output: work ctl 2
}
