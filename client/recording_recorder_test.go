//go:build linux

package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/grpc"
)

// record records until the recording stops, and returns what it says.
func record(ctx context.Context, t *testing.T, e *client.Endpoint, opts client.RecorderOptions) (client.RecordingHeader, []client.RecordingEvent, error) {
	t.Helper()
	r, err := e.NewRecorder(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	recordErr := r.Record(ctx, &out)
	closeAll(t, r)
	header, events, err := readRecording(out.String())
	gaps := 0
	for _, event := range events {
		if event.Gap != nil {
			gaps++
		}
	}
	if r.Gaps() != gaps {
		t.Errorf("%d gaps, and the recording has %d", r.Gaps(), gaps)
	}
	if !errors.Is(err, io.EOF) || errors.Is(err, client.ErrRecordingCut) {
		t.Errorf("the recording is not whole: %v", err)
	}
	return header, events, recordErr
}

// summary is what events say, in short.
func summary(events []client.RecordingEvent) string {
	var b strings.Builder
	for _, e := range events {
		switch {
		case e.Message != nil:
			fmt.Fprintf(&b, "%s %v %q\n", e.Direction, e.Message.Position, e.Message.Data)
		case e.Gap != nil:
			fmt.Fprintf(&b, "%s gap %v %v\n", e.Direction, e.Gap.From, e.Gap.To)
		case e.End != nil:
			fmt.Fprintf(&b, "%s end %v %d\n", e.Direction, e.End.GetCause(), e.End.GetBytes())
		case e.Stop != nil:
			fmt.Fprintf(&b, "stop %s\n", e.Stop.Reason)
		}
	}
	return b.String()
}

// following is a Recorder that follows an end in the background.
type following struct {
	t *testing.T
	// events are read as they are recorded.
	*client.RecordingReader
	stopped chan error
}

func follow(t *testing.T, e *client.Endpoint) *following {
	t.Helper()
	r, err := e.NewRecorder(t.Context(), client.RecorderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	in, out := io.Pipe()
	f := &following{t: t, stopped: make(chan error, 1)}
	go func() {
		err := r.Record(t.Context(), out)
		f.stopped <- errors.Join(err, out.Close(), r.Close(t.Context()))
	}()
	if f.RecordingReader, err = client.NewRecordingReader(in); err != nil {
		t.Fatal(err)
	}
	return f
}

// until returns the events up to the first that last wants.
func (f *following) until(last func(client.RecordingEvent) bool) (events []client.RecordingEvent) {
	f.t.Helper()
	for {
		event, err := f.Next()
		if err != nil {
			f.t.Fatal(err)
		}
		if events = append(events, event); last(event) {
			return events
		}
	}
}

// rest returns the events until the recording stops by itself.
func (f *following) rest() []client.RecordingEvent {
	f.t.Helper()
	events := f.until(func(e client.RecordingEvent) bool { return e.Stop != nil })
	if err := <-f.stopped; err != nil {
		f.t.Error(err)
	}
	return events
}

// of returns the events of one direction.
func of(direction client.RecordedDirection, events []client.RecordingEvent) []client.RecordingEvent {
	return slices.DeleteFunc(slices.Clone(events), func(e client.RecordingEvent) bool { return e.Direction != direction })
}

func TestRecorderRecordsBothDirectionsUntilTheEnd(t *testing.T) {
	c := dial(t)
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
		Args: []string{"sh", "-c", `printf 'one\n\377\n'; while read x; do echo "got $x"; done`},
	}})
	e := c.Endpoint(client.Ref{Session: session})
	// Read before the recorder comes, and still retained.
	send(t, e, "early")
	f := follow(t, e)
	send(t, e, "late")
	events := f.until(func(e client.RecordingEvent) bool {
		return e.Direction == client.RecordedIn && e.Message != nil && string(e.Message.Data) == "late"
	})
	if err := e.CloseSend(t.Context()); err != nil {
		t.Fatal(err)
	}
	events = append(events, f.rest()...)
	wantIn := "in 1 \"early\"\nin 2 \"late\"\nin end END_CAUSE_CLOSED 11\n"
	if diff := cmp.Diff(wantIn, summary(of(client.RecordedIn, events))); diff != "" {
		t.Error(diff)
	}
	wantOut := "out 1 \"one\"\nout 2 \"\\xff\"\nout 3 \"got early\"\nout 4 \"got late\"\nout end END_CAUSE_CLOSED 25\n"
	if diff := cmp.Diff(wantOut, summary(of(client.RecordedOut, events))); diff != "" {
		t.Error(diff)
	}
	if stop := events[len(events)-1].Stop; stop.Reason != client.RecordingEnded {
		t.Errorf("stopped: %+v", stop)
	}
	info, err := c.Get(t.Context(), session)
	if err != nil {
		t.Fatal(err)
	}
	header := f.Header()
	wantHeader := client.RecordingHeader{
		Version: 1, Start: header.Start, Session: session, UID: info.GetUid(), Pipe: "stdio", End: 1, Kind: "stdio", Incarnation: 1,
		Directions: []client.RecordedDirection{client.RecordedIn, client.RecordedOut},
		FramingIn:  client.RecordedFraming{Name: "line"}, FramingOut: client.RecordedFraming{Name: "line"},
	}
	if diff := cmp.Diff(wantHeader, header); diff != "" {
		t.Error(diff)
	}
	// It consumed nothing.
	if got := receive(t, e, 4); got != "one \xff got early got late" {
		t.Errorf("a consumer got %q", got)
	}
}

