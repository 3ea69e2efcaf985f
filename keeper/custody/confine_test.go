package custody_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/cgroup"
)

// confined skips a test where this machine has no cgroups for it. The CI machine has.
func confined(t *testing.T, link *keeper.Link) {
	t.Helper()
	if has := link.Info().Cgroups; !has.Used {
		if os.Getenv("CI") != "" && os.Geteuid() == 0 {
			t.Fatalf("root has no cgroups: %s", has.Why)
		}
		t.Skip(has.Why)
	}
}

// marked returns the processes that have a variable in their environment.
func marked(variable string) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range all {
		text, _ := os.ReadFile(path) // it may be gone
		if bytes.Contains(text, []byte(variable+"\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// escapes is a script that leaves a descendant behind, in a session of its own and
// with another parent, and says so.
func escapes(t *testing.T, mark string) keeper.Spec {
	t.Helper()
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Fatal(err)
	}
	spec := shell(`(setsid sh -c 'trap "" TERM HUP; echo ready >&2; while :; do sleep 1000; done' &) ; exec sleep 1000`)
	spec.Env = append(spec.Env, mark)
	return spec
}

func awaitMarked(t *testing.T, mark string, want int) {
	t.Helper()
	waitFor(t, strconv.Itoa(want)+" processes", func() bool { return len(marked(mark)) == want })
}

func mark(t *testing.T) string {
	return "PIPED_TEST_MARK=" + strings.ReplaceAll(t.Name(), "/", ".") + strconv.Itoa(os.Getpid())
}

func TestDroppedAccountLeavesNoDescendant(t *testing.T) {
	o := options(t)
	link, _ := connect(t, o)
	confined(t, link)
	mark := mark(t)
	a := enter(t, link, 1)
	p := start(t, a, 1, escapes(t, mark))
	if !p.Confined() {
		t.Error("it is not confined")
	}
	awaitMarked(t, mark, 3)
	began := time.Now()
	a.Leave()
	t.Logf("gone after %v", time.Since(began))
	if left := marked(mark); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	tree, err := cgroup.Find(cgroup.Auto, o.Socket)
	if err != nil {
		t.Fatal(err)
	}
	if left := tree.Sessions(); len(left) > 0 {
		t.Errorf("cgroups left: %v", left)
	}
}

func TestSweepReachesWhoHasEscapedAlsoAfterAnUpgrade(t *testing.T) {
	link, _ := connect(t, options(t))
	confined(t, link)
	mark := mark(t)
	p := start(t, enter(t, link, 1), 1, escapes(t, mark))
	awaitMarked(t, mark, 3)
	upgraded(t, link.Info().Pid)
	if err := p.SignalGroup(unix.SIGTERM, true); err != nil {
		t.Fatal(err)
	}
	exit(t, p)
	awaitMarked(t, mark, 0)
}

func TestNobodySurvivesKeeperAndFront(t *testing.T) {
	o := options(t)
	link, _ := connect(t, o)
	confined(t, link)
	mark := mark(t)
	start(t, enter(t, link, 1), 1, escapes(t, mark))
	awaitMarked(t, mark, 3)
	if err := unix.Kill(link.Info().Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := link.Close(); err != nil {
		t.Fatal(err)
	}
	// Without its registry the next keeper knows only what the cgroups say.
	if err := os.Remove(o.Socket + ".registry"); err != nil {
		t.Fatal(err)
	}
	connect(t, o)
	awaitMarked(t, mark, 0)
}

func TestUsageOfASession(t *testing.T) {
	link, _ := connect(t, options(t))
	confined(t, link)
	a := enter(t, link, 1)
	if used, err := a.Usage(); used != nil || err != nil {
		t.Errorf("without a process: %+v, %v", used, err)
	}
	start(t, a, 1, shell("while :; do :; done"))
	waitFor(t, "CPU time", func() bool {
		used, err := a.Usage()
		return err == nil && used != nil && used.CPU > 0 && used.Processes == 1
	})
}

func TestFrontThatLivesKeepsWhatNoRecordSays(t *testing.T) {
	o := options(t)
	link, _ := connect(t, o)
	confined(t, link)
	mark := mark(t)
	p := start(t, enter(t, link, 1), 1, escapes(t, mark))
	awaitMarked(t, mark, 3)
	if err := os.Remove(o.Socket + ".registry"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(link.Info().Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a new keeper", func() bool { now := link.Info(); return now.Restarts == 1 && now.Away.IsZero() })
	if left := marked(mark); len(left) != 3 || !p.Confined() {
		t.Errorf("left: %v, confined: %v", left, p.Confined())
	}
	if err := p.SignalGroup(unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	awaitMarked(t, mark, 0)
}
