package children

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// spawnerOf returns the process id of the spawner of a keeper, or 0.
func spawnerOf(keeper int) int {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", keeper))
	for _, path := range lists {
		list, _ := os.ReadFile(path) // the thread may end at any time
		for field := range strings.FieldsSeq(string(list)) {
			command, _ := os.ReadFile("/proc/" + field + "/cmdline")
			var pid int
			if _, err := fmt.Sscan(field, &pid); err == nil && strings.HasPrefix(string(command), "piped-spawner") {
				return pid
			}
		}
	}
	return 0
}

// A usage is what the daemon, its keeper and the spawner have: descriptors each,
// and processes besides them.
type usage struct {
	front, keeper, spawner, children int
}

// use returns what they have now.
func (h *host) use() usage {
	h.t.Helper()
	return usage{descriptors(h.PID()), descriptors(h.KeeperPID()), descriptors(spawnerOf(h.KeeperPID())), len(h.Children())}
}

// wantNoMore waits until there is no more than before.
func (h *host) wantNoMore(before usage) {
	h.t.Helper()
	var now usage
	if !await(func() bool {
		now = h.use()
		return now.front <= before.front && now.keeper <= before.keeper && now.spawner <= before.spawner && now.children <= before.children
	}) {
		h.t.Errorf("%+v is left of what was %+v before", now, before)
	}
}

// descriptors returns how many a process has; none when it is gone.
func descriptors(pid int) int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries)
}

// resident returns the memory of a process in bytes.
func resident(t testing.TB, pid int) (n int64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n << 10
}