// The end of the input comes by itself with the program's exit, and what was never
// handed over to it was sent all the same.
func TestRecorderOfAProgramThatDoesNotRead(t *testing.T) {
	c := dial(t)
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: []string{"sleep", "600"}}})
	e := c.Endpoint(client.Ref{Session: session})
	f := follow(t, e)
	const messages, size = 30, 64 << 10
	w := newWriter(t, e, client.WriterOptions{})
	for range messages {
		if err := w.Send(t.Context(), bytes.Repeat([]byte("x"), size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	sent := uint64(0)
	f.until(func(e client.RecordingEvent) bool {
		if e.Message == nil {
			t.Fatalf("got %+v after %d bytes", e, sent)
		}
		sent += uint64(len(e.Message.Data))
		return sent == messages*size
	})
	if err := c.Signal(t.Context(), session, "", "KILL"); err != nil {
		t.Fatal(err)
	}
	events := f.rest()
	in := of(client.RecordedIn, events)
	if len(in) != 1 || in[0].End.GetCause() != pipedv1.EndCause_END_CAUSE_BROKEN_PIPE || in[0].End.GetPosition().GetMessage() > messages {
		t.Errorf("the input ended with %v", in)
	}
	if stop := events[len(events)-1].Stop; stop.Reason != client.RecordingEnded {
		t.Errorf("stopped: %+v", stop)
	}
	_ = w.Close(t.Context())
}

// dialOld connects to the daemon as if it did not know what a recorder needs.
func dialOld(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), daemonAddr, grpc.WithUnaryInterceptor(
		func(ctx context.Context, method string, req, resp any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoke(ctx, method, req, resp, conn, opts...)
			if info, ok := resp.(*pipedv1.GetServerInfoResponse); ok {
				info.Features = slices.DeleteFunc(info.Features, func(feature string) bool { return feature == "observe/sent" })
			}
			return err
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestRecorderDoesNotTakeOutputForInputFromAnOldDaemon(t *testing.T) {
	current := dial(t)
	session := create(t, current, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: []string{"echo", "one"}}})
	e := dialOld(t).Endpoint(client.Ref{Session: session})
	r, err := e.NewRecorder(t.Context(), client.RecorderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]client.RecordedDirection{client.RecordedIn}, r.Unobserved()); diff != "" {
		t.Error(diff)
	}
	closeAll(t, r)
	header, events, err := record(t.Context(), t, e, client.RecorderOptions{})
	if diff := cmp.Diff([]client.RecordedDirection{client.RecordedOut}, header.Directions); diff != "" || err != nil {
		t.Errorf("%v: %s", err, diff)
	}
	if diff := cmp.Diff("out 1 \"one\"\nout end END_CAUSE_CLOSED 4\nstop ended\n", summary(events)); diff != "" {
		t.Error(diff)
	}
}

func TestRecorderIsInterruptedByItsContext(t *testing.T) {
	c := dial(t)
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: []string{"sh", "-c", "echo one; read x"}}})
	r, err := c.Endpoint(client.Ref{Session: session}).NewRecorder(t.Context(), client.RecorderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in, out := io.Pipe()
	recorded := make(chan error, 1)
	go func() {
		err := r.Record(ctx, out)
		_ = out.Close()
		recorded <- err
	}()
	// Each event is there as soon as it has happened.
	recording, err := client.NewRecordingReader(in)
	if err != nil {
		t.Fatal(err)
	}
	if event, err := recording.Next(); err != nil || event.Message == nil {
		t.Fatalf("got %+v, %v", event, err)
	}
	cancel()
	if event, err := recording.Next(); err != nil || event.Stop == nil || event.Stop.Reason != client.RecordingInterrupted {
		t.Errorf("got %+v, %v; want a stop", event, err)
	}
	if err := <-recorded; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	closeAll(t, r)
}

