// Package limits shows what holds of sessions with limits, with the programs as they
// are installed, where there is a cgroup to hold it: what a machine does not have is
// skipped. All of it is there in `make vm-limits`.
package limits

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// roleVariable makes this program a child that uses something.
const roleVariable = "PIPED_LIMITS_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "eat":
		eat()
	case "burn":
		burn()
	}
	daemon.Main(m)
}

// eat takes all memory that it is given.
func eat() {
	var all [][]byte
	for {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		all = append(all, block)
		if len(all) == 1<<12 { // nobody has stopped it at 4 GiB
			os.Exit(1)
		}
	}
}

// burn takes two CPUs.
func burn() {
	for range 2 {
		go func() {
			for {
				_ = time.Now()
			}
		}()
	}
	select {}
}

// program returns the spec of this program in a role.
func program(t *testing.T, role string) *pipedv1.ProcessSpec {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &pipedv1.ProcessSpec{Name: role, Args: []string{self}, Env: []string{roleVariable + "=" + role}}
}

// need skips a test where a controller is not there; without a name, where there are
// no cgroups.
func need(t *testing.T, c *client.Client, controller string) {
	t.Helper()
	info, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	groups := info.GetCgroups()
	if !groups.GetUsed() {
		t.Skip("no cgroups: " + groups.GetReason())
	}
	if controller != "" && !slices.Contains(groups.GetControllers(), controller) {
		t.Skipf("no controller %s, only %v", controller, groups.GetControllers())
	}
}

func create(t *testing.T, c *client.Client, req *pipedv1.CreateSessionRequest) *pipedv1.Session {
	t.Helper()
	s, err := c.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(daemon.Patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not so: %s", what)
		}
	}
}

// running counts the processes whose command line has a text in it.
func running(t *testing.T, text string) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		line, _ := os.ReadFile(path) // it may be gone
		if strings.Contains(string(line), text) && path != fmt.Sprintf("/proc/%d/cmdline", os.Getpid()) {
			n++
		}
	}
	return n
}

func TestSessionWithoutMemoryIsToldAsThat(t *testing.T) {
	d := daemon.Start(t)
	c := d.Dial(t)
	need(t, c, "memory")
	neighbour := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: []string{"cat"}}})
	front, keeper := d.PID(), d.KeeperPID()
	s := create(t, c, &pipedv1.CreateSessionRequest{Process: program(t, "eat"), Resources: &pipedv1.Resources{MemoryMax: 96 << 20}})
	p, err := c.Wait(t.Context(), s.GetName(), "eat", daemon.Patience)
	if err != nil {
		t.Fatal(err)
	}
	if e := p.GetExit(); e.GetSignal() != "KILL" || !e.GetOom() || e.GetCause() != pipedv1.Exit_CAUSE_OOM {
		t.Errorf("the exit is told as %v", e)
	}
	// The same after a keeper's death, with the limit that the daemon has told the next.
	d.KillKeeper(9)
	eventually(t, "another keeper", func() bool {
		info, err := c.Info(t.Context())
		return err == nil && info.GetKeeper().GetAwaySince() == nil && int(info.GetKeeper().GetPid()) != keeper
	})
	again := program(t, "eat")
	again.Name = "again"
	if _, err := c.Start(t.Context(), &pipedv1.StartProcessRequest{Session: s.GetName(), Process: again}); err != nil {
		t.Fatal(err)
	}
	if p, err = c.Wait(t.Context(), s.GetName(), "again", daemon.Patience); err != nil {
		t.Fatal(err)
	}
	if !p.GetExit().GetOom() {
		t.Errorf("under the next keeper the exit is told as %v", p.GetExit())
	}
	looked, err := c.Inspect(t.Context(), s.GetName())
	if err != nil {
		t.Fatal(err)
	}
	if u := looked.GetUsage(); u.GetOomKills() < 2 || u.GetMemoryPeak() > 97<<20 || looked.GetResources().GetMemoryMax() != 96<<20 {
		t.Errorf("it has used %v under %v", u, looked.GetResources())
	}
	t.Logf("a session of 96 MiB: %v", looked.GetUsage())
	if now := d.PID(); now != front {
		t.Errorf("the daemon is %d, it was %d", now, front)
	}
	if n, err := c.Get(t.Context(), neighbour.GetName()); err != nil || n.GetProcesses()[0].GetState() != pipedv1.Process_STATE_RUNNING {
		t.Errorf("the neighbour: %v, %v", n.GetProcesses(), err)
	}
}

