package exact

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A usage is what a process has of what sessions need.
type usage struct {
	descriptors, memfds int
	rss, peak           int64
	// open are what the descriptors are of.
	open []string
}

// fits says that no descriptors have been added.
func (u usage) fits(before usage) bool {
	return u.descriptors <= before.descriptors && u.memfds <= before.memfds
}

// use returns what a process has now.
func use(t testing.TB, pid int) usage {
	t.Helper()
	var u usage
	dir := fmt.Sprintf("/proc/%d", pid)
	entries, err := os.ReadDir(dir + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		// One may be closed meanwhile.
		target, err := os.Readlink(filepath.Join(dir, "fd", e.Name()))
		if err != nil {
			continue
		}
		u.descriptors++
		u.open = append(u.open, target)
		if strings.HasPrefix(target, "/memfd:") {
			u.memfds++
		}
	}
	u.rss, u.peak = figure(t, pid, "VmRSS"), figure(t, pid, "VmHWM")
	return u
}

// figure returns a figure of /proc/PID/status in bytes.
func figure(t testing.TB, pid int, name string) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(status) {
		if value, ok := strings.CutPrefix(string(line), name+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no %s in %s", name, status)
	return 0
}

// forgetPeak makes the peak of a process what it has now.
func forgetPeak(t testing.TB, pid int) {
	t.Helper()
	// 5 sets the peak back: proc_pid_clear_refs(5).
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}
