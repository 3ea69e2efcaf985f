//go:build linux

package client_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A plan is what a proxy does to one connection. Each limit is a number of
// bytes, and less than 0 is none.
type plan struct {
	// cutUp and cutDown end the connection after so many bytes to and from the
	// daemon.
	cutUp, cutDown int
	// swallow makes it swallow everything instead of ending it.
	swallow bool
	// chop is the most that is passed on at once.
	chop int
	// delay is the longest that it is held up.
	delay time.Duration
	// random chooses the sizes and delays.
	random *rand.Rand
}

// undisturbed is the plan of a connection that is left alone.
var undisturbed = plan{cutUp: -1, cutDown: -1, chop: -1}

// A proxy stands before the daemon and disturbs connections as it is told.
type proxy struct {
	addr     string
	daemon   string
	listener net.Listener
	next     func(connection int) plan
	serving  sync.WaitGroup

	mu sync.Mutex
	// count is how many connections there were; guarded by mu, as is what
	// follows.
	count   int
	conns   map[net.Conn]struct{}
	ended   bool
	refuses bool
}

// startProxy starts a proxy before a daemon; next gives the plan of each
// connection, from 0.
func startProxy(t testing.TB, daemon string, next func(connection int) plan) *proxy {
	t.Helper()
	path := shortDir(t) + "/p"
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{
		addr: "unix://" + path, daemon: strings.TrimPrefix(daemon, "unix://"),
		listener: listener, next: next, conns: make(map[net.Conn]struct{}),
	}
	p.serving.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		p.cutAll(true)
		p.serving.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		up, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		n, refuses := p.count, p.refuses
		p.count++
		p.mu.Unlock()
		if refuses {
			_ = up.Close()
			continue
		}
		p.serving.Go(func() { p.serve(up, p.next(n)) })
	}
}

// connections returns how many there were.
func (p *proxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// cutAll ends all connections; with last also those that come.
func (p *proxy) cutAll(last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = p.ended || last
	for conn := range p.conns {
		_ = conn.Close()
	}
}

// refuse makes it end new connections at once, or no longer.
func (p *proxy) refuse(refuses bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = refuses
}

func (p *proxy) add(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		p.conns[conn] = struct{}{}
		if p.ended {
			_ = conn.Close()
		}
	}
}

func (p *proxy) remove(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		delete(p.conns, conn)
		_ = conn.Close()
	}
}

func (p *proxy) serve(client net.Conn, to plan) {
	daemon, err := net.Dial("unix", p.daemon)
	if err != nil {
		_ = client.Close()
		return
	}
	p.add(client, daemon)
	defer p.remove(client, daemon)
	seed := [2]uint64{}
	if to.random != nil {
		seed = [2]uint64{to.random.Uint64(), to.random.Uint64()}
	}
	var copying sync.WaitGroup
	pass := func(dst, src net.Conn, limit int, direction uint64) {
		random := rand.New(rand.NewPCG(seed[0], seed[1]+direction))
		if err := to.pass(dst, src, limit, random); err != nil && to.swallow {
			_, _ = io.Copy(io.Discard, src)
		}
		_ = client.Close()
		_ = daemon.Close()
	}
	copying.Go(func() { pass(daemon, client, to.cutUp, 0) })
	copying.Go(func() { pass(client, daemon, to.cutDown, 1) })
	copying.Wait()
}

// errCut says that a limit was reached.
var errCut = errors.New("cut")

// pass copies up to limit bytes.
func (p *plan) pass(dst io.Writer, src io.Reader, limit int, random *rand.Rand) error {
	buf := make([]byte, 64<<10)
	for {
		if limit == 0 {
			return errCut
		}
		room := len(buf)
		if p.chop > 0 {
			room = 1 + random.IntN(p.chop)
		}
		if limit > 0 {
			room = min(room, limit)
		}
		n, err := src.Read(buf[:room])
		if p.delay > 0 && random.IntN(64) == 0 {
			<-time.After(time.Duration(random.Int64N(int64(p.delay))))
		}
		if _, werr := dst.Write(buf[:n]); werr != nil {
			return werr
		}
		if limit > 0 {
			limit -= n
		}
		if err != nil {
			return err
		}
	}
}
