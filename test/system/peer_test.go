package system

import (
	"context"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A peer is one connection to a daemon, with the generated clients on it.
type peer struct {
	t        *testing.T
	conn     *grpc.ClientConn
	sessions pipedv1.SessionServiceClient
	pipes    pipedv1.PipeServiceClient
	server   pipedv1.ServerServiceClient
	ctx      func() context.Context
}

// newPeer makes a peer for a test, the calls of which fail when its patience
// ends.
func newPeer(t *testing.T, conn *grpc.ClientConn) *peer {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	return &peer{t: t, conn: conn, sessions: pipedv1.NewSessionServiceClient(conn), pipes: pipedv1.NewPipeServiceClient(conn),
		server: pipedv1.NewServerServiceClient(conn), ctx: func() context.Context { return ctx }}
}

// at names an endpoint.
func at(session, pipe string, end uint32) *pipedv1.EndpointRef {
	return &pipedv1.EndpointRef{Session: session, Pipe: pipe, End: end}
}

// framed is a pipe with one framing both ways.
func framed(name, framing string) *pipedv1.PipeSpec {
	return &pipedv1.PipeSpec{Name: name, FramingIn: &pipedv1.Framing{Name: framing}}
}

// sh is a process that runs a script.
func sh(script string, inherits ...*pipedv1.Inherit) *pipedv1.ProcessSpec {
	return &pipedv1.ProcessSpec{Args: []string{"/bin/sh", "-c", script}, Inherits: inherits}
}

// quiet takes the standard streams from a process.
func quiet(p *pipedv1.ProcessSpec) *pipedv1.ProcessSpec {
	p.Stdin, p.Stdout, p.Stderr = pipedv1.StdioMode_STDIO_MODE_NULL, pipedv1.StdioMode_STDIO_MODE_NULL, pipedv1.StdioMode_STDIO_MODE_NULL
	return p
}

// stdio gives the standard streams of a process a framing.
func stdio(p *pipedv1.ProcessSpec, framing string) *pipedv1.ProcessSpec {
	p.StdioPipe = framed("", framing)
	return p
}

// gives is the handing over of an end of the pipe "pipe" at descriptor fd.
func gives(end uint32, fd int32) *pipedv1.Inherit {
	return &pipedv1.Inherit{Pipe: "pipe", End: end, Fd: fd, HandOver: true}
}

// copies is as gives, but the daemon keeps its copy.
func copies(end uint32, fd int32) *pipedv1.Inherit {
	return &pipedv1.Inherit{Pipe: "pipe", End: end, Fd: fd}
}

// create makes a session that is removed with the test, and returns its name.
func (p *peer) create(process *pipedv1.ProcessSpec, pipes ...*pipedv1.PipeSpec) string {
	p.t.Helper()
	resp, err := p.sessions.CreateSession(p.ctx(), &pipedv1.CreateSessionRequest{Pipes: pipes, Process: process})
	if err != nil {
		p.t.Fatalf("create: %v", err)
	}
	return resp.GetSession().GetName()
}

// start starts one more process in a session.
func (p *peer) start(session string, process *pipedv1.ProcessSpec) *pipedv1.Process {
	p.t.Helper()
	resp, err := p.sessions.StartProcess(p.ctx(), &pipedv1.StartProcessRequest{Session: session, Process: process})
	if err != nil {
		p.t.Fatalf("start: %v", err)
	}
	return resp.GetProcess()
}

func (p *peer) get(session string) *pipedv1.Session {
	p.t.Helper()
	resp, err := p.sessions.GetSession(p.ctx(), &pipedv1.GetSessionRequest{Session: session, Holders: true})
	if err != nil {
		p.t.Fatalf("get: %v", err)
	}
	return resp.GetSession()
}

// endpoint is what inspect says of an end.
func (p *peer) endpoint(ref *pipedv1.EndpointRef) *pipedv1.Endpoint {
	p.t.Helper()
	for _, pipe := range p.get(ref.GetSession()).GetPipes() {
		if ref.GetPipe() == "" || ref.GetPipe() == pipe.GetName() {
			return pipe.GetEndpoints()[max(ref.GetEnd(), 1)-1]
		}
	}
	p.t.Fatalf("no endpoint %v", ref)
	return nil
}

// remove deletes a session whatever its state.
func (p *peer) remove(session string) {
	p.t.Helper()
	if _, err := p.sessions.DeleteSession(p.ctx(), &pipedv1.DeleteSessionRequest{Session: session, Force: true}); err != nil {
		p.t.Errorf("remove: %v", err)
	}
}

// exit waits for the first process of a session.
func (p *peer) exit(session string) *pipedv1.Exit {
	p.t.Helper()
	resp, err := p.sessions.WaitProcess(p.ctx(), &pipedv1.WaitProcessRequest{Session: session})
	if err != nil {
		p.t.Fatalf("wait: %v", err)
	}
	return resp.GetProcess().GetExit()
}

func (p *peer) signal(session, sig string) {
	p.t.Helper()
	if _, err := p.sessions.SignalProcess(p.ctx(), &pipedv1.SignalProcessRequest{Session: session, Signal: sig}); err != nil {
		p.t.Fatalf("signal: %v", err)
	}
}

// write sends whole messages with the unary call.
func (p *peer) write(ref *pipedv1.EndpointRef, messages ...string) {
	p.t.Helper()
	if _, err := p.pipes.Write(p.ctx(), writing(ref, messages...)); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

func writing(ref *pipedv1.EndpointRef, messages ...string) *pipedv1.WriteRequest {
	req := &pipedv1.WriteRequest{Endpoint: ref}
	for _, m := range messages {
		req.Messages = append(req.Messages, []byte(m))
	}
	return req
}

// read takes one message with the unary call.
func (p *peer) read(ref *pipedv1.EndpointRef) string {
	p.t.Helper()
	resp, err := p.pipes.Read(p.ctx(), &pipedv1.ReadRequest{Endpoint: ref, AutoAck: true})
	if err != nil {
		p.t.Fatalf("read: %v", err)
	}
	if resp.GetBatch() == nil {
		p.t.Fatal("read: nothing, although it was to wait for ever")
	}
	return string(resp.GetBatch().GetData())
}

// readError reads and returns the error; there must be nothing to read.
func (p *peer) readError(ref *pipedv1.EndpointRef) error {
	p.t.Helper()
	resp, err := p.pipes.Read(p.ctx(), &pipedv1.ReadRequest{Endpoint: ref, AutoAck: true})
	if err == nil {
		p.t.Errorf("read: %q, want an error", resp.GetBatch().GetData())
	}
	return err
}

// poll looks at endpoints for a while; nil waits for ever.
func (p *peer) poll(wait *time.Duration, refs ...*pipedv1.EndpointRef) []*pipedv1.Readiness {
	p.t.Helper()
	req := &pipedv1.PollRequest{Endpoints: refs}
	if wait != nil {
		req.Timeout = durationpb.New(*wait)
	}
	resp, err := p.pipes.Poll(p.ctx(), req)
	if err != nil {
		p.t.Fatalf("poll: %v", err)
	}
	return resp.GetReady()
}

var atOnce = new(time.Duration)

// close closes an endpoint, waits until it is, and returns everything that
// Close reports.
func (p *peer) close(req *pipedv1.CloseRequest) []*pipedv1.CloseResponse {
	p.t.Helper()
	reports, err := p.tryClose(req)
	if err != nil {
		p.t.Fatalf("close: %v", err)
	}
	return reports
}

func (p *peer) tryClose(req *pipedv1.CloseRequest) ([]*pipedv1.CloseResponse, error) {
	stream, err := p.pipes.Close(p.ctx(), req)
	if err != nil {
		return nil, err
	}
	return drain(stream.Recv)
}

// closeEnd closes an endpoint and waits.
func (p *peer) closeEnd(ref *pipedv1.EndpointRef) {
	p.t.Helper()
	p.close(&pipedv1.CloseRequest{Endpoint: ref, Wait: true})
}

// closeSend half-closes an endpoint and waits.
func (p *peer) closeSend(ref *pipedv1.EndpointRef) {
	p.t.Helper()
	p.close(&pipedv1.CloseRequest{Endpoint: ref, SendOnly: true, Wait: true})
}

// partSize asks the daemon how large the parts of a message are.
func partSize(p *peer) int {
	p.t.Helper()
	info, err := p.server.GetServerInfo(p.ctx(), &pipedv1.GetServerInfoRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	return int(info.GetLimits().GetPartSize())
}

// reasonOf returns the reason of an error of the daemon, or the code of one
// that gRPC made.
func reasonOf(err error) string {
	if err == nil {
		return "OK"
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == "piped" {
			return info.GetReason()
		}
	}
	return status.Code(err).String()
}

// factOf returns a fact that belongs to the reason of an error.
func factOf(err error, key string) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetMetadata()[key]
		}
	}
	return ""
}

func wantReason(t *testing.T, what string, err error, reason string) {
	t.Helper()
	if got := reasonOf(err); got != reason {
		t.Errorf("%s: %s (%v), want %s", what, got, err, reason)
	}
}
