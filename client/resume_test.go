//go:build linux

package client_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// numbered is message i of size bytes, which can be told from every other.
func numbered(i, size int) []byte {
	msg := binary.BigEndian.AppendUint64(nil, uint64(i))
	random := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)})
	for len(msg) < size {
		msg = binary.BigEndian.AppendUint64(msg, random.Uint64())
	}
	return msg
}

// catPipe starts a cat whose messages are of the framing mp in both directions.
func catPipe(t testing.TB, c *client.Client) client.Ref {
	t.Helper()
	f := &pipedv1.Framing{Name: "mp"}
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
		Args: []string{"cat"}, StdioPipe: &pipedv1.PipeSpec{FramingIn: f, FramingOut: f},
	}})
	return client.Ref{Session: session}
}

// redial dials until it succeeds: the first connection may be one that is cut.
func redial(t testing.TB, addr string) *client.Client {
	t.Helper()
	for {
		c, err := client.Dial(t.Context(), addr)
		if err == nil {
			return c
		}
		if !errors.Is(err, client.ErrUnavailable) {
			t.Fatal(err)
		}
	}
}

// exchange sends messages with numbers from up to but not including to, and
// receives them again, in order, each once.
func exchange(t testing.TB, sender, receiver *client.Endpoint, from, to int, size func(i int) int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	sent := make(chan error, 1)
	go func() { sent <- sendNumbered(ctx, sender, from, to, size) }()
	if err := receiveNumbered(ctx, receiver, from, to, size); err != nil {
		t.Errorf("receive: %v", err)
		cancel()
	}
	if err := <-sent; err != nil {
		t.Fatalf("send: %v", err)
	}
}

func sendNumbered(ctx context.Context, e *client.Endpoint, from, to int, size func(i int) int) error {
	w, err := e.NewWriter(ctx, client.WriterOptions{})
	if err != nil {
		return err
	}
	for i := from; i < to && err == nil; i++ {
		err = w.Send(ctx, numbered(i, size(i)))
	}
	return errors.Join(err, w.Close(ctx))
}

func receiveNumbered(ctx context.Context, e *client.Endpoint, from, to int, size func(i int) int) error {
	r, err := e.NewReader(ctx, client.ReaderOptions{})
	if err != nil {
		return err
	}
	for i := from; i < to; i++ {
		m, err := r.Next(ctx)
		if err != nil {
			return errors.Join(fmt.Errorf("instead of message %d: %w", i, err), r.Close(ctx))
		}
		if !bytes.Equal(m.Data, numbered(i, size(i))) {
			return errors.Join(fmt.Errorf("message %v has %d bytes and is not number %d", m.Position, len(m.Data), i), r.Close(ctx))
		}
		if i%3 == 0 || i == to-1 {
			if err := r.Ack(m.After); err != nil {
				return err
			}
		}
	}
	return r.Close(ctx)
}

func small(int) int { return 10 }

func TestCutAtEachByteLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	direct := dial(t)
	const bytes, each = 512, 3
	for name, at := range map[string]func(k int) plan{
		"to the daemon":   func(k int) plan { return plan{cutUp: k, cutDown: -1, chop: -1} },
		"from the daemon": func(k int) plan { return plan{cutUp: -1, cutDown: k, chop: -1} },
	} {
		t.Run(name, func(t *testing.T) {
			ref := catPipe(t, direct)
			for k := range bytes {
				p := startProxy(t, daemonAddr, func(n int) plan {
					if n == 0 {
						return at(k)
					}
					return undisturbed
				})
				c := redial(t, p.addr)
				exchange(t, c.Endpoint(ref), c.Endpoint(ref), k*each, (k+1)*each, small)
				if err := c.Close(); err != nil {
					t.Error(err)
				}
				if t.Failed() {
					t.Fatalf("cut after %d bytes", k)
				}
			}
		})
	}
}

func TestRandomCutsLoseAndDoubleNothing(t *testing.T) {
	t.Parallel()
	direct := dial(t)
	ref := catPipe(t, direct)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	const cuts = 200
	p := startProxy(t, daemonAddr, func(n int) plan {
		if n >= cuts {
			return undisturbed
		}
		random := rand.New(rand.NewPCG(seed, uint64(n)))
		disturbed := undisturbed
		disturbed.random, disturbed.delay = random, time.Millisecond
		disturbed.chop = 1 << (10 + random.IntN(7))
		// From less than the first frames to several parts.
		limit := int(512 * math.Exp(random.Float64()*math.Log(4096)))
		if random.IntN(2) == 0 {
			disturbed.cutUp = limit
		} else {
			disturbed.cutDown = limit
		}
		return disturbed
	})
	c := redial(t, p.addr)
	defer c.Close()
	e := c.Endpoint(ref)
	size := func(i int) int {
		if i%50 == 49 {
			return 600_000
		}
		return 8 + i%3000
	}
	for from := 0; p.connections() < cuts; from += 500 {
		exchange(t, e, e, from, from+500, size)
	}
}
