package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/piped-dev/piped/test/daemon"
)

func TestNoMessagePassesThroughTheKeeper(t *testing.T) {
	const n = 2000
	d := daemon.Start(t)
	w, r := echoThrough(t.Context(), t, d)
	m := member{"piped", throughBoth(t.Context(), w, r)}
	roundTrips(t, m, 1) // what is made with the first message is there
	before, daemonBefore := switches(t, d.KeeperPID()), switches(t, d.PID())
	roundTrips(t, m, n)
	keeper, front := switches(t, d.KeeperPID())-before, switches(t, d.PID())-daemonBefore
	fmt.Fprintf(os.Stdout, "keeper round_trips=%d keeper_switches=%d daemon_switches=%d\n", n+warmUp, keeper, front)
	// It looks around once a second.
	if keeper > n/10 || front < n {
		t.Errorf("the keeper was woken %d times, the daemon %d times, by %d round trips", keeper, front, n+warmUp)
	}
}

// switches returns how often the threads of a process have waited for something.
func switches(t *testing.T, pid int) (all int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("process %d: %v", pid, err)
	}
	for _, path := range tasks {
		status, _ := os.ReadFile(path) // a thread may end at any time
		for line := range strings.Lines(string(status)) {
			if value, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				n, err := strconv.Atoi(strings.TrimSpace(value))
				if err != nil {
					t.Fatal(err)
				}
				all += n
			}
		}
	}
	return all
}
