package exact

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// cutMessages is how many messages each client of C2 sends and gets back.
const cutMessages = 3

func TestC2ConnectionThatIsCutAfterAnyByteLosesNothing(t *testing.T) {
	r := newRow(t, "C2")
	clean := newProxy(t, r.d.Addr, whole)
	x := &cutting{row: r}
	if err := x.exchange(clean, "clean"); err != nil {
		t.Fatal(err)
	}
	up, down := clean.up.Load(), clean.down.Load()
	clean.close()
	// In the short form, one byte of so many.
	stride := sized(int64(8), 1)
	type place struct {
		up bool
		k  int64
	}
	places := make(chan place)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for at := range places {
				if err := x.cut(at.up, at.k); err != nil {
					t.Errorf("up=%v, cut after byte %d: %v", at.up, at.k, err)
				}
			}
		})
	}
	var n int
	for _, c := range []struct {
		up    bool
		bytes int64
	}{{true, up}, {false, down}} {
		for k := int64(0); k <= c.bytes; k += stride {
			places <- place{c.up, k}
			n++
		}
	}
	close(places)
	workers.Wait()
	if n := x.reopened.Load(); n != 0 {
		t.Errorf("%d times a Writer or Reader did not come back by itself", n)
	}
	r.note("N=%d up_bytes=%d down_bytes=%d cuts=%d reconnects=%d reopened=%d", n, up, down, x.cuts.Load(), x.reconnects.Load(), x.reopened.Load())
	r.finish()
}

// cutting is the state of C2.
type cutting struct {
	row                        *row
	cuts, reconnects, reopened atomic.Int64
}

// cut lets one client talk over a connection that is cut after k bytes in one
// direction. Further connections are whole.
func (x *cutting) cut(up bool, k int64) error {
	p := newProxy(x.row.t, x.row.d.Addr, func(n int) (transfer, transfer) {
		switch {
		case n > 0:
			return nil, nil
		case up:
			return cutAfter(k), nil
		default:
			return nil, cutAfter(k)
		}
	})
	defer p.close()
	err := x.exchange(p, fmt.Sprintf("cut-%v-%d", up, k))
	x.reconnects.Add(p.connections.Load() - 1)
	if p.connections.Load() > 1 {
		x.cuts.Add(1)
	}
	return err
}

// quickly makes gRPC connect again at once: a cut is the row's own doing.
var quickly = grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{}, MinConnectTimeout: patience})

// exchange creates a session, sends its child messages, gets them back and ends
// it, all over p.
func (x *cutting) exchange(p *proxy, name string) error {
	ctx, cancel := x.row.ctx()
	defer cancel()
	c, err := persist(ctx, func() (*client.Client, error) { return client.Dial(ctx, p.addr, quickly) })
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer c.Close()
	k := x.row.newTalk(name, "mp")
	if _, err := persist(ctx, func() (*pipedv1.Session, error) { return c.Create(ctx, k.request()) }); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	x.row.created()
	err = errors.Join(x.write(ctx, c, k), x.read(ctx, c, k), k.finish(ctx))
	x.row.remove(k.name)
	return errors.Join(err, k.judge(true))
}

func (x *cutting) write(ctx context.Context, c *client.Client, k *talk) error {
	for {
		w, err := persist(ctx, func() (*client.Writer, error) {
			return c.Endpoint(k.ref()).NewWriter(ctx, client.WriterOptions{ID: "w"})
		})
		if err != nil {
			return fmt.Errorf("open the writer: %w", err)
		}
		err = errors.Join(k.send(ctx, w, cutMessages, 64), w.Close(ctx))
		if !lostConnection(err) || ctx.Err() != nil {
			return err
		}
		x.reopened.Add(1)
	}
}

func (x *cutting) read(ctx context.Context, c *client.Client, k *talk) error {
	at := client.Position{Message: 1}
	for {
		rd, err := persist(ctx, func() (*client.Reader, error) {
			return c.Endpoint(k.ref()).NewReader(ctx, client.ReaderOptions{ConsumerID: "c", Start: pipedv1.RecvStart_RECV_START_POSITION, Position: at})
		})
		if err != nil {
			return fmt.Errorf("open the reader: %w", err)
		}
		err = errors.Join(k.receive(ctx, rd, cutMessages), rd.Close(ctx))
		if !lostConnection(err) || ctx.Err() != nil {
			return err
		}
		at = rd.Position()
		x.reopened.Add(1)
	}
}
