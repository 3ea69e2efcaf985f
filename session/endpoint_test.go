package session_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

// create makes a session.
func create(t *testing.T, reg *session.Registry, spec session.Spec) *session.Session {
	t.Helper()
	s, err := reg.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func endpoint(t *testing.T, s *session.Session, pipe string, end int) *session.Endpoint {
	t.Helper()
	e, err := s.Endpoint(pipe, end)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// openReader opens a reader, which the test closes unless it was closed before.
func openReader(t *testing.T, e *session.Endpoint, o session.ReaderOptions) *session.Reader {
	t.Helper()
	r, err := e.OpenReader(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// send sends each message.
func send(t *testing.T, e *session.Endpoint, messages ...string) {
	t.Helper()
	w, err := e.OpenWriter(session.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, m := range messages {
		if err := w.Send(t.Context(), session.Outgoing{Data: []byte(m)}); err != nil {
			t.Fatal(err)
		}
	}
}

// inheriting is a process that gets end of the first pipe at descriptor 3.
func inheriting(end int, handOver bool, args ...string) session.ProcessSpec {
	return session.ProcessSpec{Args: args, Stdin: session.StdioNull, Stdout: session.StdioNull, Stderr: session.StdioNull,
		Inherits: []session.Inherit{{Pipe: "pipe", End: end, FD: 3, HandOver: handOver}}}
}

func TestEndThatIsHandedOverIsClosedAndSaysToWhom(t *testing.T) {
	reg := newRegistry(t, nil)
	spec := inheriting(2, true, "sleep", "1000")
	s := create(t, reg, session.Spec{Pipes: []session.PipeSpec{{}}, Process: &spec})
	two := endpoint(t, s, "pipe", 2)
	if _, err := two.OpenReader(t.Context(), session.ReaderOptions{}); !errors.Is(err, pipe.ErrClosed) || !strings.Contains(err.Error(), "handed over to process sleep") {
		t.Errorf("a reader: %v", err)
	}
	if _, err := two.OpenWriter(session.WriterOptions{}); !errors.Is(err, pipe.ErrClosed) {
		t.Errorf("a writer: %v", err)
	}
	info, err := s.Info(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	ends := info.Pipes[0].Ends
	if ends[1].State != session.EndpointHandedOver || !ends[1].Shared || !ends[0].Sealed {
		t.Errorf("ends are %+v", ends)
	}
	if h := ends[1].Holders; len(h) != 1 || h[0].Daemon || h[0].Pid != info.Processes[0].Pid {
		t.Errorf("holders of the end: %+v, want the process alone", h)
	}
	if h := ends[0].Holders; len(h) != 1 || !h[0].Daemon || h[0].Pid != os.Getpid() {
		t.Errorf("holders of the other end: %+v, want the daemon alone", h)
	}
	if _, err := s.StartProcess(t.Context(), inheriting(1, false, "true")); !errors.Is(err, session.ErrSealed) {
		t.Errorf("inheriting a sealed end: %v", err)
	}
	if _, err := s.StartProcess(t.Context(), inheriting(2, false, "true")); !errors.Is(err, pipe.ErrClosed) {
		t.Errorf("inheriting an end that was handed over: %v", err)
	}
}

func TestEndIsNotInheritedWithMessagesThatTheProcessWouldMiss(t *testing.T) {
	reg := newRegistry(t, nil)
	s := create(t, reg, session.Spec{Pipes: []session.PipeSpec{{}}})
	one, two := endpoint(t, s, "", 1), endpoint(t, s, "", 2)
	send(t, one, "first")
	r := openReader(t, two, session.ReaderOptions{})
	b := receive(t, r).Batch
	_, err := s.StartProcess(t.Context(), inheriting(2, false, "true"))
	if busy, ok := errors.AsType[*session.BusyError](err); !ok || !errors.Is(err, session.ErrBusyReader) || !strings.HasPrefix(busy.Client, "reader-") {
		t.Errorf("while a client receives: %v", err)
	}
	r.Close()
	if _, err := s.StartProcess(t.Context(), inheriting(2, false, "true")); !errors.Is(err, session.ErrUnreadBuffered) {
		t.Errorf("with an unread message: %v", err)
	}
	r = openReader(t, two, session.ReaderOptions{})
	if err := r.Ack(b.Next); err != nil {
		t.Fatal(err)
	}
	r.Close()
	p, err := s.StartProcess(t.Context(), inheriting(2, false, "true"))
	if err != nil {
		t.Fatalf("with everything read: %v", err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	openReader(t, two, session.ReaderOptions{}) // nobody else holds a copy any more
}

func TestEndIsNotInheritedBeforeTheKernelHasWhatWasSent(t *testing.T) {
	reg := newRegistry(t, nil)
	s := create(t, reg, session.Spec{Pipes: []session.PipeSpec{{}}})
	send(t, endpoint(t, s, "", 1), strings.Repeat("x", 1<<20))
	before := descriptors()
	if _, err := s.StartProcess(t.Context(), inheriting(1, false, "true")); !errors.Is(err, session.ErrUnsentBuffered) {
		t.Errorf("nobody reads the other end: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.StartProcess(ctx, inheriting(1, false, "true")); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller has gone: %v", err)
	}
	if after := descriptors(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestReadingAnEndThatAProcessHoldsNeedsForce(t *testing.T) {
	reg := newRegistry(t, nil)
	s := create(t, reg, session.Spec{Pipes: []session.PipeSpec{{}}})
	if _, err := s.StartProcess(t.Context(), inheriting(2, false, "sleep", "1000")); err != nil {
		t.Fatal(err)
	}
	two := endpoint(t, s, "", 2)
	_, err := two.OpenReader(t.Context(), session.ReaderOptions{})
	busy, ok := errors.AsType[*session.BusyError](err)
	if !ok || !errors.Is(err, session.ErrBusyReader) || !strings.Contains(busy.Client, "(sleep 1000)") {
		t.Errorf("without force: %v", err)
	}
	openReader(t, two, session.ReaderOptions{Force: true})
	if _, err := two.OpenReader(t.Context(), session.ReaderOptions{Observe: true}); err != nil {
		t.Errorf("an observer reads nothing from the kernel, but: %v", err)
	}
}

func TestPollKeepsTheOrderAndConsumesNothing(t *testing.T) {
	reg := newRegistry(t, nil)
	s := create(t, reg, session.Spec{Pipes: []session.PipeSpec{{Name: "a"}, {Name: "b"}, {Name: "c"}}})
	var polled []*session.Endpoint
	for _, name := range []string{"c", "a", "b"} {
		polled = append(polled, endpoint(t, s, name, 2))
	}
	ready := func(ctx context.Context) [3]bool {
		t.Helper()
		found, err := session.Poll(ctx, polled)
		if err != nil || len(found) != 3 {
			t.Fatal(found, err)
		}
		return [3]bool{found[0].Any(), found[1].Any(), found[2].Any()}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if got := ready(over); got != [3]bool{} {
		t.Errorf("nothing was sent, ready: %v", got)
	}
	waited := make(chan [3]bool, 1)
	go func() { waited <- ready(t.Context()) }()
	send(t, endpoint(t, s, "a", 1), "x")
	if got := <-waited; got != [3]bool{false, true, false} {
		t.Errorf("waiting for a: %v", got)
	}
	send(t, endpoint(t, s, "c", 1), "x")
	for range 2 {
		if got := ready(t.Context()); got != [3]bool{true, true, false} {
			t.Errorf("a and c: %v", got)
		}
	}
}

func TestPollIsReleasedWhenAnEndIsClosed(t *testing.T) {
	reg := newRegistry(t, nil)
	one, two := barePipe(t, reg, "line")
	failed := make(chan error, 1)
	go func() {
		_, err := session.Poll(t.Context(), []*session.Endpoint{one, two})
		failed <- err
	}()
	if err := two.Close(session.CloseOptions{}); err != nil {
		t.Fatal(err)
	}
	// Which of the two it sees first is open: the closed end, or end of file at
	// the other one.
	if err := <-failed; err != nil && !errors.Is(err, pipe.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := session.Poll(t.Context(), []*session.Endpoint{two}); !errors.Is(err, pipe.ErrClosed) {
		t.Errorf("a closed end: %v", err)
	}
}

func TestWaitExitsReportsEachProcessOnce(t *testing.T) {
	reg := newRegistry(t, nil)
	s := create(t, reg, session.Spec{Pipes: []session.PipeSpec{{}}})
	twice := inheriting(2, false, "true")
	twice.Inherits = append(twice.Inherits, session.Inherit{Pipe: "pipe", End: 2, FD: 4})
	if _, err := s.StartProcess(t.Context(), twice); err != nil {
		t.Fatal(err)
	}
	var exits []session.ProcessInfo
	err := endpoint(t, s, "", 1).WaitExits(t.Context(), func(p session.ProcessInfo) error {
		exits = append(exits, p)
		return nil
	})
	if err != nil || len(exits) != 1 || exits[0].Running || exits[0].Exit.Code != 0 {
		t.Errorf("got %+v, %v", exits, err)
	}
}
