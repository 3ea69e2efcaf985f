package client

import (
	"context"
	"iter"
	"math"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Forever as a timeout means to wait without end, or until the context ends.
const Forever = time.Duration(math.MaxInt64)

// Create creates a session, with its pipes and its first process if the request
// has them, as a whole or not at all.
func (c *Client) Create(ctx context.Context, req *pipedv1.CreateSessionRequest) (*pipedv1.Session, error) {
	resp, err := c.sessions.CreateSession(ctx, req)
	return resp.GetSession(), fromRPC(err)
}

// Get returns a session by name or uid, with the holders of its ends.
func (c *Client) Get(ctx context.Context, session string) (*pipedv1.Session, error) {
	resp, err := c.sessions.GetSession(ctx, &pipedv1.GetSessionRequest{Session: session})
	return resp.GetSession(), fromRPC(err)
}

// List yields the sessions that the request asks for, without holders, in the
// order of their creation, and asks for page after page. An error is the last
// thing that it yields. The request's page token is where it starts.
func (c *Client) List(ctx context.Context, req *pipedv1.ListSessionsRequest) iter.Seq2[*pipedv1.Session, error] {
	return func(yield func(*pipedv1.Session, error) bool) {
		token := req.GetPageToken()
		for {
			page, err := c.sessions.ListSessions(ctx, &pipedv1.ListSessionsRequest{
				PageSize:   req.GetPageSize(),
				PageToken:  token,
				NamePrefix: req.GetNamePrefix(),
				State:      req.GetState(),
				Labels:     req.GetLabels(),
			})
			if err != nil {
				yield(nil, fromRPC(err))
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
// processes are killed and its pipes closed.
func (c *Client) Delete(ctx context.Context, session string, force bool) error {
	_, err := c.sessions.DeleteSession(ctx, &pipedv1.DeleteSessionRequest{Session: session, Force: force})
	return fromRPC(err)
}

// CreatePipe adds a pipe to a session; the daemon holds both ends.
func (c *Client) CreatePipe(ctx context.Context, req *pipedv1.CreatePipeRequest) (*pipedv1.Pipe, error) {
	resp, err := c.sessions.CreatePipe(ctx, req)
	return resp.GetPipe(), fromRPC(err)
}

// Start starts one more process in a session.
func (c *Client) Start(ctx context.Context, req *pipedv1.StartProcessRequest) (*pipedv1.Process, error) {
	resp, err := c.sessions.StartProcess(ctx, req)
	return resp.GetProcess(), fromRPC(err)
}

// Signal sends a signal, by its name with or without SIG or by its number, to a
// process of a session; the empty process name means the first.
func (c *Client) Signal(ctx context.Context, session, process, signal string) error {
	_, err := c.sessions.SignalProcess(ctx, &pipedv1.SignalProcessRequest{Session: session, Process: process, Signal: signal})
	return fromRPC(err)
}

// Wait waits until a process has exited, or for the timeout, and returns it:
// state EXITED, or RUNNING after the timeout. A timeout of 0 looks once.
func (c *Client) Wait(ctx context.Context, session, process string, timeout time.Duration) (*pipedv1.Process, error) {
	resp, err := c.sessions.WaitProcess(ctx, &pipedv1.WaitProcessRequest{
		Session: session, Process: process, Timeout: timeoutProto(timeout),
	})
	return resp.GetProcess(), fromRPC(err)
}

// Stop ends the processes of a session step by step: it closes their input,
// sends TERM, sends KILL, with a grace period before each next step, and returns
// how they ended.
func (c *Client) Stop(ctx context.Context, req *pipedv1.StopSessionRequest) ([]*pipedv1.Process, error) {
	resp, err := c.sessions.StopSession(ctx, req)
	return resp.GetProcesses(), fromRPC(err)
}

// timeoutProto leaves Forever out, as the contract wants it.
func timeoutProto(timeout time.Duration) *durationpb.Duration {
	if timeout == Forever {
		return nil
	}
	return durationpb.New(timeout)
}
