package exact

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// A transfer carries one direction of one connection, from src to dst, until it
// wants the connection cut or ctx ends.
type transfer func(ctx context.Context, dst io.Writer, src io.Reader)

// A proxy stands between a client and a daemon and does to their connections
// what a row wants.
type proxy struct {
	t    testing.TB
	addr string
	lis  net.Listener
	// dial makes the other half of each connection.
	dial func(ctx context.Context) (net.Conn, error)
	// plan says what is done to the n-th connection, from 0; a nil transfer
	// passes everything on.
	plan   func(n int) (up, down transfer)
	ctx    context.Context //nolint:containedctx // that of the connections, which outlive every call
	cancel context.CancelFunc
	loops  sync.WaitGroup

	// connections counts those that were accepted, open those that are.
	connections, open atomic.Int64
	// up and down count the bytes that were passed on.
	up, down atomic.Int64
}

// whole is a plan that does nothing to any connection.
func whole(int) (up, down transfer) { return nil, nil }

// toSocket returns what dials a daemon at addr, unix:///PATH.
func toSocket(addr string) func(ctx context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(addr, "unix://"))
	}
}

// newProxy listens for clients of the daemon at addr. The end of the test closes
// the proxy.
func newProxy(t testing.TB, addr string, plan func(n int) (up, down transfer)) *proxy {
	t.Helper()
	return newRelay(t, toSocket(addr), plan)
}

// newRelay is as newProxy, for whatever dial connects to.
func newRelay(t testing.TB, dial func(ctx context.Context) (net.Conn, error), plan func(n int) (up, down transfer)) *proxy {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "piped-") //nolint:usetesting // the path of a socket has little room
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "p")
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return startProxy(t, lis, dial, plan)
}

// startProxy serves a listener, which it closes.
func startProxy(t testing.TB, lis net.Listener, dial func(ctx context.Context) (net.Conn, error), plan func(n int) (up, down transfer)) *proxy {
	t.Helper()
	p := &proxy{t: t, addr: "unix://" + lis.Addr().String(), lis: lis, dial: dial, plan: plan}
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(t.Context()))
	p.loops.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// close cuts everything and may be repeated.
func (p *proxy) close() {
	p.cancel()
	_ = p.lis.Close() // it may be closed already
	p.loops.Wait()
}

func (p *proxy) accept() {
	for n := 0; ; n++ {
		conn, err := p.lis.Accept()
		if err != nil {
			return
		}
		p.connections.Add(1)
		p.loops.Go(func() { p.serve(n, conn) })
	}
}

// serve carries one connection until one of its directions wants it cut.
func (p *proxy) serve(n int, near net.Conn) {
	p.open.Add(1)
	defer p.open.Add(-1)
	ctx, cut := context.WithCancel(p.ctx)
	defer cut()
	far, err := p.dial(ctx)
	if err != nil {
		_ = near.Close()
		return
	}
	// Closing releases both copies.
	closed := context.AfterFunc(ctx, func() {
		_ = near.Close()
		_ = far.Close()
	})
	defer closed()
	up, down := p.plan(n)
	var both sync.WaitGroup
	both.Go(func() {
		defer cut()
		carry(ctx, up, counter{far, &p.up}, near)
	})
	both.Go(func() {
		defer cut()
		carry(ctx, down, counter{near, &p.down}, far)
	})
	both.Wait()
}

func carry(ctx context.Context, f transfer, dst io.Writer, src io.Reader) {
	if f == nil {
		f = pass
	}
	f(ctx, dst, src)
}

// pass carries everything.
func pass(_ context.Context, dst io.Writer, src io.Reader) { _, _ = io.Copy(dst, src) }

// cutAfter carries n bytes and cuts.
func cutAfter(n int64) transfer {
	return func(_ context.Context, dst io.Writer, src io.Reader) { _, _ = io.CopyN(dst, src, n) }
}

// counter counts what is written.
type counter struct {
	io.Writer
	n *atomic.Int64
}

func (c counter) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n.Add(int64(n))
	return n, err
}
