package exact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
)

func TestC4ConnectionThatStuttersAndBreaksLosesNothing(t *testing.T) {
	t.Parallel()
	r := newRow(t, "C4")
	clients, messages := sized(4, 32), sized(uint64(600), 20_000)
	var mu sync.Mutex
	var resets int64
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			f := &flaky{rand: rand.New(rand.NewPCG(uint64(i), 4)), life: 200_000}
			if i%2 == 0 {
				// What is on its way at a time must fit into what a connection lives.
				f.life, f.unacked = 40_000, 16<<10
			}
			p := newProxy(t, r.d.Addr, func(int) (up, down transfer) { return f.transfer(), f.transfer() })
			defer p.close()
			err := f.talk(r, p, fmt.Sprintf("flaky-%d", i), messages)
			if err != nil {
				t.Errorf("client %d: %v", i, err)
			}
			mu.Lock()
			defer mu.Unlock()
			resets += p.connections.Load() - 1
		})
	}
	by := "flaky-conn"
	if n, err := newNetwork(t, 1); err != nil {
		r.note("no-network=%q", err)
	} else {
		by += "+tcp-over-tun"
		lossy(r, n, sized(2, 8), messages)
	}
	all.Wait()
	r.note("by=%s clients=%d resets=%d", by, clients, resets)
	if resets < int64(clients) {
		t.Errorf("%d connections were reset, want more than the %d clients", resets, clients)
	}
	r.finish()
}

// lossy lets clients talk over TCP in a network that loses, doubles, delays and
// reorders packets, and notes what it did.
func lossy(r *row, n *network, clients int, messages uint64) {
	r.t.Helper()
	lis, err := n.listen(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	far := startProxy(r.t, lis, toSocket(r.d.Addr), whole)
	defer far.close()
	near := newRelay(r.t, func(ctx context.Context) (net.Conn, error) { return n.dial(ctx, lis) }, whole)
	defer near.close()
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			if err := (&flaky{}).talk(r, near, fmt.Sprintf("lossy-%d", i), messages); err != nil {
				r.t.Errorf("over TCP, client %d: %v", i, err)
			}
		})
	}
	all.Wait()
	r.note("%v", n)
}

// flaky makes connections that bring bytes late and in pieces, and break. All
// that it does follows from its seed, as far as time allows.
type flaky struct {
	// life is how many bytes a direction carries on average before it breaks.
	life float64
	// unacked is the Reader's bound on what is on its way; 0 is the default.
	unacked uint64

	mu   sync.Mutex
	rand *rand.Rand
}

// flakyDelay is the longest pause before a piece.
const flakyDelay = 2 * time.Millisecond

func (f *flaky) n(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rand.IntN(n)
}

// transfer returns one direction of one connection.
func (f *flaky) transfer() transfer {
	return func(ctx context.Context, dst io.Writer, src io.Reader) {
		f.mu.Lock()
		life := int(f.rand.ExpFloat64() * f.life)
		f.mu.Unlock()
		buf := make([]byte, 16<<10)
		for life > 0 {
			// Pieces of one byte are as usual as long ones.
			size := []int{1, 7, 100, 1500, len(buf)}[f.n(5)]
			n, err := src.Read(buf[:min(size, life)])
			if err != nil {
				return
			}
			if f.n(8) == 0 {
				pause(ctx, time.Duration(f.n(int(flakyDelay))))
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
			life -= n
		}
	}
}

// talk sends and receives at the same time over p.
func (f *flaky) talk(r *row, p *proxy, name string, messages uint64) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), sized(patience, 20*time.Minute))
	defer cancel()
	c, err := persist(ctx, func() (*client.Client, error) { return client.Dial(ctx, p.addr) })
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer c.Close()
	k := r.newTalk(name, "mp")
	r.create(k.request())
	w, err := persist(ctx, func() (*client.Writer, error) {
		return c.Endpoint(k.ref()).NewWriter(ctx, client.WriterOptions{ID: "w"})
	})
	if err != nil {
		return fmt.Errorf("open the writer: %w", err)
	}
	rd, err := persist(ctx, func() (*client.Reader, error) {
		return c.Endpoint(k.ref()).NewReader(ctx, client.ReaderOptions{ConsumerID: "c", MaxUnackedBytes: f.unacked})
	})
	if err != nil {
		return fmt.Errorf("open the reader: %w", err)
	}
	var both sync.WaitGroup
	var sendErr, recvErr error
	both.Go(func() { sendErr = k.send(ctx, w, messages, 400) })
	both.Go(func() { recvErr = k.receive(ctx, rd, messages) })
	both.Wait()
	if sendErr != nil || recvErr != nil {
		return fmt.Errorf("%w; at %v of %d, connections %d, %v", errors.Join(sendErr, recvErr), rd.Position(), messages, p.connections.Load(), r.endpoint(k.name, 1))
	}
	return errors.Join(w.Close(ctx), rd.Close(ctx), k.finish(ctx), k.judge(true))
}
