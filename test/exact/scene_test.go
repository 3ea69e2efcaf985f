package exact

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A scene is everything that a daemon can be made to do, over and over: so that
// it comes to each instant at which it may be killed.
type scene struct {
	row      *row
	stop     chan struct{}
	stopping sync.Once
	workers  sync.WaitGroup
}

// plays are what a scene consists of. Each is about a session of its own, which
// is deleted afterwards.
var plays = []func(ctx context.Context, c *client.Client, name string) error{playBroken, playDrops, playPipes, playParts, playEnds, playRecords, playSocket,
	playRestarts, playTerminal}

// newScene begins a scene. end ends it.
func (r *row) newScene() *scene {
	r.t.Helper()
	s := &scene{row: r, stop: make(chan struct{})}
	ctx, cancel := r.ctx()
	defer cancel()
	for i, play := range plays {
		c, err := client.Dial(ctx, r.d.Addr)
		if err != nil {
			r.t.Fatalf("dial: %v", err)
		}
		s.workers.Go(func() {
			defer func() { _ = c.Close() }()
			for n := 0; ; n++ {
				select {
				case <-s.stop:
					return
				default:
				}
				if r.t.Context().Err() != nil {
					return
				}
				if err := s.perform(c, play, fmt.Sprintf("play-%d-%d", i, n)); err != nil && !excused(err) && r.t.Context().Err() == nil {
					r.t.Errorf("play %d: %v", i, err)
				}
			}
		})
	}
	r.t.Cleanup(s.end)
	return s
}

// end may be called again.
func (s *scene) end() {
	s.stopping.Do(func() { close(s.stop) })
	s.workers.Wait()
}

