package bench

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
)

// A path is both directions to a child that echoes.
type path struct {
	name string
	w    *client.Writer
	r    *client.Reader
}

func BenchmarkExactness(b *testing.B) {
	paths := exactnessPaths(b)
	for b.Loop() {
		for name, value := range exactness(b, paths, 5, 4000, 50_000, 2000) {
			b.ReportMetric(value, name)
		}
	}
}

func TestExactnessIsMeasuredBesidePlainMoves(t *testing.T) {
	for name, value := range exactness(t, exactnessPaths(t), 1, 200, 2000, 100) {
		t.Logf("%12.2f %s", value, name)
		if value <= 0 {
			t.Errorf("%s is %v", name, value)
		}
	}
}

// exactnessPaths opens the same way through two daemons that differ in where logs
// are only.
func exactnessPaths(tb testing.TB) []path {
	tb.Helper()
	var paths []path
	for _, durability := range []string{"kernel", "memory"} {
		w, r := echoEnds(tb.Context(), tb, "--durability", durability)
		paths = append(paths, path{durability, w, r})
	}
	return paths
}

// exactness measures all rows in rounds, and returns the medians of both paths and
// of their ratios. A ratio above 1 is what exactness costs.
func exactness(tb testing.TB, paths []path, rounds, trips, small, large int) map[string]float64 {
	tb.Helper()
	rows := []struct {
		name    string
		measure func(path) float64 // seconds
		scale   func(seconds float64) float64
	}{
		{"rtt64B-µs", func(p path) float64 { return p.roundTrip(tb, trips) }, func(s float64) float64 { return s * 1e6 }},
		{"64B-msg/s", func(p path) float64 { return p.pump(tb, 64, small) }, func(s float64) float64 { return float64(small) / s }},
		{"64KiB-MB/s", func(p path) float64 { return p.pump(tb, 64<<10, large) }, func(s float64) float64 { return float64(large) * (64 << 10) / 1e6 / s }},
	}
	all := make(map[string][]float64)
	for round := range rounds {
		for _, row := range rows {
			seconds := make(map[string]float64)
			for i := range paths {
				p := paths[(round+i)%len(paths)]
				seconds[p.name] = row.measure(p)
				name := p.name + "-" + row.name
				all[name] = append(all[name], row.scale(seconds[p.name]))
			}
			ratio := "time-kernel/memory-" + row.name
			all[ratio] = append(all[ratio], seconds["kernel"]/seconds["memory"])
		}
	}
	medians := make(map[string]float64)
	for name, values := range all {
		medians[name] = median(values)
	}
	return medians
}

// roundTrip returns the median of n round trips of 64 bytes.
func (p path) roundTrip(tb testing.TB, n int) float64 {
	tb.Helper()
	msg := make([]byte, 64)
	times := make([]float64, 0, n)
	for range n {
		start := time.Now()
		if err := p.w.Send(tb.Context(), msg); err != nil {
			tb.Fatal(err)
		}
		if err := p.take(tb.Context(), 1, len(msg)); err != nil {
			tb.Fatal(err)
		}
		times = append(times, time.Since(start).Seconds())
	}
	return median(times)
}

// pump returns how long n messages take to come back when they are sent without
// waiting.
func (p path) pump(tb testing.TB, size, n int) float64 {
	tb.Helper()
	start := time.Now()
	sent := make(chan error, 1)
	go func() { sent <- p.give(tb.Context(), n, size) }()
	if err := errors.Join(p.take(tb.Context(), n, size), <-sent); err != nil {
		tb.Fatal(err)
	}
	return time.Since(start).Seconds()
}

// give sends n messages.
func (p path) give(ctx context.Context, n, size int) error {
	msg := make([]byte, size)
	for range n {
		if err := p.w.Send(ctx, msg); err != nil {
			return err
		}
	}
	return nil
}

// take receives and acknowledges n messages.
func (p path) take(ctx context.Context, n, size int) error {
	for i := range n {
		m, err := p.r.Next(ctx)
		if err != nil {
			return err
		}
		if len(m.Data) != size {
			return fmt.Errorf("%d bytes came back, %d were sent", len(m.Data), size)
		}
		if !p.r.Buffered() || i == n-1 {
			if err := p.r.Ack(m.After); err != nil {
				return err
			}
		}
	}
	return nil
}
