package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// A starter starts /bin/echo n times, one after the other, and returns the median
// time to its first byte and the CPU time that each has cost whoever starts it, in
// microseconds. What the program itself uses is the same everywhere, and not in it.
type starter struct {
	name  string
	start func(n int) (firstByte, cpu float64)
}

// pythonStarts is testdata/spawn.c in Python.
const pythonStarts = `
import resource, subprocess, sys, time
def used():
    u = resource.getrusage(resource.RUSAGE_SELF)
    return u.ru_utime + u.ru_stime
n, times, before = int(sys.argv[1]), [], used()
for i in range(n):
    start = time.perf_counter()
    p = subprocess.Popen(["/bin/echo", "x"], stdout=subprocess.PIPE, bufsize=0)
    assert p.stdout.read(2)
    times.append(time.perf_counter() - start)
    p.stdout.close()
    p.wait()
print(sorted(times)[n // 2] * 1e6, (used() - before) / n * 1e6)
`

func BenchmarkSpawn(b *testing.B) {
	starters := starters(b)
	for b.Loop() {
		for name, value := range spawns(b, starters, 7, 500) {
			b.ReportMetric(value, name)
		}
	}
}

func TestSpawnIsMeasuredBesideCAndPython(t *testing.T) {
	for name, value := range spawns(t, starters(t), 1, 60) {
		t.Logf("%10.2f %s", value, name)
		if value < 0 || value == 0 && !strings.Contains(name, "cpu") { // which is counted in steps of 10 ms
			t.Errorf("%s is %v", name, value)
		}
	}
}

func starters(tb testing.TB) []starter {
	tb.Helper()
	program := filepath.Join(tb.TempDir(), "spawn")
	if out, err := exec.CommandContext(tb.Context(), "cc", "-O2", "-o", program, "testdata/spawn.c").CombinedOutput(); err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
	run := func(args ...string) func(n int) (float64, float64) {
		return func(n int) (firstByte, cpu float64) {
			out, err := exec.CommandContext(tb.Context(), args[0], append(args[1:], strconv.Itoa(n))...).Output()
			if err != nil {
				tb.Fatal(err)
			}
			if _, err := fmt.Sscan(string(out), &firstByte, &cpu); err != nil {
				tb.Fatal(err)
			}
			return firstByte, cpu
		}
	}
	return []starter{
		{"piped", pipedStarts(tb)},
		{"posix_spawn", run(program)},
		{"subprocess", run("python3", "-c", pythonStarts)},
	}
}

// pipedStarts creates sessions: the whole way from a client to the first message,
// with everything that makes it survive. CPU is that of daemon, keeper and spawner.
func pipedStarts(tb testing.TB) func(n int) (float64, float64) {
	tb.Helper()
	d := daemon.Start(tb)
	c := d.Dial(tb)
	made := 0
	return func(n int) (firstByte, cpu float64) {
		times := make([]float64, 0, n)
		before := cpuOf(tb, d)
		for range n {
			made++
			name := fmt.Sprintf("echo-%d", made)
			start := time.Now()
			_, err := c.Create(tb.Context(), &pipedv1.CreateSessionRequest{Name: name, Process: &pipedv1.ProcessSpec{
				Args: []string{"/bin/echo", "x"}, Stdin: pipedv1.StdioMode_STDIO_MODE_NULL, Stderr: pipedv1.StdioMode_STDIO_MODE_NULL}})
			if err != nil {
				tb.Fatal(err)
			}
			r, err := c.Endpoint(client.Ref{Session: name}).NewReader(tb.Context(), client.ReaderOptions{})
			if err != nil {
				tb.Fatal(err)
			}
			if _, err := r.Next(tb.Context()); err != nil {
				tb.Fatal(err)
			}
			times = append(times, float64(time.Since(start).Nanoseconds())/1e3)
			if err := r.Close(tb.Context()); err != nil {
				tb.Fatal(err)
			}
			if err := c.Delete(tb.Context(), name, true); err != nil {
				tb.Fatal(err)
			}
		}
		return median(times), (cpuOf(tb, d) - before) / float64(n)
	}
}

// cpuOf returns the CPU time of daemon, keeper and spawner, in microseconds.
func cpuOf(tb testing.TB, d *daemon.Daemon) (us float64) {
	tb.Helper()
	keeper := d.KeeperPID()
	pids := []int{d.PID(), keeper}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", keeper))
	if err != nil {
		tb.Fatal(err)
	}
	for _, path := range tasks {
		text, _ := os.ReadFile(path) // a thread may end at any time
		for word := range strings.FieldsSeq(string(text)) {
			line, _ := os.ReadFile("/proc/" + word + "/cmdline") // so may a child
			if pid, err := strconv.Atoi(word); err == nil && bytes.HasPrefix(line, []byte("piped-spawner")) {
				pids = append(pids, pid)
			}
		}
	}
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			tb.Fatal(err)
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		const user, system, tick = 11, 12, 10_000 // behind the name; USER_HZ is 100 wherever Go runs
		for _, i := range []int{user, system} {
			n, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				tb.Fatal(err)
			}
			us += n * tick
		}
	}
	return us
}

// spawns measures all starters in rounds, and returns the medians of each and of the
// ratios of the first to the others.
func spawns(tb testing.TB, starters []starter, rounds, n int) map[string]float64 {
	tb.Helper()
	all := make(map[string][]float64)
	for round := range rounds {
		first, cpu := make(map[string]float64), make(map[string]float64)
		for i := range starters {
			s := starters[(round+i)%len(starters)]
			first[s.name], cpu[s.name] = s.start(n)
			all[s.name+"-µs"] = append(all[s.name+"-µs"], first[s.name])
			all[s.name+"-cpu-µs"] = append(all[s.name+"-cpu-µs"], cpu[s.name])
		}
		for _, s := range starters[1:] {
			all["piped/"+s.name] = append(all["piped/"+s.name], first["piped"]/first[s.name])
			all["cpu-piped/"+s.name] = append(all["cpu-piped/"+s.name], cpu["piped"]/cpu[s.name])
		}
	}
	medians := make(map[string]float64)
	for name, values := range all {
		medians[name] = median(values)
	}
	return medians
}
