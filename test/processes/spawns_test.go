package processes

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// signals are those that a round may send: each ends a process that does nothing
// about it, and says so in its exit.
var signals = []string{"TERM", "KILL", "HUP", "USR1", "INT"}

func TestP0SpawnsLeaveNothingAndEachSignalReachesItsOwn(t *testing.T) {
	r := newRow(t, "P0-spawns", "--ended-max", "10")
	n := sized(10_000, 1_000_000)
	before := r.resident()
	var signalled, wrong atomic.Int64
	looks := max(n/4, 1) // the first is where what stays for good is there
	var grown []string
	right := 0
	for done := 0; done < n; done += looks {
		from := done
		right += each(min(looks, n-done), func(i int) bool {
			i += from
			if i%5 != 0 {
				return r.spawn(i)
			}
			signalled.Add(1)
			if r.spawnSignalled(i) {
				return true
			}
			wrong.Add(1)
			return false
		})
		now := r.resident()
		grown = append(grown, fmt.Sprintf("%d/%d", (now[0]-before[0])>>10, (now[1]-before[1])>>10))
	}
	zombies := r.zombies()
	r.note("spawned=%d/%d signalled=%d wrong_signals=%d zombies=%d rss_growth_kib=%s", right, n, signalled.Load(), wrong.Load(), zombies, strings.Join(grown, ","))
	if right != n || wrong.Load() > 0 || zombies > 0 {
		t.Errorf("%d of %d went right, %d signals went wrong, %d zombies", right, n, wrong.Load(), zombies)
	}
	r.finish()
}

// spawn starts a process that exits at once, with a code of its own.
func (r *row) spawn(i int) bool {
	name, code := fmt.Sprintf("s-%d", i), i%200
	if r.create(name, quiet("/bin/sh", "-c", "exit "+strconv.Itoa(code))) == nil {
		return false
	}
	defer r.remove(name)
	if exit := r.wait(name).GetExit(); exit.GetSignalNumber() != 0 || int(exit.GetCode()) != code {
		r.t.Errorf("%s: exit %v, want %d", name, exit, code)
		return false
	}
	return true
}

// spawnSignalled starts a process that ends by one signal, which is sent to it while
// others come and go: whoever else got it would end by it too.
func (r *row) spawnSignalled(i int) bool {
	name, signal := fmt.Sprintf("s-%d", i), signals[i/5%len(signals)]
	if r.create(name, quiet("/bin/sleep", "1000")) == nil {
		return false
	}
	defer r.remove(name)
	ctx, cancel := r.ctx()
	defer cancel()
	if err := r.c.Signal(ctx, name, "", signal); err != nil {
		r.t.Errorf("%s: %v", name, err)
		return false
	}
	if exit := r.wait(name).GetExit(); exit.GetSignal() != signal {
		r.t.Errorf("%s: exit %v, want signal %s", name, exit, signal)
		return false
	}
	return true
}

// quiet is a process with one pipe.
func quiet(args ...string) *pipedv1.ProcessSpec {
	return &pipedv1.ProcessSpec{Args: args, Stdin: pipedv1.StdioMode_STDIO_MODE_NULL, Stdout: pipedv1.StdioMode_STDIO_MODE_PIPE, Stderr: pipedv1.StdioMode_STDIO_MODE_NULL}
}

// resident returns the memory of daemon and keeper, in bytes.
func (r *row) resident() (rss [2]int) {
	r.t.Helper()
	for i, pid := range r.pids {
		rss[i] = status(r.t, pid, "VmRSS:") << 10
	}
	return rss
}

// status returns a number of /proc/PID/status.
func status(t testing.TB, pid int, field string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, field); found {
			n, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("process %d has no %s", pid, field)
	return 0
}

// zombies counts the children of the keeper that were not reaped, once it has had the
// time.
func (r *row) zombies() (n int) {
	await(func() bool {
		n = 0
		for _, pid := range r.d.Children() {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // one that is gone is none
			if strings.Contains(string(text), "State:\tZ") {
				n++
			}
		}
		return n == 0
	})
	return n
}
