package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
)

// PeerInfo says who is at the other end of a unix socket: the AuthInfo of the
// gRPC peer. The kernel took it when the peer connected.
type PeerInfo struct {
	credentials.CommonAuthInfo
	// UID and GID are the effective user and group of the peer.
	UID, GID uint32
	// PID is the process id of the peer. It is information only: by now the
	// number may belong to another process.
	PID int32
}

// AuthType implements [credentials.AuthInfo].
func (PeerInfo) AuthType() string { return "peercred" }

// errPeerRefused ends the connection of a user that may not use the daemon.
var errPeerRefused = errors.New("user not allowed")

// peerCredentials admits connections on unix sockets whose peer is uid or
// root. It exchanges no bytes, so a client needs no credentials.
type peerCredentials struct {
	uid uint32
	log *slog.Logger
}

var _ credentials.TransportCredentials = (*peerCredentials)(nil)

// ServerHandshake asks the kernel who connected, and refuses strangers.
func (c *peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info, err := peerOf(conn)
	if err != nil {
		c.log.Warn("connection refused", "error", err)
		return nil, nil, err
	}
	if info.UID != c.uid && info.UID != 0 {
		c.log.Warn("connection refused", "error", errPeerRefused, "uid", info.UID, "pid", info.PID)
		return nil, nil, errPeerRefused
	}
	return conn, info, nil
}

// peerOf reads SO_PEERCRED.
func peerOf(conn net.Conn) (PeerInfo, error) {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return PeerInfo{}, fmt.Errorf("a %T has no peer credentials", conn)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return PeerInfo{}, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return PeerInfo{}, fmt.Errorf("peer credentials: %w", err)
	}
	return PeerInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		UID:            cred.Uid,
		GID:            cred.Gid,
		PID:            cred.Pid,
	}, nil
}

// ClientHandshake refuses: these credentials are for servers.
func (c *peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peer credentials are for servers")
}

// Info implements [credentials.TransportCredentials].
func (c *peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peercred"}
}

// Clone implements [credentials.TransportCredentials].
func (c *peerCredentials) Clone() credentials.TransportCredentials {
	clone := *c
	return &clone
}

// OverrideServerName implements [credentials.TransportCredentials]; a socket
// has no server name.
func (c *peerCredentials) OverrideServerName(string) error { return nil }

// connections counts the connections of all listeners, and can close those
// that are open.
type connections struct {
	mu       sync.Mutex // guards what follows
	open     map[*trackedConn]struct{}
	accepted uint64
}

func newConnections() *connections {
	return &connections{open: make(map[*trackedConn]struct{})}
}

// count returns how many are open now, and how many were accepted so far.
func (c *connections) count() (open int, accepted uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open), c.accepted
}

// closeAll closes every open connection. gRPC cannot stop while one of them
// has not said anything yet; this releases it.
func (c *connections) closeAll() {
	c.mu.Lock()
	var all []*trackedConn
	for conn := range c.open {
		all = append(all, conn)
	}
	c.mu.Unlock()
	for _, conn := range all {
		_ = conn.Close() // it is thrown away
	}
}

// trackedListener enters each unix connection that it accepts in conns.
type trackedListener struct {
	net.Listener
	conns *connections
}

func (l trackedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a %T is no connection of a unix socket", conn), conn.Close())
	}
	tracked := &trackedConn{UnixConn: socket, conns: l.conns}
	l.conns.mu.Lock()
	l.conns.open[tracked] = struct{}{}
	l.conns.accepted++
	l.conns.mu.Unlock()
	return tracked, nil
}

// trackedConn leaves the set when it is closed.
type trackedConn struct {
	*net.UnixConn
	conns *connections
}

func (c *trackedConn) Close() error {
	c.conns.mu.Lock()
	delete(c.conns.open, c)
	c.conns.mu.Unlock()
	return c.UnixConn.Close()
}
