//go:build linux

package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"time"

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

// A Writer with an ID goes on where an earlier one stopped, also in another
// process; a cut connection needs nothing at all.
func ExampleWriter_resume() {
	ctx := context.Background()
	c, one, two := examplePipe(ctx)
	defer c.Close()
	defer c.Delete(ctx, one.Ref().Session, true)

	w, err := one.NewWriter(ctx, client.WriterOptions{ID: "importer"})
	if err != nil {
		log.Fatal(err)
	}
	for _, line := range []string{"one", "two"} {
		if err := w.Send(ctx, []byte(line)); err != nil {
			log.Fatal(err)
		}
	}
	if err := w.Close(ctx); err != nil {
		log.Fatal(err)
	}

	lines := []string{"one", "two", "three"}
	again, err := one.NewWriter(ctx, client.WriterOptions{ID: "importer"})
	if err != nil {
		log.Fatal(err)
	}
	for _, line := range lines[again.Next().Message-1:] {
		if err := again.Send(ctx, []byte(line)); err != nil {
			log.Fatal(err)
		}
	}
	if err := again.Close(ctx); err != nil {
		log.Fatal(err)
	}

	r, err := two.NewReader(ctx, client.ReaderOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close(ctx)
	for range lines {
		m, err := r.Next(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%v %s\n", m.Position, m.Data)
	}
	// Output:
	// 1 one
	// 2 two
	// 3 three
}

// Observers look without consuming, and never delay anybody.
func ExampleReaderOptions_observe() {
	ctx := context.Background()
	c, err := client.Dial(ctx, daemonAddr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	session, err := c.Create(ctx, &pipedv1.CreateSessionRequest{
		Process: &pipedv1.ProcessSpec{Args: []string{"echo", "hello"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Delete(ctx, session.GetName(), true)
	stdio := c.Endpoint(client.Ref{Session: session.GetName()})
	for range 2 {
		r, err := stdio.NewReader(ctx, client.ReaderOptions{Observe: true})
		if err != nil {
			log.Fatal(err)
		}
		for {
			m, err := r.Next(ctx)
			if gap, ok := errors.AsType[*client.GapError](err); ok {
				fmt.Println("missed up to", gap.To)
				continue
			}
			if err != nil {
				fmt.Println(err)
				break
			}
			fmt.Printf("%s\n", m.Data)
		}
		if err := r.Close(ctx); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// hello
	// EOF
	// hello
	// EOF
}

// The pen goes from hand to hand: whoever steals it fences the other off.
func ExampleEndpoint_AcquireLease() {
	ctx := context.Background()
	c, one, _ := examplePipe(ctx)
	defer c.Close()
	defer c.Delete(ctx, one.Ref().Session, true)

	lease, err := one.AcquireLease(ctx, client.LeaseOptions{
		Role: pipedv1.LeaseRole_LEASE_ROLE_WRITER, Holder: "ann", Duration: time.Minute,
	})
	if err != nil {
		log.Fatal(err)
	}
	w, err := one.NewWriter(ctx, client.WriterOptions{LeaseToken: lease.Token()})
	if err != nil {
		log.Fatal(err)
	}
	_, err = one.NewWriter(ctx, client.WriterOptions{ID: "bob"})
	fmt.Println(errors.Is(err, client.ErrBusyWriter))

	thief, err := one.NewWriter(ctx, client.WriterOptions{ID: "bob", Steal: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(errors.Is(w.Close(ctx), client.ErrFenced), errors.Is(lease.Renew(ctx), client.ErrFenced))
	if err := thief.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// true
	// true true
}

func ExampleClient_Watch() {
	ctx := context.Background()
	c, one, _ := examplePipe(ctx)
	defer c.Close()
	name := one.Ref().Session
	for resp, err := range c.Watch(ctx, &pipedv1.WatchSessionsRequest{NamePrefix: name}) {
		if err != nil {
			log.Fatal(err)
		}
		switch {
		case resp.GetSnapshot() != nil:
			fmt.Println(resp.GetSnapshot().GetState())
		case resp.GetSnapshotEnd() != nil:
			if err := c.Delete(ctx, name, true); err != nil {
				log.Fatal(err)
			}
		case resp.GetEvent().GetType() == pipedv1.SessionEvent_TYPE_SESSION_DELETED:
			fmt.Println("deleted")
			return
		}
	}
	// Output:
	// STATE_ACTIVE
	// deleted
}

// examplePipe returns both ends of a new pipe.
func examplePipe(ctx context.Context) (c *client.Client, one, two *client.Endpoint) {
	c, err := client.Dial(ctx, daemonAddr)
	if err != nil {
		panic(err)
	}
	session, err := c.Create(ctx, &pipedv1.CreateSessionRequest{Pipes: []*pipedv1.PipeSpec{{}}})
	if err != nil {
		panic(err)
	}
	return c, c.Endpoint(client.Ref{Session: session.GetName(), End: 1}), c.Endpoint(client.Ref{Session: session.GetName(), End: 2})
}

func ExampleParseRef() {
	ref, err := client.ParseRef("work/ctl:2")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ref.Session, ref.Pipe, ref.End)
	// Output: work ctl 2
}
