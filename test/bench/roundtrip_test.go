package bench

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"

	"github.com/piped-dev/piped/client"
	"github.com/piped-dev/piped/test/daemon"
)

// An echo sends a message and returns when it has come back.
type echo func(msg []byte) error

// A member of a row is one way for the message to go.
type member struct {
	name string
	echo echo
}

const (
	messageSize = 64
	warmUp      = 200
)

func BenchmarkRoundTrip64B(b *testing.B) {
	members := members(b)
	for b.Loop() {
		for name, value := range row(b, members, 7, 4000) {
			b.ReportMetric(value, name)
		}
	}
}

func TestRoundTripThroughTheDaemonIsMeasuredBesideItsFloors(t *testing.T) {
	for name, value := range row(t, members(t), 1, 500) {
		t.Logf("%10.2f %s", value, name)
		if value <= 0 {
			t.Errorf("%s is %v", name, value)
		}
	}
}

func members(tb testing.TB) []member {
	return []member{
		{"piped", pipedEcho(tb)},
		{"grpc", grpcEcho(tb)},
		{"socketpair", socketpairEcho(tb)},
	}
}

// row measures all members in rounds, and returns the median p50 of each in
// microseconds and the median of the ratios of the first to the others.
func row(tb testing.TB, members []member, rounds, n int) map[string]float64 {
	tb.Helper()
	times := make(map[string][]float64)
	for round := range rounds {
		p50 := make(map[string]float64)
		for i := range members {
			m := members[(round+i)%len(members)]
			p50[m.name] = median(roundTrips(tb, m, n))
			times[m.name+"-µs"] = append(times[m.name+"-µs"], p50[m.name])
		}
		first := members[0].name
		for _, m := range members[1:] {
			ratio := first + "/" + m.name
			times[ratio] = append(times[ratio], p50[first]/p50[m.name])
		}
	}
	result := make(map[string]float64)
	for name, values := range times {
		result[name] = median(values)
	}
	return result
}

// roundTrips returns the times of n round trips in microseconds.
func roundTrips(tb testing.TB, m member, n int) []float64 {
	tb.Helper()
	msg := make([]byte, messageSize)
	times := make([]float64, 0, n)
	for i := range warmUp + n {
		start := time.Now()
		if err := m.echo(msg); err != nil {
			tb.Fatalf("%s: %v", m.name, err)
		}
		if i >= warmUp {
			times = append(times, float64(time.Since(start).Nanoseconds())/1e3)
		}
	}
	return times
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// pipedEcho is the whole way: Go client, gRPC, daemon, child.
func pipedEcho(tb testing.TB) echo {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	tb.Cleanup(cancel)
	w, r := echoEnds(ctx, tb)
	return throughBoth(ctx, w, r)
}

func throughBoth(ctx context.Context, w *client.Writer, r *client.Reader) echo {
	return func(msg []byte) error {
		if err := w.Send(ctx, msg); err != nil {
			return err
		}
		back, err := r.Next(ctx)
		if err != nil {
			return err
		}
		if len(back.Data) != len(msg) {
			return fmt.Errorf("%d bytes came back", len(back.Data))
		}
		return r.Ack(back.After)
	}
}

// echoEnds starts a daemon with a child that returns what it gets, and opens both
// directions to it.
func echoEnds(ctx context.Context, tb testing.TB, daemonArgs ...string) (*client.Writer, *client.Reader) {
	tb.Helper()
	return echoThrough(ctx, tb, daemon.Start(tb, daemonArgs...))
}

// echoThrough is echoEnds with a daemon that is there.
func echoThrough(ctx context.Context, tb testing.TB, d *daemon.Daemon) (*client.Writer, *client.Reader) {
	tb.Helper()
	c := d.Dial(tb)
	framing := &pipedv1.Framing{Name: "mp"}
	if _, err := c.Create(ctx, &pipedv1.CreateSessionRequest{
		Name:  "echo",
		Pipes: []*pipedv1.PipeSpec{{Name: "ctl", FramingIn: framing, FramingOut: framing}},
		Process: &pipedv1.ProcessSpec{
			Args:     []string{self(tb)},
			Env:      []string{roleVariable + "=" + roleSocketEcho},
			Inherits: []*pipedv1.Inherit{{Pipe: "ctl", End: 2, Fd: 3, HandOver: true}},
		},
	}); err != nil {
		tb.Fatal(err)
	}
	e := c.Endpoint(client.Ref{Session: "echo", Pipe: "ctl", End: 1})
	w, err := e.NewWriter(ctx, client.WriterOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	r, err := e.NewReader(ctx, client.ReaderOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return w, r
}
