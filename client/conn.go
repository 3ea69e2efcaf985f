package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// connCloseTimeout bounds how long Conn.Close waits for the daemon's answer.
const connCloseTimeout = 10 * time.Second

// ErrNotRaw is returned for a Conn of an endpoint whose messages have
// boundaries, which a stream of bytes would lose.
var ErrNotRaw = errors.New(`a connection needs the framing "raw"`)

// A Conn is an endpoint in the framing "raw" as a net.Conn. It is the one
// consumer and the one writer of the endpoint while it is open. Its methods are
// safe for concurrent use, and concurrent Writes are not mixed. Errors other
// than io.EOF are *net.OpError; what the daemon said is inside, for errors.Is.
type Conn struct {
	endpoint      *Endpoint
	local, remote ConnAddr
	// partSize is what a Writer takes as a whole or not at all.
	partSize int

	// reader is nil, and noRead says why, where the endpoint cannot be received
	// from; writer likewise.
	reader          *Reader
	writer          *Writer
	noRead, noWrite error
	// cancel ends the streams of both.
	cancel context.CancelFunc

	readDeadline, writeDeadline connDeadline
	// reading and writing hold one value while a call has its turn.
	reading, writing chan struct{}
	// rest is what Read has not returned yet; it belongs to whose turn it is.
	rest Message

	closing  sync.Once
	closeErr error
}

// Conn opens the endpoint as a connection. Where the framing of a direction is
// not "raw" it is refused with ErrNotRaw, and where somebody else receives or
// sends with ErrBusyReader or ErrBusyWriter. An end that only sends or only
// receives gives a Conn whose other direction returns ErrWrongDirection, and a
// direction that has ended returns at once why. ctx governs the opening alone.
// The caller closes the Conn, which closes the endpoint.
func (e *Endpoint) Conn(ctx context.Context) (*Conn, error) {
	limits, err := e.client.Limits(ctx)
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	local := e.ref
	local.End = max(local.End, 1)
	remote := local
	remote.End = 3 - local.End
	c := &Conn{
		endpoint: e,
		local:    ConnAddr{Ref: local},
		remote:   ConnAddr{Ref: remote},
		partSize: int(limits.GetPartSize()),
		cancel:   cancel,
		reading:  make(chan struct{}, 1),
		writing:  make(chan struct{}, 1),
	}
	err = c.open(life)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		// In good order, so that no lease is left behind.
		ctx, stop := context.WithTimeout(life, connCloseTimeout)
		defer stop()
		c.detach(ctx)
		return nil, err
	}
	return c, nil
}

// open opens the streams. They end with ctx.
func (c *Conn) open(ctx context.Context) error {
	c.reader, c.noRead = c.endpoint.NewReader(ctx, ReaderOptions{})
	if c.noRead != nil && !isWithoutDirection(c.noRead) {
		return c.noRead
	}
	c.writer, c.noWrite = c.endpoint.NewWriter(ctx, WriterOptions{})
	if c.noWrite != nil && !isWithoutDirection(c.noWrite) {
		return c.noWrite
	}
	switch {
	case c.noRead != nil && c.noWrite != nil:
		return c.noRead
	case c.noRead == nil && !c.reader.Raw():
		return fmt.Errorf("what comes out of %v has messages: %w", c.local, ErrNotRaw)
	case c.noWrite == nil && !c.writer.Raw():
		return fmt.Errorf("what is sent into %v has messages: %w", c.local, ErrNotRaw)
	default:
		return nil
	}
}

// isWithoutDirection says whether only one direction of the endpoint was
// refused, because it is not there or has ended.
func isWithoutDirection(err error) bool {
	return errors.Is(err, ErrWrongDirection) || errors.Is(err, ErrBrokenPipe) || errors.Is(err, ErrEndpointClosed)
}

// Read returns the next bytes, at most len(b), and acknowledges what it returns:
// the daemon then frees it. After the last byte comes io.EOF; bytes that were
// dropped by policy are a *GapError, behind which the next Read goes on.
func (c *Conn) Read(b []byte) (int, error) {
	if c.noRead != nil {
		return 0, c.opError("read", c.noRead)
	}
	ctx, call, err := c.readDeadline.begin()
	if err != nil {
		return 0, c.opError("read", err)
	}
	defer call.end()
	n, err := c.read(ctx, b)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		return n, c.ended()
	default:
		return n, c.opError("read", released(ctx, err))
	}
}

