package keeper_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/keepertest"
)

// needCgroups skips a test where the keeper has none.
func needCgroups(t *testing.T, link *keeper.Link) {
	t.Helper()
	if c := link.Info().Cgroups; !c.Used {
		t.Skip("no cgroups: " + c.Why)
	}
}

// escape is a script that leaves a descendant in a session of its own, whose parent
// is gone, and that prints its number.
const escape = `setsid sh -c 'sleep 1000 </dev/null & echo $!' ; `

// pidAlive reports whether a process runs: one that is gone and not yet reaped does
// not.
func pidAlive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	after := text[strings.LastIndexByte(string(text), ')')+1:]
	return !strings.HasPrefix(strings.TrimSpace(string(after)), "Z")
}

// groupsOf returns the directories of cgroups that keepers have made for a session.
func groupsOf(t *testing.T, uid keeper.UID) []string {
	t.Helper()
	var all []string
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		found, err := filepath.Glob(mount + fmt.Sprintf("/piped-*/%x-%x-%x-%x-%x", uid[:4], uid[4:6], uid[6:8], uid[8:10], uid[10:]))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

func TestTreeIsKilledWhereverItHasGone(t *testing.T) {
	k := newKeeper(t)
	needCgroups(t, k.Link)
	for name, end := range map[string]func(p keeper.Process) error{
		"killed":                    func(p keeper.Process) error { return p.SignalGroup(unix.SIGKILL, false) },
		"terminated":                func(p keeper.Process) error { return p.SignalGroup(unix.SIGTERM, false) },
		"swept at its leader's end": func(p keeper.Process) error { return p.SignalGroup(0, true) },
	} {
		t.Run(name, func(t *testing.T) {
			script := escape + "echo ready; sleep 1000"
			if strings.HasPrefix(name, "swept") {
				script = escape + "echo ready; read line"
			}
			out, w := pipe(t)
			in, feed := blockingPipe(t)
			spec := program("/bin/sh", "-c", script)
			spec.Files = []keeper.File{{FD: 0, Source: in}, {FD: 1, Source: w}, {FD: 2, Source: 2}}
			p := start(t, k, spec)
			closeFD(t, w)
			if !p.Confined() {
				t.Fatal("it has no cgroup")
			}
			line := readLine(t, out)
			escaped, err := strconv.Atoi(line)
			if err != nil || !pidAlive(escaped) {
				t.Fatalf("it says %q", line)
			}
			if line := readLine(t, out); line != "ready" {
				t.Fatalf("it says %q", line)
			}
			if err := end(p); err != nil {
				t.Fatal(err)
			}
			closeFD(t, feed)
			closeFD(t, in)
			waitDone(t, p)
			eventually(t, "the descendant is gone", func() bool { return !pidAlive(escaped) })
		})
	}
}

func TestKillReachesAProcessThatHasLeftItsCgroup(t *testing.T) {
	k := newKeeper(t)
	needCgroups(t, k.Link)
	out, w := pipe(t)
	spec := program("/bin/sh", "-c", "echo ready; exec sleep 1000")
	spec.Files = []keeper.File{{FD: 0, Source: -1}, {FD: 1, Source: w}, {FD: 2, Source: 2}}
	p := start(t, k, spec)
	closeFD(t, w)
	if line := readLine(t, out); line != "ready" {
		t.Fatalf("it says %q", line)
	}
	groups := groupsOf(t, keeper.UID{1})
	if len(groups) != 1 {
		t.Fatalf("the cgroups of the session: %v", groups)
	}
	root := filepath.Dir(filepath.Dir(groups[0]))
	if err := os.WriteFile(root+"/cgroup.procs", []byte(strconv.Itoa(p.Pid())), 0); err != nil {
		t.Fatal(err)
	}
	if err := p.SignalGroup(unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	waitDone(t, p)
}

// escaped starts a script that leaves a descendant behind and ends, and returns the
// descendant.
func escaped(t *testing.T, k *front) (pid int) {
	t.Helper()
	out, w := pipe(t)
	spec := program("/bin/sh", "-c", escape)
	spec.Files = []keeper.File{{FD: 0, Source: -1}, {FD: 1, Source: w}, {FD: 2, Source: 2}}
	p := start(t, k, spec)
	closeFD(t, w)
	line := readLine(t, out)
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatalf("it says %q", line)
	}
	waitDone(t, p)
	if !pidAlive(pid) {
		t.Fatal("the descendant has not outlived the process")
	}
	return pid
}

func TestLeaveEndsWhatProcessesHaveLeftBehind(t *testing.T) {
	k := newKeeper(t)
	needCgroups(t, k.Link)
	pid := escaped(t, k)
	k.account.Leave()
	if pidAlive(pid) {
		t.Error("the descendant is left")
	}
	if left := groupsOf(t, keeper.UID{1}); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestNextKeeperEndsWhatIsLeftOfASessionThatWasLost(t *testing.T) {
	o := keepertest.Options(t)
	link := keepertest.Connect(t, o)
	needCgroups(t, link)
	pid := escaped(t, newFront(t, link))
	dead := link.Info().Pid
	if err := link.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(dead, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the keeper is gone", func() bool { return !pidAlive(dead) })
	if !pidAlive(pid) {
		t.Fatal("the descendant died with the keeper, which proves nothing")
	}
	link, estate, err := keeper.Connect(t.Context(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(estate.Lost) != 1 {
		t.Errorf("lost: %v", estate.Lost)
	}
	eventually(t, "the descendant is gone, and the cgroup", func() bool { return !pidAlive(pid) && len(groupsOf(t, keeper.UID{1})) == 0 })
	if err := link.End(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTreeIsStillCertainForTheNextKeeper(t *testing.T) {
	k := newKeeper(t)
	needCgroups(t, k.Link)
	out, w := pipe(t)
	spec := program("/bin/sh", "-c", escape+"echo ready; sleep 1000")
	spec.Files = []keeper.File{{FD: 0, Source: -1}, {FD: 1, Source: w}, {FD: 2, Source: 2}}
	p := start(t, k, spec)
	closeFD(t, w)
	pid, err := strconv.Atoi(readLine(t, out))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(k.Info().Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new keeper", func() bool { now := k.Info(); return now.Restarts == 1 && now.Away.IsZero() })
	if !p.Confined() || !pidAlive(pid) {
		t.Fatalf("after the keeper's death: confined %v, alive %v", p.Confined(), pidAlive(pid))
	}
	if err := p.SignalGroup(unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	waitDone(t, p)
	eventually(t, "the descendant is gone", func() bool { return !pidAlive(pid) })
}

// bomb is a script that forks as fast as it can, each copy in a session of its own.
const bomb = "while :; do setsid sh $0 2>/dev/null & done\n"

// guard returns a cgroup of version 1 that bounds how many processes there are, so
// that a defect of what is tested here is not the end of the machine.
func guard(t *testing.T, most int) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("/sys/fs/cgroup/pids", "piped-test-") //nolint:usetesting // a cgroup
	if err != nil {
		t.Skip("no cgroup that could hold a fork bomb: ", err)
	}
	t.Cleanup(func() {
		eventually(t, "the guard is empty", func() bool { return os.Remove(dir) == nil })
	})
	if err := os.WriteFile(dir+"/pids.max", []byte(strconv.Itoa(most)), 0); err != nil {
		t.Fatal(err)
	}
	return dir
}

// membersOf returns how many processes a cgroup has.
func membersOf(t *testing.T, dir string) (n int) {
	t.Helper()
	file, err := os.Open(dir + "/cgroup.procs")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for lines := bufio.NewScanner(file); lines.Scan(); n++ {
		_ = lines.Text()
	}
	return n
}

func TestForkBombIsEndedWithItsSession(t *testing.T) {
	k := newKeeper(t)
	needCgroups(t, k.Link)
	dir := guard(t, 300)
	script := filepath.Join(t.TempDir(), "bomb")
	if err := os.WriteFile(script, []byte(bomb), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, k, program("/bin/sh", "-c", "echo $$ >"+dir+"/cgroup.procs && exec sh "+script))
	eventually(t, "the bomb goes off", func() bool { return membersOf(t, dir) >= 100 })
	begun := time.Now()
	k.account.Leave()
	took := time.Since(begun)
	if n := membersOf(t, dir); n > 0 {
		t.Errorf("survivors=%d", n)
	}
	t.Logf("survivors=0 after %v", took.Round(time.Microsecond))
}

func TestFailedStartLeavesNoCgroup(t *testing.T) {
	k := newKeeper(t)
	needCgroups(t, k.Link)
	if _, err := k.Start(context.Background(), program("/nowhere/nothing")); err == nil {
		t.Fatal("it was started")
	}
	k.account.Leave()
	if left := groupsOf(t, keeper.UID{1}); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestLimitsThatAreNotThereAreRefused(t *testing.T) {
	o := keepertest.Options(t)
	o.Cgroup = "off"
	k := newFront(t, keepertest.Connect(t, o))
	err := k.account.Confine(keeper.SessionLimits{MemoryMax: 1 << 30})
	var missing *keeper.CgroupError
	if !errors.As(err, &missing) || missing.Controller != "" || !strings.Contains(missing.Why, "--cgroup off") {
		t.Errorf("without cgroups: %v", err)
	}
	if p := start(t, k, program("/bin/sleep", "1000")); p.Confined() {
		t.Error("a process is confined where cgroups are off")
	}
	with := newKeeper(t)
	needCgroups(t, with.Link)
	if len(with.Info().Cgroups.Controllers) > 0 {
		t.Skip("every controller is there")
	}
	err = with.account.Confine(keeper.SessionLimits{PidsMax: 10})
	if !errors.As(err, &missing) || missing.Controller != "pids" {
		t.Errorf("without the controller: %v", err)
	}
}

func TestTreeWithoutCgroupsIsWhoeverStillHasHisParents(t *testing.T) {
	for name, end := range map[string]func(k *front, p keeper.Process) error{
		"killed":  func(_ *front, p keeper.Process) error { return p.SignalGroup(unix.SIGKILL, false) },
		"dropped": func(k *front, _ keeper.Process) error { k.account.Leave(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			o := keepertest.Options(t)
			o.Cgroup = "off"
			k := newFront(t, keepertest.Connect(t, o))
			out, w := pipe(t)
			spec := program("/bin/sh", "-c", "setsid sh -c 'setsid sleep 1000 </dev/null & echo $!; wait' & wait")
			spec.Files = []keeper.File{{FD: 0, Source: -1}, {FD: 1, Source: w}, {FD: 2, Source: 2}}
			p := start(t, k, spec)
			closeFD(t, w)
			pid, err := strconv.Atoi(readLine(t, out))
			if err != nil || p.Confined() {
				t.Fatal(p.Confined(), err)
			}
			if err := end(k, p); err != nil {
				t.Fatal(err)
			}
			waitDone(t, p)
			eventually(t, "the descendant is gone", func() bool { return !pidAlive(pid) })
		})
	}
}