func (s *scene) perform(c *client.Client, play func(context.Context, *client.Client, string) error, name string) error {
	ctx, cancel := context.WithTimeout(s.row.t.Context(), patience)
	defer cancel()
	err := play(ctx, c, name)
	for {
		gone := remove(ctx, c, name)
		if gone == nil || errors.Is(gone, client.ErrSessionNotFound) {
			return err
		}
		if ctx.Err() != nil || !excused(gone) {
			return errors.Join(err, gone)
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// remove deletes a session, also one that was lost.
func remove(ctx context.Context, c *client.Client, name string) error {
	s, err := c.Get(ctx, name)
	switch {
	case whyLost(err) != "":
		return c.Delete(ctx, name, true)
	case err != nil:
		return err
	}
	return c.Delete(ctx, s.GetUid(), true)
}

// excused says that an error is what such a call is told when the daemon, its
// keeper, or what forks for it dies in the middle, or that the play wanted it.
func excused(err error) bool {
	for _, reason := range []error{
		client.ErrBrokenPipe, client.ErrEndpointClosed, client.ErrEndpointSealed, client.ErrSessionNotFound, client.ErrSessionLost, client.ErrSpawnFailed,
		client.ErrProcessExited, client.ErrProcessExists, client.ErrPipeExists, client.ErrSignalUncertain, client.ErrKeeperAway,
		client.ErrDescriptorLimit, client.ErrLogSpace, client.ErrUnavailable, client.ErrFenced, client.ErrUnfinishedMessage, client.ErrSessionExists, client.ErrStartUncertain,
		client.ErrIncarnationNotFound, client.ErrRestarting,
	} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

func script(name, text string, stderr pipedv1.StdioMode) *pipedv1.CreateSessionRequest {
	return &pipedv1.CreateSessionRequest{Name: name, Process: &pipedv1.ProcessSpec{Args: []string{"sh", "-c", text}, Stderr: stderr}}
}

// playBroken has a child that ends with input that it has not read.
func playBroken(ctx context.Context, c *client.Client, name string) error {
	req := script(name, "head -c 1 >/dev/null; echo bye >&2; exit 3", pipedv1.StdioMode_STDIO_MODE_PIPE)
	if _, err := c.Create(ctx, req); err != nil {
		return err
	}
	e := c.Endpoint(client.Ref{Session: name})
	var err error
	for range 20 {
		if err = e.Send(ctx, make([]byte, 10_000)); err != nil {
			break
		}
	}
	if err != nil && !errors.Is(err, client.ErrBrokenPipe) {
		return err // the child may wait for what was not sent
	}
	_, werr := c.Wait(ctx, name, "", patience)
	return errors.Join(err, werr)
}

// playDrops has a child whose output nobody reads, and drops the oldest.
func playDrops(ctx context.Context, c *client.Client, name string) error {
	req := script(name, "yes | head -c 300000", pipedv1.StdioMode_STDIO_MODE_NULL)
	req.Process.StdioPipe = &pipedv1.PipeSpec{Log: &pipedv1.LogSpec{Size: 16 << 10, Overflow: pipedv1.LogSpec_OVERFLOW_DROP_OLDEST}}
	if _, err := c.Create(ctx, req); err != nil {
		return err
	}
	_, err := c.Wait(ctx, name, "", patience)
	return err
}

// playPipes makes more pipes than there was room for, and closes them in all
// ways.
func playPipes(ctx context.Context, c *client.Client, name string) error {
	first := &pipedv1.PipeSpec{Name: "first"}
	if _, err := c.Create(ctx, &pipedv1.CreateSessionRequest{Name: name, Pipes: []*pipedv1.PipeSpec{first}}); err != nil {
		return err
	}
	for i := range 20 {
		pipe := fmt.Sprintf("p%d", i)
		if _, err := c.CreatePipe(ctx, &pipedv1.CreatePipeRequest{Session: name, Pipe: &pipedv1.PipeSpec{Name: pipe}}); err != nil {
			return err
		}
		if i%5 != 0 {
			continue
		}
		e := c.Endpoint(client.Ref{Session: name, Pipe: pipe, End: 1})
		for range 10 {
			sending, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			err := e.Send(sending, make([]byte, 30_000))
			cancel()
			if err != nil {
				break // it is full
			}
		}
		if _, err := e.Close(ctx, client.CloseOptions{Discard: i%2 == 0, SendOnly: i == 5}); err != nil {
			return err
		}
	}
	return nil
}

// playParts sends messages in parts to a child that sends them back, with its
// errors, and signals it.
func playParts(ctx context.Context, c *client.Client, name string) error {
	req := script(name, "tee /dev/stderr", pipedv1.StdioMode_STDIO_MODE_PIPE)
	req.Process.StdioPipe = &pipedv1.PipeSpec{FramingIn: &pipedv1.Framing{Name: "mp"}}
	if _, err := c.Create(ctx, req); err != nil {
		return err
	}
	e := c.Endpoint(client.Ref{Session: name})
	w, err := e.NewWriter(ctx, client.WriterOptions{})
	if err != nil {
		return err
	}
	rd, err := e.NewReader(ctx, client.ReaderOptions{})
	if err != nil {
		return errors.Join(err, w.Close(ctx))
	}
	for range 3 {
		if err = w.Send(ctx, make([]byte, 150_000)); err != nil {
			break
		}
		var m client.Message
		if m, err = rd.Next(ctx); err != nil {
			break
		}
		if err = rd.Ack(m.After); err != nil {
			break
		}
	}
	err = errors.Join(err, w.Close(ctx), rd.Close(ctx), c.Signal(ctx, name, "", "TERM"))
	if err != nil && !errors.Is(err, client.ErrBrokenPipe) {
		return err // the child may wait for what was not sent
	}
	_, werr := c.Wait(ctx, name, "", patience)
	return errors.Join(err, werr)
}

// playEnds leaves an ended session with output, and input, that nobody has read.
func playEnds(ctx context.Context, c *client.Client, name string) error {
	req := script(name, "echo one; echo two >&2; exit 7", pipedv1.StdioMode_STDIO_MODE_PIPE)
	if _, err := c.Create(ctx, req); err != nil {
		return err
	}
	e := c.Endpoint(client.Ref{Session: name})
	err := e.Send(ctx, []byte("unread"))
	if err != nil && !errors.Is(err, client.ErrBrokenPipe) {
		return err // the child may wait for what was not sent
	}
	_, werr := c.Wait(ctx, name, "", patience)
	return errors.Join(err, werr)
}

// playRecords changes what is kept of a session so often that it is written anew.
func playRecords(ctx context.Context, c *client.Client, name string) error {
	if _, err := c.Create(ctx, &pipedv1.CreateSessionRequest{Name: name, Pipes: []*pipedv1.PipeSpec{{Name: "pipe"}}}); err != nil {
		return err
	}
	e := c.Endpoint(client.Ref{Session: name, Pipe: "pipe", End: 1})
	for i := range 150 {
		l, err := e.AcquireLease(ctx, client.LeaseOptions{Role: pipedv1.LeaseRole_LEASE_ROLE_WRITER, Holder: fmt.Sprintf("%0120d", i), Steal: true})
		if err != nil {
			return err
		}
		if i%50 == 0 {
			if err := l.Release(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// playSocket has a child that talks over a socket and leaves input in it unread.
func playSocket(ctx context.Context, c *client.Client, name string) error {
	req := script(name, "head -c 1 <&3 >&3; exit 4", pipedv1.StdioMode_STDIO_MODE_NULL)
	req.Pipes = []*pipedv1.PipeSpec{{Name: "socket"}}
	req.Process.Inherits = []*pipedv1.Inherit{{Pipe: "socket", End: 2, Fd: 3, HandOver: true}}
	if _, err := c.Create(ctx, req); err != nil {
		return err
	}
	e := c.Endpoint(client.Ref{Session: name, Pipe: "socket", End: 1})
	var err error
	// All of it goes to the kernel, or too much.
	for range 1 + 19*int(name[len(name)-1]%2) {
		if err = e.Send(ctx, make([]byte, 10_000)); err != nil {
			break
		}
	}
	if err != nil && !errors.Is(err, client.ErrBrokenPipe) {
		return err // the child may wait for what was not sent
	}
	_, werr := c.Wait(ctx, name, "", patience)
	return errors.Join(err, werr)
}