func (c *Conn) read(ctx context.Context, b []byte) (int, error) {
	select {
	case c.reading <- struct{}{}:
		defer func() { <-c.reading }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if len(b) == 0 {
		return 0, nil
	}
	for len(c.rest.Data) == 0 {
		m, err := c.reader.NextPart(ctx)
		if err != nil {
			return 0, err
		}
		c.rest = m
	}
	n := copy(b, c.rest.Data)
	c.rest.Data = c.rest.Data[n:]
	// Every byte is a message.
	c.rest.Position.Message += uint64(n)
	// Why it could not be acknowledged, the next Read or nobody wants to know.
	_ = c.reader.Ack(c.rest.Position)
	return n, nil
}

// ended is what Read returns after the last byte. Only what the other side did
// is an ordinary end.
func (c *Conn) ended() error {
	switch end := c.reader.End(); end.GetCause() {
	case pipedv1.EndCause_END_CAUSE_ENDPOINT_CLOSED:
		return c.opError("read", ErrEndpointClosed)
	case pipedv1.EndCause_END_CAUSE_SESSION_LOST:
		return c.opError("read", fmt.Errorf("the session was lost: %w", io.ErrUnexpectedEOF))
	default:
		return io.EOF
	}
}

// Write returns when the daemon has all of b and will hand it over, also if this
// program ends. When the deadline comes first, the count says how much goes out
// anyway; if that is all of b, the error only says that it is not certain yet.
func (c *Conn) Write(b []byte) (int, error) {
	if c.noWrite != nil {
		return 0, c.opError("write", c.noWrite)
	}
	ctx, call, err := c.writeDeadline.begin()
	if err != nil {
		return 0, c.opError("write", err)
	}
	defer call.end()
	n, err := c.line(ctx, b)
	if err == nil && len(b) > 0 {
		err = c.writer.Flush(ctx)
	}
	if err != nil {
		return n, c.opError("write", released(ctx, err))
	}
	return n, nil
}

// line puts b in line and returns how much of it is there. Only this part of a
// Write keeps others waiting.
func (c *Conn) line(ctx context.Context, b []byte) (n int, err error) {
	select {
	case c.writing <- struct{}{}:
		defer func() { <-c.writing }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for n < len(b) {
		part := b[n:min(n+c.partSize, len(b))]
		if err := c.writer.Send(ctx, part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// CloseWrite closes the sending direction alone, after what was written: the
// other side reads end of file, and what it sends can still be read.
func (c *Conn) CloseWrite() error {
	if c.noWrite != nil {
		return c.opError("close", c.noWrite)
	}
	ctx, call, err := c.writeDeadline.begin()
	if err != nil {
		return c.opError("close", err)
	}
	defer call.end()
	err = c.writer.Close(ctx)
	if err == nil {
		err = c.endpoint.CloseSend(ctx)
	}
	if err != nil {
		return c.opError("close", released(ctx, err))
	}
	return nil
}

// Close closes the endpoint in the daemon and releases everyone who waits in
// this Conn, with net.ErrClosed. It does not wait for the other side: what Write
// returned without an error is handed over by the daemon before the end closes,
// while what a Write with an error left in line, and what was not read, is
// dropped. A repeated Close returns the same.
func (c *Conn) Close() error {
	c.closing.Do(func() {
		c.readDeadline.close()
		c.writeDeadline.close()
		ctx, cancel := context.WithTimeout(context.Background(), connCloseTimeout)
		defer cancel()
		if _, err := c.endpoint.Close(ctx, CloseOptions{}); err != nil {
			c.closeErr = c.opError("close", err)
		}
		// What is not acknowledged by now never will be.
		c.cancel()
		c.detach(ctx)
	})
	return c.closeErr
}

// detach ends the streams and leaves the endpoint as it is.
func (c *Conn) detach(ctx context.Context) {
	defer c.cancel()
	// Those that were cut say so.
	if c.reader != nil {
		_ = c.reader.Close(ctx)
	}
	if c.writer != nil {
		_ = c.writer.Close(ctx)
	}
}

// LocalAddr returns the address of the endpoint.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address of the other end of the pipe, whoever holds it.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets the deadlines of reading and writing, also for calls that
// wait. The zero time means none.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline sets when Read returns os.ErrDeadlineExceeded. Nothing is lost
// by that.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if err := c.readDeadline.set(t); err != nil {
		return c.opError("set", err)
	}
	return nil
}

// SetWriteDeadline sets when Write and CloseWrite return
// os.ErrDeadlineExceeded. After it a CloseWrite has cut the direction off.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if err := c.writeDeadline.set(t); err != nil {
		return c.opError("set", err)
	}
	return nil
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: ConnNetwork, Source: c.local, Addr: c.remote, Err: err}
}

// released returns why a call ended: what released it, or the error it met.
func released(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, ErrClosed):
		return net.ErrClosed
	default:
		return err
	}
}
