package processes

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

func TestP0ChildHasExactlyTheDeclaredDescriptorsWhileOthersComeAndGo(t *testing.T) {
	r := newRow(t, "P0-fds", "--ended-max", "10")
	n := sized(1000, 20_000)
	over := make(chan struct{})
	var others sync.WaitGroup
	churned := 0
	others.Go(func() {
		for ; churned < 2*n; churned++ {
			select {
			case <-over:
				return
			default:
			}
			name := fmt.Sprintf("other-%d", churned)
			r.create(name, nil, &pipedv1.PipeSpec{Name: "a"}, &pipedv1.PipeSpec{Name: "b", Kind: pipedv1.Pipe_KIND_ONE_WAY})
			r.remove(name)
		}
	})
	right := each(n, r.declared)
	close(over)
	others.Wait()
	r.note("spawns=%d/%d sessions_beside=%d", right, n, churned)
	if right != n {
		t.Errorf("%d of %d children have what was declared", right, n)
	}
	r.finish()
}

// declared starts a child with a set of descriptors and compares what it has.
func (r *row) declared(i int) bool {
	name := fmt.Sprintf("declared-%d", i)
	p := &pipedv1.ProcessSpec{Args: plays(r.t, "fds"), Stderr: pipedv1.StdioMode_STDIO_MODE_NULL}
	want := []string{"0", "1", "2"}
	var pipes []*pipedv1.PipeSpec
	for k := range i % 4 {
		fd := int32(3 + k*(1+i%60))
		pipe := fmt.Sprintf("pipe%d", k)
		pipes = append(pipes, &pipedv1.PipeSpec{Name: pipe})
		p.Inherits = append(p.Inherits, &pipedv1.Inherit{Pipe: pipe, End: 2, Fd: fd, HandOver: k%2 == 0})
		want = append(want, fmt.Sprint(fd))
	}
	if i%5 == 0 {
		p.Umask = new(uint32(0o77)) // through a stage
	}
	if r.create(name, p, pipes...) == nil {
		return false
	}
	defer r.remove(name)
	text, _ := r.text(name, "stdio")
	got := strings.Fields(text)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		r.t.Errorf("%s has %q, want %q", name, got, want)
		return false
	}
	return true
}

// told are variables that a service manager, a person or a test gives a daemon,
// and that are none of a child's business.
var told = []string{
	"NOTIFY_SOCKET=/nowhere", "INVOCATION_ID=canary", "JOURNAL_STREAM=8:canary", "CREDENTIALS_DIRECTORY=/canary", "MANAGERPID=1",
	"SYSTEMD_EXEC_PID=canary", "GOMEMLIMIT=8GiB", "GOTRACEBACK=single",
}

func TestP0ChildKnowsNothingOfItsDaemon(t *testing.T) {
	r := newRowWith(t, "P0-env", daemon.Options{Env: append([]string{"SECRET=canary"}, told...)})
	leaked := 0
	for base, canary := range map[pipedv1.EnvironmentBase]bool{
		pipedv1.EnvironmentBase_ENVIRONMENT_BASE_UNSPECIFIED: false, pipedv1.EnvironmentBase_ENVIRONMENT_BASE_NONE: false,
		pipedv1.EnvironmentBase_ENVIRONMENT_BASE_MINIMAL: false, pipedv1.EnvironmentBase_ENVIRONMENT_BASE_ALL: true,
	} {
		name := fmt.Sprintf("env-%d", base)
		r.create(name, &pipedv1.ProcessSpec{Args: []string{"/usr/bin/env"}, EnvironmentBase: base, Stderr: pipedv1.StdioMode_STDIO_MODE_NULL})
		text, _ := r.text(name, "stdio")
		if got := strings.Contains(text, "SECRET=canary\n"); got != canary {
			t.Errorf("%v: the daemon's environment in the child: %t, want %t", base, got, canary)
		}
		for _, kv := range told {
			if key, _, _ := strings.Cut(kv, "="); strings.Contains("\n"+text, "\n"+key+"=") {
				leaked++
				t.Errorf("%v: the child has %s", base, key)
			}
		}
	}
	r.note("variables=%d leaked=%d", len(told), leaked)
	r.finish()
}

func TestP0ChildIsBornClean(t *testing.T) {
	r := newRow(t, "P0-status")
	for name, p := range map[string]*pipedv1.ProcessSpec{
		"forked": {},
		"staged": {Nice: new(int32(1))},
		"locked": {Nice: new(int32(1)), NoNewPrivileges: true, Umask: new(uint32(0o27))},
	} {
		p.Args, p.Stderr = []string{"/bin/cat", "/proc/self/status", "/proc/self/stat"}, pipedv1.StdioMode_STDIO_MODE_NULL
		s := r.create(name, p)
		text, _ := r.text(name, "stdio")
		got, want := fields(text), r.bornWith(name == "locked")
		for key, value := range want {
			if got[key] != value {
				t.Errorf("%s: %s is %q, want %q", name, key, got[key], value)
			}
		}
		// pid (comm) state ppid pgrp session tty: a session and a group of its own, no terminal.
		pid := s.GetProcesses()[0].GetPid()
		if leads := fmt.Sprintf(") R %d %d %d 0 ", r.d.KeeperPID(), pid, pid); !strings.Contains(text, leads) {
			t.Errorf("%s: want %q in %q", name, leads, text[strings.LastIndex(text, ")"):])
		}
	}
	r.note("fields=%s", strings.Join(slices.Sorted(maps.Keys(r.bornWith(false))), ","))
	r.finish()
}

// bornWith is what /proc/self/status of a child says: no signal is blocked, ignored
// or caught, and what it may do is what the daemon may.
func (r *row) bornWith(locked bool) map[string]string {
	r.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.d.KeeperPID()))
	if err != nil {
		r.t.Fatal(err)
	}
	keeper, want := fields(string(text)), make(map[string]string)
	for _, key := range []string{"SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"} {
		want[key] = strings.Repeat("0", 16)
	}
	for _, key := range []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Seccomp", "Umask", "Cpus_allowed"} {
		want[key] = keeper[key]
	}
	want["TracerPid"], want["Threads"], want["NoNewPrivs"] = "0", "1", "0"
	if locked {
		want["NoNewPrivs"], want["Umask"] = "1", "0027"
	}
	return want
}

// fields reads what is KEY: VALUE in a line each.
func fields(text string) map[string]string {
	all := make(map[string]string)
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			all[key] = strings.TrimSpace(value)
		}
	}
	return all
}

func TestP0SignalToItsOwnGroupReachesNobodyElse(t *testing.T) {
	r := newRow(t, "P0-kill0")
	r.create("beside", &pipedv1.ProcessSpec{Args: []string{"/bin/cat"}})
	signals := []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGKILL, syscall.SIGUSR1}
	for _, sig := range signals {
		name := fmt.Sprintf("kill0-%d", sig)
		r.create(name, &pipedv1.ProcessSpec{Args: plays(t, "kill0", fmt.Sprint(int(sig)))})
		if exit := r.wait(name).GetExit(); exit.GetSignalNumber() != int32(sig) {
			t.Errorf("exit %v, want signal %d", exit, sig)
		}
	}
	ctx, cancel := r.ctx()
	defer cancel()
	if p, err := r.c.Wait(ctx, "beside", "", 0); err != nil || p.GetState() != pipedv1.Process_STATE_RUNNING {
		t.Errorf("the process beside: %v, %v; want it running", p, err)
	}
	r.note("signals=%d daemon=alive keeper=alive", len(signals))
	r.finish()
}
