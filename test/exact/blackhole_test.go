package exact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/piped-dev/piped/client"
)

// detectedWithin is how soon a client must find that its connection is dead.
const detectedWithin = 31 * time.Second

// holeMessages is how many messages go to and fro before a connection dies, and
// again afterwards.
const holeMessages = 40

// A hole is a way in which a connection dies without being closed.
type hole struct {
	name string
	// up and down say which direction swallows everything.
	up, down bool
	// gone closes the daemon's side, as a machine that was switched off does.
	gone bool
	// busy sends while nothing comes through; else the client waits.
	busy bool
	// within is how soon it must be found.
	within time.Duration
}

func TestC3ConnectionThatSwallowsEverythingIsFoundAndReplaced(t *testing.T) {
	t.Parallel()
	holes := []hole{
		{name: "black-idle", up: true, down: true, within: detectedWithin},
		{name: "black-busy", up: true, down: true, busy: true, within: detectedWithin},
		{name: "halfopen-idle", up: true, down: true, gone: true, within: detectedWithin},
		{name: "halfopen-busy", up: true, down: true, gone: true, busy: true, within: detectedWithin},
		{name: "down-busy", down: true, busy: true, within: detectedWithin},
	}
	var args []string
	var opts []grpc.DialOption
	if long {
		// The daemon's own words go on arriving until it gives up by itself.
		holes = append(holes, hole{name: "up-busy", up: true, busy: true, within: 2 * detectedWithin})
	} else {
		args = []string{"--heartbeat-interval", "200ms"}
		opts = []grpc.DialOption{grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 500 * time.Millisecond, PermitWithoutStream: true})}
	}
	r := newRow(t, "C3", args...)
	var mu sync.Mutex
	var worst time.Duration
	var all sync.WaitGroup
	for _, h := range holes {
		all.Go(func() {
			found, err := h.fall(r, opts)
			if err != nil {
				t.Errorf("%s: %v", h.name, err)
				return
			}
			if found > h.within {
				t.Errorf("%s: found after %v", h.name, found)
			}
			r.note("%s_s=%.1f", h.name, found.Seconds())
			mu.Lock()
			defer mu.Unlock()
			if h.within == detectedWithin {
				worst = max(worst, found)
			}
		})
	}
	all.Wait()
	r.note("detected_s=%.1f", worst.Seconds())
	r.finish()
}

// fall lets a client talk over a connection, lets that die, and returns how long
// it took until the client had another.
func (h hole) fall(r *row, opts []grpc.DialOption) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 3*detectedWithin)
	defer cancel()
	dead, die := context.WithCancel(ctx)
	defer die()
	second := make(chan time.Time, 100)
	p := newProxy(r.t, r.d.Addr, func(n int) (up, down transfer) {
		if n > 0 {
			second <- time.Now()
			return nil, nil
		}
		return swallow(dead, h.up, false), swallow(dead, h.down, h.gone)
	})
	defer p.close()
	c, err := client.Dial(ctx, p.addr, opts...)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	k := r.newTalk(h.name, "mp")
	r.create(k.request())
	w, err := c.Endpoint(k.ref()).NewWriter(ctx, client.WriterOptions{ID: "w"})
	if err != nil {
		return 0, err
	}
	rd, err := c.Endpoint(k.ref()).NewReader(ctx, client.ReaderOptions{ConsumerID: "c"})
	if err != nil {
		return 0, err
	}
	if err := errors.Join(k.send(ctx, w, holeMessages, 64), k.receive(ctx, rd, holeMessages)); err != nil {
		return 0, err
	}
	died := time.Now()
	die()
	var busy sync.WaitGroup
	var busyErr error
	if h.busy {
		busy.Go(func() { busyErr = k.send(ctx, w, 2*holeMessages, 64) })
	}
	var found time.Duration
	select {
	case at := <-second:
		found = at.Sub(died)
	case <-ctx.Done():
	}
	busy.Wait()
	if found == 0 || busyErr != nil {
		return 0, fmt.Errorf("not found in %v: %w", time.Since(died), busyErr)
	}
	err = errors.Join(k.send(ctx, w, 3*holeMessages, 64), w.Close(ctx), k.receive(ctx, rd, 3*holeMessages), rd.Close(ctx), k.finish(ctx))
	return found, errors.Join(err, k.judge(true))
}

// swallow carries everything until dead is over, and from then on nothing, where
// this is so. With gone it closes its source then. The other side stays open.
func swallow(dead context.Context, this, gone bool) transfer {
	return func(ctx context.Context, dst io.Writer, src io.Reader) {
		if far, ok := src.(io.Closer); ok && gone {
			defer context.AfterFunc(dead, func() { _ = far.Close() })()
		}
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			switch {
			case this && dead.Err() != nil && err == nil:
			case this && dead.Err() != nil:
				<-ctx.Done()
				return
			case err != nil:
				return
			default:
				if _, err := dst.Write(buf[:n]); err != nil {
					return
				}
			}
		}
	}
}
