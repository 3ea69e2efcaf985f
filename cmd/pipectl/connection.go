package main

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/stats"
)

// comeBackFor is how long a verb that somebody waits for tries to reach a daemon
// that is gone: a restart takes less. Those that only follow what happens, and a
// person at a terminal, wait for ever.
const comeBackFor = 10 * time.Second

// comeBackForever is the same for these.
const comeBackForever time.Duration = 0

// A connection tells when the connection to the daemon is lost, and when it is
// there again, once a verb has said that it goes on by itself then.
type connection struct {
	tell func(kind, text string)

	mu sync.Mutex
	// goesOn: the verb does.
	goesOn bool
	// open counts connections: a client may have several.
	open int
	// lost: somebody was told.
	lost bool
}

// TagRPC keeps the context.
func (*connection) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC does nothing.
func (*connection) HandleRPC(context.Context, stats.RPCStats) {}

// TagConn keeps the context.
func (*connection) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn hears of each connection twice.
func (c *connection) HandleConn(_ context.Context, event stats.ConnStats) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch event.(type) {
	case *stats.ConnBegin:
		c.open++
		if c.lost {
			c.lost = false
			c.tell("note", "connected again")
		}
	case *stats.ConnEnd:
		c.open--
		if c.open == 0 && c.goesOn && !c.lost {
			c.lost = true
			c.tell("note", "the connection to the daemon is lost; trying again")
		}
	}
}

// goOn says whether the verb goes on by itself when the connection is lost.
func (c *connection) goOn(goesOn bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.goesOn = goesOn
}
