package client

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
)

// errSilent says that somebody listens at an address and does not speak.
var errSilent = errors.New("it took the connection and did not answer")

// A meeting is what the dialer of a Client met last.
type meeting struct {
	mu sync.Mutex
	// dialed says that err is the outcome of a dial; guarded by mu, as is what
	// follows.
	dialed bool
	err    error
	// parted says that the other side ended a connection.
	parted bool
}

// dial connects to the socket of an address.
func (m *meeting) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := dialSocket(ctx, addr)
	m.mu.Lock()
	if !m.dialed || ctx.Err() == nil { // a dial that was given up tells nothing
		m.dialed, m.err = true, err
	}
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return &metConn{Conn: conn, meeting: m}, nil
}

// reason returns why there is no connection; otherwise is for when nothing was
// met.
func (m *meeting) reason(otherwise error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.err != nil:
		return m.err
	case m.parted:
		return ErrRefused
	case m.dialed:
		return errSilent
	default:
		return otherwise
	}
}

// A metConn tells a meeting when the other side ends the connection.
type metConn struct {
	net.Conn
	meeting *meeting
}

// Read reads from the connection.
func (c *metConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.look(err)
	return n, err
}

// Write writes to the connection.
func (c *metConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.look(err)
	return n, err
}

func (c *metConn) look(err error) {
	if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	c.meeting.mu.Lock()
	defer c.meeting.mu.Unlock()
	c.meeting.parted = true
}