func TestRecorderOfWhatIsRetained(t *testing.T) {
	c := dial(t)
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: []string{"sh", "-c", "echo one; read x"}}})
	e := c.Endpoint(client.Ref{Session: session})
	if _, err := e.Poll(t.Context(), client.Forever); err != nil {
		t.Fatal(err)
	}
	_, events, err := record(t.Context(), t, e, client.RecorderOptions{Retained: true})
	if diff := cmp.Diff("out 1 \"one\"\nstop retained\n", summary(events)); diff != "" || err != nil {
		t.Errorf("%v: %s", err, diff)
	}
}

func TestRecorderMarksWhatHadGone(t *testing.T) {
	c := dial(t)
	limits, err := c.Limits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// More than the log of stderr holds, which drops its oldest.
	lines := limits.GetLogSize()/1000 + 1000
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
		Args: []string{"sh", "-c", fmt.Sprintf("seq -f %%0999.0f 1 %d >&2", lines)},
	}})
	if _, err := c.Wait(t.Context(), session, "", client.Forever); err != nil {
		t.Fatal(err)
	}
	_, events, err := record(t.Context(), t, c.Endpoint(client.Ref{Session: session, Pipe: "stderr"}), client.RecorderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if gap := events[0].Gap; gap == nil || gap.From.Message != 1 {
		t.Fatalf("the first event is %+v, want a gap from 1", events[0])
	}
	next := uint64(1)
	for _, event := range events {
		switch {
		case event.Gap != nil && event.Gap.From.Message == next:
			next = event.Gap.To.Message
		case event.Message != nil && event.Message.Position.Message == next && string(event.Message.Data) == fmt.Sprintf("%0999d", next):
			next++
		case event.End != nil && event.End.GetPosition().GetMessage() == next, event.Stop != nil:
		default:
			t.Fatalf("got %+v at %d", event, next)
		}
	}
	if next != lines+1 {
		t.Errorf("the recording ends at %d, want %d", next, lines+1)
	}
}

func TestRecorderKeepsLargeMessagesInParts(t *testing.T) {
	c := dial(t)
	want := bytes.Repeat([]byte("\xfe"), 2_100_000)
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
		Args:      []string{"sh", "-c", `printf '\000\040\013\040'; head -c 2100000 /dev/zero | tr '\000' '\376'`},
		StdioPipe: &pipedv1.PipeSpec{FramingOut: &pipedv1.Framing{Name: "mp"}},
	}})
	_, events, err := record(t.Context(), t, c.Endpoint(client.Ref{Session: session}), client.RecorderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	parts := 0
	for _, event := range events {
		if m := event.Message; m != nil {
			if m.Position.Offset != uint64(len(got)) || m.TotalSize != uint64(len(want)) {
				t.Errorf("a part at %v of %d bytes, after %d of %d", m.Position, m.TotalSize, len(got), len(want))
			}
			got = append(got, m.Data...)
			parts++
		}
	}
	if !bytes.Equal(got, want) || parts < 2 {
		t.Errorf("%d bytes in %d parts, want %d", len(got), parts, len(want))
	}
}

func TestRecorderOfAnUnknownPipe(t *testing.T) {
	one, _ := newPipe(t, dial(t), "line")
	ref := one.Ref()
	ref.Pipe = "other"
	if _, err := dial(t).Endpoint(ref).NewRecorder(t.Context(), client.RecorderOptions{}); !errors.Is(err, client.ErrPipeNotFound) {
		t.Errorf("got %v, want ErrPipeNotFound", err)
	}
}

func TestRecorderOfAnEndThatOnlySends(t *testing.T) {
	c := dial(t)
	session := create(t, c, &pipedv1.CreateSessionRequest{Pipes: []*pipedv1.PipeSpec{{Kind: pipedv1.Pipe_KIND_ONE_WAY}}})
	ref := client.Ref{Session: session, End: 2}
	send(t, c.Endpoint(ref), "x")
	header, events, err := record(t.Context(), t, c.Endpoint(ref), client.RecorderOptions{Retained: true})
	if diff := cmp.Diff([]client.RecordedDirection{client.RecordedIn}, header.Directions); diff != "" || err != nil {
		t.Errorf("%v: %s", err, diff)
	}
	if diff := cmp.Diff("in 1 \"x\"\nstop retained\n", summary(events)); diff != "" {
		t.Error(diff)
	}
	if _, err := dialOld(t).Endpoint(ref).NewRecorder(t.Context(), client.RecorderOptions{}); !errors.Is(err, client.ErrWrongDirection) {
		t.Errorf("of an old daemon: got %v, want ErrWrongDirection", err)
	}
}
