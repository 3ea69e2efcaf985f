package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// A spawning starts a program n times, one after another, and returns the median
// time until its first byte is there and the CPU time that each took beside the
// program's own, in microseconds.
type spawning struct {
	name string
	run  func(n int) (first, cpu float64)
}

func BenchmarkSpawn(b *testing.B) {
	members := spawnings(b)
	for b.Loop() {
		for name, value := range spawnRow(members, 7, 500) {
			b.ReportMetric(value, name)
		}
	}
}

func TestSpawnIsMeasuredBesidePosixSpawnAndPython(t *testing.T) {
	for name, value := range spawnRow(spawnings(t), 1, 50) {
		t.Logf("%10.2f %s", value, name)
		if value <= 0 {
			t.Errorf("%s is %v", name, value)
		}
	}
}

// spawnings are the daemon and what it is measured beside.
func spawnings(tb testing.TB) []spawning {
	tb.Helper()
	program := filepath.Join(tb.TempDir(), "spawn")
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "gcc"
	}
	if out, err := exec.CommandContext(tb.Context(), compiler, "-O2", "-static", "-o", program, "testdata/spawn.c").CombinedOutput(); err != nil {
		tb.Fatalf("compile: %v\n%s", err, out)
	}
	return []spawning{
		{"piped", pipedSpawning(tb, program)},
		{"posix_spawn", func(n int) (float64, float64) { return printed(tb, program, "loop", strconv.Itoa(n)) }},
		{"python", func(n int) (float64, float64) {
			return printed(tb, "/usr/bin/python3", "testdata/spawn.py", program, strconv.Itoa(n))
		}},
	}
}

// printed runs a program that prints both figures.
func printed(tb testing.TB, args ...string) (first, cpu float64) {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), args[0], args[1:]...).Output()
	if err == nil {
		_, err = fmt.Sscan(string(out), &first, &cpu)
	}
	if err != nil {
		tb.Fatalf("%q: %v, %s", args, err, out)
	}
	return first, cpu
}

// pipedSpawning is the whole way: a session is created, its output is read until
// the first byte, and the session is deleted. The CPU time is that of the daemon,
// the keeper and the spawner.
func pipedSpawning(tb testing.TB, program string) func(n int) (first, cpu float64) {
	tb.Helper()
	d := daemon.Start(tb, "--log-level", "warn")
	c := d.Dial(tb)
	ctx, cancel := context.WithCancel(tb.Context())
	tb.Cleanup(cancel)
	once := func() float64 {
		began := time.Now()
		s, err := c.Create(ctx, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
			Args: []string{program, "byte"}, Stdin: pipedv1.StdioMode_STDIO_MODE_NULL, Stderr: pipedv1.StdioMode_STDIO_MODE_NULL}})
		if err != nil {
			tb.Fatal(err)
		}
		r, err := c.Endpoint(client.Ref{Session: s.GetName()}).NewReader(ctx, client.ReaderOptions{AutoAck: true})
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := r.Next(ctx); err != nil {
			tb.Fatal(err)
		}
		took := time.Since(began)
		if err := r.Close(ctx); err != nil {
			tb.Fatal(err)
		}
		if err := c.Delete(ctx, s.GetUid(), true); err != nil {
			tb.Fatal(err)
		}
		return float64(took.Nanoseconds()) / 1e3
	}
	once() // what is made with the first process is there
	pids := []int{d.PID(), d.KeeperPID(), spawnerOf(tb, d)}
	return func(n int) (float64, float64) {
		before := cpuTime(tb, pids)
		times := make([]float64, n)
		for i := range times {
			times[i] = once()
		}
		return median(times), (cpuTime(tb, pids) - before) / float64(n)
	}
}

// spawnerOf returns the process id of the spawner of a daemon's keeper.
func spawnerOf(tb testing.TB, d *daemon.Daemon) int {
	tb.Helper()
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", d.KeeperPID()))
	for _, path := range lists {
		list, _ := os.ReadFile(path) // a thread may end at any time
		for field := range strings.FieldsSeq(string(list)) {
			command, _ := os.ReadFile("/proc/" + field + "/cmdline")
			if pid, err := strconv.Atoi(field); err == nil && strings.HasPrefix(string(command), "piped-spawner") {
				return pid
			}
		}
	}
	tb.Fatal("there is no spawner")
	return 0
}

// cpuTime returns what processes have used up to now, in microseconds.
func cpuTime(tb testing.TB, pids []int) (all float64) {
	tb.Helper()
	const sched = 2 // CPUCLOCK_SCHED: of the process, in nanoseconds
	for _, pid := range pids {
		var t unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|sched), &t); err != nil {
			tb.Fatalf("CPU time of process %d: %v", pid, err)
		}
		all += float64(t.Nano()) / 1e3
	}
	return all
}

// spawnRow measures all members in rounds, and returns the medians of each and of
// the ratios of the first to the others.
func spawnRow(members []spawning, rounds, n int) map[string]float64 {
	values := make(map[string][]float64)
	for round := range rounds {
		first, cpu := make(map[string]float64), make(map[string]float64)
		for i := range members {
			m := members[(round+i)%len(members)]
			first[m.name], cpu[m.name] = m.run(n)
			values[m.name+"-first-µs"] = append(values[m.name+"-first-µs"], first[m.name])
			values[m.name+"-cpu-µs"] = append(values[m.name+"-cpu-µs"], cpu[m.name])
		}
		piped := members[0].name
		for _, m := range members[1:] {
			values["first-"+piped+"/"+m.name] = append(values["first-"+piped+"/"+m.name], first[piped]/first[m.name])
			values["cpu-"+piped+"/"+m.name] = append(values["cpu-"+piped+"/"+m.name], cpu[piped]/cpu[m.name])
		}
	}
	result := make(map[string]float64)
	for name, list := range values {
		result[name] = median(list)
	}
	return result
}
