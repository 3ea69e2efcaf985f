package client

import (
	"context"
	"crypto/rand"
	"errors"
	"iter"
	"math"
	"strings"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Forever as a timeout means to wait without end, or until the context ends.
const Forever = time.Duration(math.MaxInt64)

// Create creates a session, with its pipes and its first process if the request
// has them, as a whole or not at all. For one with a lease see CreateBound. A request without a request_id gets one, so
// that it can be repeated.
func (c *Client) Create(ctx context.Context, req *pipedv1.CreateSessionRequest) (*pipedv1.Session, error) {
	resp, err := c.create(ctx, req)
	return resp.GetSession(), err
}

func (c *Client) create(ctx context.Context, req *pipedv1.CreateSessionRequest) (*pipedv1.CreateSessionResponse, error) {
	if req.GetRequestId() == "" {
		req = proto.CloneOf(req)
		req.RequestId = rand.Text()
	}
	return look(ctx, c, c.sessions.CreateSession, req)
}

// Get returns a session by name or uid.
func (c *Client) Get(ctx context.Context, session string) (*pipedv1.Session, error) {
	return c.getSession(ctx, &pipedv1.GetSessionRequest{Session: session})
}

// Inspect is Get with what the session uses and the holders of its ends, for which the daemon looks
// at every descriptor of every process.
func (c *Client) Inspect(ctx context.Context, session string) (*pipedv1.Session, error) {
	return c.getSession(ctx, &pipedv1.GetSessionRequest{Session: session, Holders: true, Usage: true})
}

func (c *Client) getSession(ctx context.Context, req *pipedv1.GetSessionRequest) (*pipedv1.Session, error) {
	resp, err := look(ctx, c, c.sessions.GetSession, req)
	return resp.GetSession(), err
}

// List yields the sessions that the request asks for, without holders, in the
// order of their creation, and asks for page after page. An error is the last
// thing that it yields. The request's page token is where it starts.
func (c *Client) List(ctx context.Context, req *pipedv1.ListSessionsRequest) iter.Seq2[*pipedv1.Session, error] {
	return func(yield func(*pipedv1.Session, error) bool) {
		token := req.GetPageToken()
		for {
			page, err := look(ctx, c, c.sessions.ListSessions, &pipedv1.ListSessionsRequest{
				PageSize:   req.GetPageSize(),
				PageToken:  token,
				NamePrefix: req.GetNamePrefix(),
				State:      req.GetState(),
				Labels:     req.GetLabels(),
			})
			if err != nil {
				yield(nil, err)
				return
			}
			for _, session := range page.GetSessions() {
				if !yield(session, nil) {
					return
				}
			}
			if token = page.GetNextPageToken(); token == "" {
				return
			}
		}
	}
}

// Delete removes an ended session; with force also one that has not ended: its
// processes are killed and its pipes closed. By name it is not repeated when the
// connection is lost, because the name could be another session's by then; by uid
// it is.
func (c *Client) Delete(ctx context.Context, session string, force bool) error {
	how := &asking{once: !isUID(session)}
	_, err := ask(ctx, c, how, c.sessions.DeleteSession, &pipedv1.DeleteSessionRequest{Session: session, Force: force})
	if how.cut && errors.Is(err, ErrSessionNotFound) {
		return nil // it was an earlier attempt that removed it
	}
	return err
}

// isUID says whether a reference to a session is a uid.
func isUID(session string) bool {
	if len(session) != 36 {
		return false
	}
	for i, c := range []byte(session) {
		hyphen := i == 8 || i == 13 || i == 18 || i == 23
		if hyphen != (c == '-') || !hyphen && !strings.ContainsRune("0123456789abcdef", rune(c)) {
			return false
		}
	}
	return true
}

// CreatePipe adds a pipe to a session; the daemon holds both ends. For its
// request_id see Create.
func (c *Client) CreatePipe(ctx context.Context, req *pipedv1.CreatePipeRequest) (*pipedv1.Pipe, error) {
	if req.GetRequestId() == "" {
		req = proto.CloneOf(req)
		req.RequestId = rand.Text()
	}
	resp, err := look(ctx, c, c.sessions.CreatePipe, req)
	return resp.GetPipe(), err
}

// Start starts one more process in a session. For its request_id see Create.
func (c *Client) Start(ctx context.Context, req *pipedv1.StartProcessRequest) (*pipedv1.Process, error) {
	if req.GetRequestId() == "" {
		req = proto.CloneOf(req)
		req.RequestId = rand.Text()
	}
	resp, err := look(ctx, c, c.sessions.StartProcess, req)
	return resp.GetProcess(), err
}

// Signal sends a signal, by its name with or without SIG or by its number, to a
// process of a session; the empty process name means the first. It is never sent
// twice: after an error that matches ErrUnavailable or ErrSignalUncertain it may
// have been sent.
func (c *Client) Signal(ctx context.Context, session, process, signal string) error {
	req := &pipedv1.SignalProcessRequest{Session: session, Process: process, Signal: signal}
	_, err := ask(ctx, c, &asking{once: true}, c.sessions.SignalProcess, req)
	return err
}

// Resize gives the terminal of a process another size; the empty process name means
// the first.
func (c *Client) Resize(ctx context.Context, session, process string, size *pipedv1.TerminalSize) error {
	return c.ResizeTerminal(ctx, &pipedv1.ResizeTerminalRequest{Session: session, Process: process, Size: size})
}

// ResizeTerminal is Resize of a terminal that is named by its process or its pipe.
func (c *Client) ResizeTerminal(ctx context.Context, req *pipedv1.ResizeTerminalRequest) error {
	_, err := look(ctx, c, c.sessions.ResizeTerminal, req)
	return err
}

// Wait waits until a process has exited and is not started again, or for the
// timeout, and returns it: state EXITED, or RUNNING or BACKOFF after the timeout. A
// timeout of 0 looks once.
func (c *Client) Wait(ctx context.Context, session, process string, timeout time.Duration) (*pipedv1.Process, error) {
	req := &pipedv1.WaitProcessRequest{Session: session, Process: process}
	resp, err := ask(ctx, c, untilTimeout(timeout, &req.Timeout), c.sessions.WaitProcess, req)
	return resp.GetProcess(), err
}

// WaitIncarnation waits until an incarnation of a process, counted from 1, has
// exited, or for the timeout, and returns it, whatever follows.
func (c *Client) WaitIncarnation(ctx context.Context, session, process string, incarnation uint64, timeout time.Duration) (*pipedv1.Process, error) {
	req := &pipedv1.WaitProcessRequest{Session: session, Process: process, Incarnation: incarnation}
	resp, err := ask(ctx, c, untilTimeout(timeout, &req.Timeout), c.sessions.WaitProcess, req)
	return resp.GetProcess(), err
}

// Restart starts a process anew and returns the new incarnation; one that runs is
// stopped first, as StopProcess does. It goes on in the daemon, and in the one after
// it, when ctx ends. For its request_id see Create.
func (c *Client) Restart(ctx context.Context, req *pipedv1.RestartProcessRequest) (*pipedv1.Process, error) {
	if req.GetRequestId() == "" {
		req = proto.CloneOf(req)
		req.RequestId = rand.Text()
	}
	resp, err := ask(ctx, c, &asking{waits: true}, c.sessions.RestartProcess, req)
	return resp.GetProcess(), err
}

// StopProcess ends a process step by step, as its policy and that of the request
// say: its input is closed, TERM is sent, KILL is sent, with a grace period before
// each next step. It returns the process when it has exited or no step is left, or
// after the request's timeout; the steps go on then, as they do when the daemon is
// started again meanwhile.
func (c *Client) StopProcess(ctx context.Context, req *pipedv1.StopProcessRequest) (*pipedv1.Process, error) {
	how := &asking{waits: true}
	if req.Timeout != nil {
		req = proto.CloneOf(req)
		how = untilTimeout(req.GetTimeout().AsDuration(), &req.Timeout)
	}
	resp, err := ask(ctx, c, how, c.sessions.StopProcess, req)
	return resp.GetProcess(), err
}

// Stop is StopProcess for all processes of a session at once, and returns how they
// ended.
func (c *Client) Stop(ctx context.Context, req *pipedv1.StopSessionRequest) ([]*pipedv1.Process, error) {
	resp, err := ask(ctx, c, &asking{waits: true}, c.sessions.StopSession, req)
	return resp.GetProcesses(), err
}

// untilTimeout asks with a timeout in the field of a request, and with what is left
// of it when it asks again. Forever is left out, as the contract wants it.
func untilTimeout(timeout time.Duration, field **durationpb.Duration) *asking {
	if timeout == Forever {
		return &asking{waits: true}
	}
	until := time.Now().Add(timeout)
	*field = durationpb.New(timeout)
	return &asking{waits: true, again: func() { *field = durationpb.New(max(time.Until(until), 0)) }}
}
