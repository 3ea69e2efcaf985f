package client

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// newTestPool makes a pool of connections that are never used.
func newTestPool(t *testing.T, limit uint32) *pool {
	t.Helper()
	p, err := newPool(func() (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///nobody", grpc.WithTransportCredentials(insecure.NewCredentials()))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.close() })
	p.idle = time.Millisecond
	p.setLimit(limit)
	return p
}

func take(t *testing.T, p *pool, stream bool, n int) []*member {
	t.Helper()
	var taken []*member
	for range n {
		m, err := p.take(stream)
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, m)
	}
	return taken
}

func TestPoolGrowsPastTheLimitAndShrinksAgain(t *testing.T) {
	p := newTestPool(t, 8)
	// A quarter of each connection is kept for unary calls.
	streams := take(t, p, true, 13)
	calls := take(t, p, false, 2)
	var load []int
	for _, m := range p.members {
		load = append(load, m.calls)
	}
	if diff := cmp.Diff([]int{8, 6, 1}, load); diff != "" {
		t.Errorf("calls of the connections (-want +got):\n%s", diff)
	}
	for _, m := range append(streams, calls...) {
		p.release(m)
	}
	deadline, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for p.size() > 1 {
		select {
		case <-time.After(time.Millisecond):
		case <-deadline.Done():
			t.Fatalf("%d connections are left, want 1", p.size())
		}
	}
	if m := take(t, p, true, 1)[0]; m != p.members[0] {
		t.Error("the first connection is not used again")
	}
}

func TestPoolKeepsAConnectionThatIsUsedAgain(t *testing.T) {
	p := newTestPool(t, 1)
	p.idle = time.Hour
	first := take(t, p, true, 1)[0]
	second := take(t, p, true, 1)[0]
	p.release(second)
	if again := take(t, p, true, 1)[0]; again != second || second == first || second.retire != nil {
		t.Error("an idle connection is not used again")
	}
	p.drop(second) // its timer fired at the wrong moment
	if p.size() != 2 {
		t.Error("a connection with a call was closed")
	}
}

func TestPoolServesManyAtOnce(t *testing.T) {
	p := newTestPool(t, 4)
	var working sync.WaitGroup
	for range 16 {
		working.Go(func() {
			for range 200 {
				m, err := p.take(true)
				if err != nil {
					t.Error(err)
					return
				}
				p.release(m)
			}
		})
	}
	working.Wait()
	p.mu.Lock() // idle ones are dropped just now
	defer p.mu.Unlock()
	for _, m := range p.members {
		if m.calls != 0 {
			t.Errorf("%d calls are left", m.calls)
		}
	}
}

func TestPoolIsClosedOnce(t *testing.T) {
	p := newTestPool(t, 4)
	if err := p.close(); err != nil {
		t.Error(err)
	}
	if err := p.close(); err == nil {
		t.Error("a second close: got nil")
	}
	if _, err := p.take(false); err == nil {
		t.Error("a call after close: got nil")
	}
}
