package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// assumedStreams is how many calls a connection is taken to carry before the
	// daemon has said it.
	assumedStreams = 100
	// maxReserved is how many calls of a connection are kept for unary calls, at
	// most; of small limits it is a quarter.
	maxReserved = 16
	// connIdle is how long a further connection is kept without a call.
	connIdle = 10 * time.Second
)

// errClientClosed ends what is begun, or would come back, after Client.Close.
var errClientClosed = errors.New("the client is closed")

// A pool is the connections to one daemon. Each call goes to the first
// connection that has room for it, and a further one is made when none has. It
// is what the generated clients call.
type pool struct {
	dial func() (*grpc.ClientConn, error)
	idle time.Duration

	mu sync.Mutex
	// limit is how many calls one connection carries; guarded by mu, as is what
	// follows.
	limit int
	// members are never none; the first is not closed for being idle.
	members []*member
	closed  bool
}

// A member is one connection of a pool.
type member struct {
	conn *grpc.ClientConn
	// calls are those on it now.
	calls int
	// retire closes it after a while without calls.
	retire *time.Timer
}

func newPool(dial func() (*grpc.ClientConn, error)) (*pool, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	return &pool{dial: dial, idle: connIdle, limit: assumedStreams, members: []*member{{conn: conn}}}, nil
}

// first is the connection that the pool always has.
func (p *pool) first() *grpc.ClientConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.members[0].conn
}

// current is first, until the pool is closed.
func (p *pool) current() (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClientClosed
	}
	return p.members[0].conn, nil
}

// setLimit says how many calls the daemon allows on one connection.
func (p *pool) setLimit(calls uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if calls > 0 {
		p.limit = int(calls)
	}
}

// Invoke makes a unary call.
func (p *pool) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	m, err := p.take(false)
	if err != nil {
		return err
	}
	defer p.release(m)
	err = m.conn.Invoke(ctx, method, args, reply, opts...)
	if status.Code(err) == codes.Canceled && ctx.Err() == nil {
		// The connection was given up, not the call.
		err = status.Error(codes.Unavailable, "the connection was lost")
	}
	return err
}

// placeKey is the key of a *place in a context.
type placeKey struct{}

// A place says on which connection a stream was opened.
type place struct{ member *member }

// withPlace returns a context for one stream, and what will say where it is.
func withPlace(ctx context.Context) (context.Context, *place) {
	at := &place{}
	return context.WithValue(ctx, placeKey{}, at), at
}

// distrust gives up a connection on which a stream fell silent: whoever answers
// its pings is not the daemon. Its streams come back on another.
func (p *pool) distrust(at *place) {
	p.mu.Lock()
	i := slices.Index(p.members, at.member)
	if i < 0 || p.closed {
		p.mu.Unlock()
		return
	}
	conn, err := p.dial()
	if err != nil {
		p.mu.Unlock()
		return
	}
	p.members[i] = &member{conn: conn}
	p.mu.Unlock()
	// Outside the lock: the calls that end by it give their places back.
	_ = at.member.conn.Close()
}

// NewStream opens a stream. Its place is free again when the stream has ended.
func (p *pool) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	m, err := p.take(true)
	if err != nil {
		return nil, err
	}
	if at, ok := ctx.Value(placeKey{}).(*place); ok {
		at.member = m
	}
	release := sync.OnceFunc(func() { p.release(m) })
	stream, err := m.conn.NewStream(ctx, desc, method, append(slices.Clone(opts), grpc.OnFinish(func(error) { release() }))...)
	if err != nil {
		release()
	}
	return stream, err
}

// take finds a connection with room for one more call. Streams leave some room
// for unary calls, which would otherwise wait for the end of a stream.
func (p *pool) take(stream bool) (*member, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClientClosed
	}
	limit := p.limit
	if stream {
		limit = max(limit-min(maxReserved, limit/4), 1)
	}
	i := slices.IndexFunc(p.members, func(m *member) bool { return m.calls < limit })
	if i < 0 {
		conn, err := p.dial()
		if err != nil {
			return nil, err
		}
		p.members, i = append(p.members, &member{conn: conn}), len(p.members)
	}
	m := p.members[i]
	m.calls++
	if m.retire != nil {
		m.retire.Stop()
		m.retire = nil
	}
	return m, nil
}

func (p *pool) release(m *member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.calls--
	if i := slices.Index(p.members, m); m.calls == 0 && i > 0 && !p.closed {
		m.retire = time.AfterFunc(p.idle, func() { p.drop(m) })
	}
}

// drop closes a connection that is still without calls.
func (p *pool) drop(m *member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.members, m)
	if m.calls > 0 || p.closed || i < 0 {
		return
	}
	p.members = slices.Delete(p.members, i, i+1)
	_ = m.conn.Close()
}

// size returns how many connections there are.
func (p *pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.members)
}

// close ends all connections and the calls on them.
func (p *pool) close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return errClientClosed
	}
	p.closed = true
	members := p.members
	for _, m := range members {
		if m.retire != nil {
			m.retire.Stop()
		}
	}
	p.mu.Unlock()
	// Outside the lock: the calls that end by it give their places back.
	var first error
	for _, m := range members {
		if err := m.conn.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}