func TestForkBombIsContainedAndEnded(t *testing.T) {
	const most = 200
	d := daemon.Start(t)
	c := d.Dial(t)
	need(t, c, "pids")
	script := filepath.Join(t.TempDir(), "bomb-of-this-test")
	if err := os.WriteFile(script, []byte("while :; do setsid sh $0 2>/dev/null & done\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: []string{"sh", script}},
		Resources: &pipedv1.Resources{PidsMax: most}})
	refused := false
	var peak uint64
	eventually(t, "a start is refused", func() bool {
		_, err := c.Start(t.Context(), &pipedv1.StartProcessRequest{Session: s.GetName(), Process: &pipedv1.ProcessSpec{Args: []string{"true"}}})
		refused = refused || errors.Is(err, client.ErrProcessLimit)
		if err != nil && !errors.Is(err, client.ErrProcessLimit) {
			t.Fatalf("a start in the full session: %v", err)
		}
		looked, err := c.Inspect(t.Context(), s.GetName())
		if err != nil {
			t.Fatal(err)
		}
		peak = max(peak, looked.GetUsage().GetProcesses())
		return refused && peak >= most/2
	})
	if peak > most {
		t.Errorf("%d processes, at most %d are allowed", peak, most)
	}
	other := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: []string{"true"}}})
	if _, err := c.Wait(t.Context(), other.GetName(), "", daemon.Patience); err != nil {
		t.Errorf("another session: %v", err)
	}
	begun := time.Now()
	if err := c.Delete(t.Context(), s.GetName(), true); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begun)
	left := running(t, script)
	if left > 0 {
		t.Errorf("survivors=%d", left)
	}
	t.Logf("a fork bomb of up to %d: survivors=%d after %v", peak, left, took.Round(10*time.Microsecond))
}

func TestSessionGetsNoMoreCPUThanItMay(t *testing.T) {
	d := daemon.Start(t)
	c := d.Dial(t)
	need(t, c, "cpu")
	begun := time.Now()
	s := create(t, c, &pipedv1.CreateSessionRequest{Process: program(t, "burn"), Resources: &pipedv1.Resources{CpuMaxMillis: 200, CpuWeight: 50}})
	var used *pipedv1.SessionUsage
	eventually(t, "it has burned a second and was throttled", func() bool {
		looked, err := c.Inspect(t.Context(), s.GetName())
		if err != nil {
			t.Fatal(err)
		}
		used = looked.GetUsage()
		return used.GetCpuTime().AsDuration() > time.Second && used.GetThrottledTime().AsDuration() > 0
	})
	// A quota of one period may have been there before the first.
	elapsed := time.Since(begun)
	if most := elapsed/5 + 100*time.Millisecond; used.GetCpuTime().AsDuration() > most {
		t.Errorf("%v of CPU in %v, at most %v were allowed", used.GetCpuTime().AsDuration(), elapsed, most)
	}
	t.Logf("0.2 CPUs: %v of CPU in %v, throttled for %v", used.GetCpuTime().AsDuration().Round(time.Millisecond),
		elapsed.Round(time.Millisecond), used.GetThrottledTime().AsDuration().Round(time.Millisecond))
}

func TestLimitThatCannotHoldIsRefused(t *testing.T) {
	for name, args := range map[string][]string{"with cgroups as they are": nil, "with none": {"--keeper-cgroup", "off"}} {
		t.Run(name, func(t *testing.T) {
			d := daemon.Start(t, args...)
			c := d.Dial(t)
			info, err := c.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if slices.Contains(info.GetCgroups().GetControllers(), "memory") {
				t.Skip("it can")
			}
			_, err = c.Create(t.Context(), &pipedv1.CreateSessionRequest{Name: "no", Process: &pipedv1.ProcessSpec{Args: []string{"true"}},
				Resources: &pipedv1.Resources{MemoryMax: 1 << 30}})
			if !errors.Is(err, client.ErrCgroupUnavailable) {
				t.Fatalf("error %v", err)
			}
			if _, err := c.Get(t.Context(), "no"); !errors.Is(err, client.ErrSessionNotFound) {
				t.Errorf("the refused session: %v", err)
			}
			out := d.Pipectl(t, "", "run", "--memory-max", "1G", "--", "true")
			if out.Code != 125 || !strings.Contains(out.Stderr, "cgroup") {
				t.Errorf("pipectl run exits with %d: %s", out.Code, out.Stderr)
			}
		})
	}
}

func TestDeletedSessionLeavesNoDaemonizedDescendant(t *testing.T) {
	d := daemon.Start(t)
	c := d.Dial(t)
	need(t, c, "")
	mark := "7" + strconv.Itoa(os.Getpid())
	end := map[string]func(session string) error{
		"deleted": func(session string) error { return c.Delete(t.Context(), session, true) },
		"stopped": func(session string) error {
			_, err := c.StopProcess(t.Context(), &pipedv1.StopProcessRequest{Session: session, Policy: &pipedv1.StopPolicy{
				Scope: pipedv1.StopPolicy_SCOPE_TREE, CloseGrace: durationpb.New(0), Grace: durationpb.New(0)}})
			return err
		},
	}
	for name, end := range end {
		t.Run(name, func(t *testing.T) {
			s := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
				Args: []string{"sh", "-c", "setsid sh -c 'setsid sleep " + mark + " & exit'; exec sleep 1000"}}})
			if kill := s.GetProcesses()[0].GetTreeKill(); kill != pipedv1.TreeKill_TREE_KILL_CERTAIN {
				t.Errorf("a stop of the tree is %v", kill)
			}
			eventually(t, "the descendant has gone away", func() bool { return running(t, "sleep\x00"+mark) == 1 && running(t, "setsid") == 0 })
			begun := time.Now()
			if err := end(s.GetName()); err != nil {
				t.Fatal(err)
			}
			took := time.Since(begun)
			eventually(t, "nobody is left", func() bool { return running(t, "sleep\x00"+mark) == 0 })
			t.Logf("%s: survivors=0, the call took %v", name, took.Round(10*time.Microsecond))
		})
	}
}
