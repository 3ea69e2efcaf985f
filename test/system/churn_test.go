package system

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"testing"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// descriptors counts the open descriptors of a process.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// threads counts the threads of a process.
func threads(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestTenThousandSessionsInTurnLeaveNothing(t *testing.T) {
	const pipes, processes, clients = 8000, 2000, 8
	d, p := start(t)
	turn := func(p *peer, process bool) {
		if process {
			name := p.create(&pipedv1.ProcessSpec{Args: []string{"/bin/true"}})
			p.everything(at(name, "", 1))
			p.exit(name)
			p.remove(name)
			return
		}
		name := p.create(nil, framed("", "line"))
		p.write(at(name, "", 1), "x")
		if got := p.read(at(name, "", 2)); got != "x" {
			p.t.Errorf("read %q", got)
		}
		p.remove(name)
	}
	for range clients { // what stays for good is there now
		turn(p, false)
		turn(p, true)
	}
	fds, rss, threadsBefore := descriptors(t, d.PID()), memory(t, d.PID(), "VmRSS"), threads(t, d.PID())
	var done atomic.Int64
	t.Run("clients", func(t *testing.T) {
		for i := range clients {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				p := newPeer(t, p.conn)
				for n := done.Add(1); n <= pipes+processes; n = done.Add(1) {
					turn(p, n%((pipes+processes)/processes) == 0)
				}
			})
		}
	})
	eventually(t, "the daemon has as many descriptors as before", func() bool { return descriptors(t, d.PID()) <= fds })
	if left := d.Children(); len(left) > 0 {
		t.Errorf("children are left: %v", left)
	}
	info, err := p.server.GetServerInfo(p.ctx(), &pipedv1.GetServerInfoRequest{})
	if err != nil || info.GetActiveSessions()+info.GetEndedSessions() != 0 {
		t.Errorf("sessions are left: %v, %v", info, err)
	}
	threadsAfter, grown := threads(t, d.PID()), memory(t, d.PID(), "VmRSS")-rss
	t.Logf("%d descriptors, %d threads (%d before), memory grew by %s", fds, threadsAfter, threadsBefore, mib(grown))
	// Go keeps threads; a goroutine that leaks with each session would take 2 KiB
	// each, and one that is stuck in a system call a thread.
	if threadsAfter > threadsBefore+50 || grown > 24<<20 {
		t.Errorf("%d threads after %d, memory grew by %s", threadsAfter, threadsBefore, mib(grown))
	}
	d.Stop() // waits for every goroutine that the daemon owns
}
