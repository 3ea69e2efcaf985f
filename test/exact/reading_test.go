package exact

import (
	"context"
	"errors"
	"sync"

	"github.com/piped-dev/piped/client"
)

// A reading receives what the child of a talk sends back, beside other things.
type reading struct {
	k    *talk
	rd   *client.Reader
	stop context.CancelFunc
	loop sync.WaitGroup
	err  error

	mu sync.Mutex
	// until is the last message that is wanted, once that is known.
	until uint64
}

// reading begins to receive over the row's own connection.
func (r *row) reading(k *talk) *reading {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	rd, err := r.c.Endpoint(k.ref()).NewReader(ctx, client.ReaderOptions{ConsumerID: "row"})
	if err != nil {
		r.t.Fatal(err)
	}
	g := &reading{k: k, rd: rd, stop: cancel}
	g.loop.Go(func() {
		for {
			if err := k.receive(ctx, rd, rd.Position().Message); err != nil {
				g.err = err
				return
			}
			g.mu.Lock()
			done := g.until > 0 && rd.Position().Message > g.until
			g.mu.Unlock()
			if done || rd.End() != nil {
				return
			}
		}
	})
	return g
}

// stopAfter waits for the last message and closes the Reader.
func (g *reading) stopAfter(until uint64) {
	t := g.k.r.t
	t.Helper()
	g.mu.Lock()
	g.until = until
	g.mu.Unlock()
	if !await(func() bool { return g.rd.Position().Message > until }) {
		t.Errorf("received up to %v, want message %d", g.rd.Position(), until)
	}
	g.stop()
	g.loop.Wait()
	if g.err != nil && !errors.Is(g.err, context.Canceled) {
		t.Errorf("receive: %v", g.err)
	}
	ctx, cancel := g.k.r.ctx()
	defer cancel()
	_ = g.rd.Close(ctx) // its context has ended
}
