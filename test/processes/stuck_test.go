package processes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/keeper/keepertest"
)

func TestP4ProcessThatCannotHearIsEnded(t *testing.T) {
	r := newRow(t, "P4")
	for kind, p := range map[string]*pipedv1.ProcessSpec{
		"stopped":  {Args: []string{"/bin/sh", "-c", "echo stopping; kill -STOP $$"}},
		"traced":   {Args: plays(t, "traced")},
		"attached": {Args: plays(t, "attached")},
		"deaf":     {Args: plays(t, "deaf")},
		"tree":     {Args: []string{"/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo stopping; wait"}},
	} {
		var deletions, stops []time.Duration
		for i := range sized(5, 50) {
			deletions = append(deletions, r.ends(fmt.Sprintf("%s-%d", kind, i), p, false))
			stops = append(stops, r.ends(fmt.Sprintf("%s-stop-%d", kind, i), p, true))
		}
		r.note("%s_kill_us=%d/%d", kind, middle(deletions).Microseconds(), middle(stops).Microseconds())
	}
	r.finish()
}

// ends starts a process that then cannot hear, ends it by a stop or by deleting its
// session, and returns how long that took. Nobody of its group may be left then.
func (r *row) ends(name string, p *pipedv1.ProcessSpec, stop bool) time.Duration {
	r.t.Helper()
	p.Stderr = pipedv1.StdioMode_STDIO_MODE_NULL
	s := r.create(name, p)
	if s == nil {
		return 0
	}
	pid := int(s.GetProcesses()[0].GetPid())
	ctx, cancel := r.ctx()
	defer cancel()
	rd, err := r.c.Endpoint(client.Ref{Session: name}).NewReader(ctx, client.ReaderOptions{})
	if err != nil {
		r.t.Error(err)
		return 0
	}
	if m, err := rd.Next(ctx); err != nil || string(m.Data) != "stopping" {
		r.t.Errorf("%s says %q, %v", name, m.Data, err)
	}
	if !strings.HasPrefix(name, "deaf") && !strings.HasPrefix(name, "tree") && !await(func() bool { return strings.ContainsAny(state(pid), "Tt") }) {
		r.t.Errorf("%s is %q, want it stopped", name, state(pid))
	}
	// One that stands still has not exited, whoever else does.
	r.lives("beside-" + name)
	if got, err := r.c.Get(ctx, name); err != nil || got.GetProcesses()[0].GetState() != pipedv1.Process_STATE_RUNNING {
		r.t.Errorf("%s: %v, %v; want it running", name, got.GetProcesses(), err)
	}
	began := time.Now()
	if stop {
		policy := &pipedv1.StopPolicy{CloseGrace: durationpb.New(0), SkipSignal: new(true), Scope: pipedv1.StopPolicy_SCOPE_TREE}
		stopped, err := r.c.StopProcess(ctx, &pipedv1.StopProcessRequest{Session: name, Policy: policy})
		if exit := stopped.GetExit(); err != nil || exit.GetSignalNumber() != int32(syscall.SIGKILL) {
			r.t.Errorf("%s: exit %v, %v; want KILL", name, exit, err)
		}
	}
	if err := rd.Close(ctx); err != nil {
		r.t.Error(err)
	}
	r.remove(name)
	took := time.Since(began)
	// A deletion ends the process, a stop of the tree also what it has started.
	if attached, tree := strings.HasPrefix(name, "attached"), strings.HasPrefix(name, "tree"); !stop && (attached || tree) {
		if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil {
			r.t.Errorf("%s: what it has started: %v", name, err)
		}
	}
	if !await(func() bool { return state(pid) == "" && !anybodyIn(pid) }) {
		r.t.Errorf("%s: somebody of group %d is left", name, pid)
	}
	return took
}

// state returns the letter of a process in /proc/PID/stat, or "".
func state(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return rest[:1]
}

// anybodyIn says whether somebody of a process group runs. Zombies do not count:
// orphans are reaped by the first process of the machine, when it likes.
func anybodyIn(group int) bool {
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range all {
		text, _ := os.ReadFile(path) // it may be gone
		_, rest, _ := strings.Cut(string(text), ") ")
		if f := strings.Fields(rest); len(f) > 2 && f[0] != "Z" && f[2] == fmt.Sprint(group) {
			return true
		}
	}
	return false
}

func TestP4ProcessThatWaitsForAHungFileSystemIsEnded(t *testing.T) {
	dir := keepertest.Hung(t)
	r := newRow(t, "P4-hung")
	p := &pipedv1.ProcessSpec{Args: []string{"/bin/sh", "-c", `echo stopping; exec cat "$0"`, filepath.Join(dir, "file")}, Stderr: pipedv1.StdioMode_STDIO_MODE_NULL}
	var took []time.Duration
	for i := range sized(5, 50) {
		// Its name may not begin as one that is stopped: it waits in the kernel.
		took = append(took, r.ends(fmt.Sprintf("deaf-hung-%d", i), p, i%2 == 0))
	}
	r.note("kill_us=%d", middle(took).Microseconds())
	r.finish()
}
