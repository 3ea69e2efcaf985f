package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Limit is one limit of a session.
type Limit struct {
	Resource Resource
	Value    uint64
}

// Resource is what is limited. The numbers travel and must not change.
type Resource uint8

// The resources.
const (
	MemoryMax  Resource = iota + 1 // bytes; above, a process of the session is killed
	MemoryHigh                     // bytes; above, the session is slowed down
	CPUMax                         // thousandths of a CPU
	CPUWeight                      // 1 to 10,000; 100 is what others have
	PidsMax                        // processes and threads
	IOWeight                       // 1 to 10,000; 100 is what others have
)

// cpuPeriod is that of cpu.max, in microseconds: the kernel's default.
const cpuPeriod = 100_000

// files say where a limit is written, and by which controller.
var files = map[Resource]struct {
	controller Controller
	name       string
	text       func(value uint64) string
}{
	MemoryMax:  {Memory, "memory.max", number},
	MemoryHigh: {Memory, "memory.high", number},
	CPUMax:     {CPU, "cpu.max", func(v uint64) string { return fmt.Sprintf("%d %d", v*cpuPeriod/1000, cpuPeriod) }},
	CPUWeight:  {CPU, "cpu.weight", number},
	PidsMax:    {Pids, "pids.max", number},
	IOWeight:   {IO, "io.weight", number},
}

func number(value uint64) string { return strconv.FormatUint(value, 10) }

// Confine gives a session limits. It makes the session's cgroup if it is not there.
func (t *Tree) Confine(uid UID, limits []Limit) error {
	if err := t.makeSession(uid); err != nil {
		return err
	}
	for _, l := range limits {
		f, known := files[l.Resource]
		if !known {
			return fmt.Errorf("resource %d is not known", l.Resource)
		}
		if !slices.Contains(t.enabled, f.controller) {
			return fmt.Errorf("the cgroup controller %q is not there", f.controller)
		}
		if err := write(filepath.Join(t.session(uid), f.name), f.text(l.Value)); err != nil {
			return err
		}
	}
	return nil
}

// OutOfMemory reports whether a process of the cgroup was killed because the
// session's memory, or that of something around it, had run out.
func (t *Tree) OutOfMemory(uid UID, key uint32) bool {
	return values(filepath.Join(t.process(uid, key), "memory.events"))["oom_kill"] > 0
}

// A Usage is what a session uses, and has used. What no controller counts is -1.
type Usage struct {
	Memory, MemoryPeak int64 // bytes, with what the kernel caches for it
	CPU                int64 // microseconds
	Throttled          int64 // microseconds that it had to wait because of its limit
	Processes          int64 // processes and threads where the controller is there, else processes
	OutOfMemory        int64 // kills for want of memory; one process may count more than once
}

// Measure returns what a session uses; nil if it has no cgroup.
func (t *Tree) Measure(uid UID) (*Usage, error) {
	dir := t.session(uid)
	cpu := values(filepath.Join(dir, "cpu.stat")) // there without the controller too
	if cpu == nil {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return nil, nil
	}
	u := &Usage{
		Memory: single(filepath.Join(dir, "memory.current")), MemoryPeak: single(filepath.Join(dir, "memory.peak")),
		CPU: cpu["usage_usec"], Throttled: -1, Processes: single(filepath.Join(dir, "pids.current")), OutOfMemory: -1,
	}
	if t, counted := cpu["throttled_usec"]; counted {
		u.Throttled = t
	}
	if events := values(filepath.Join(dir, "memory.events")); events != nil {
		u.OutOfMemory = events["oom_kill"]
	}
	if u.Processes < 0 {
		u.Processes = members(dir)
	}
	return u, nil
}

// members counts the processes in a cgroup and those inside.
func members(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			text, _ := os.ReadFile(filepath.Join(path, membersFile)) // one that is gone has none
			n += int64(len(strings.Fields(string(text))))
		}
		return nil //nolint:nilerr // what is gone does not count
	})
	return n
}

// single reads a file with one number, -1 if there is none.
func single(path string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return -1
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// values reads a file of names and numbers, nil if there is none.
func values(path string) map[string]int64 {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	all := make(map[string]int64)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			all[name] = n
		}
	}
	return all
}
