package limits

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/test/daemon"
)

// A unit is a cgroup as systemd makes it for the keeper, with nothing in it.
type unit struct {
	t      *testing.T
	dir    string
	socket string
}

// newUnit makes one whose parent hands controllers on.
func newUnit(t *testing.T) *unit {
	t.Helper()
	const mount = "/sys/fs/cgroup"
	u := &unit{t: t, dir: mount + "/piped-keeper.service", socket: filepath.Join(t.TempDir(), "keeper")}
	var fs unix.Statfs_t
	if err := unix.Statfs(mount, &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		t.Skip("no cgroup v2 at ", mount)
	}
	if err := os.WriteFile(mount+"/cgroup.subtree_control", []byte("+memory +pids"), 0); err != nil {
		t.Skip("no controllers to hand on: ", err)
	}
	if err := os.Mkdir(u.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.WriteFile(u.dir+"/cgroup.kill", []byte("1"), 0)
		eventually(t, "the unit's cgroup is gone", func() bool {
			var all []string
			_ = filepath.WalkDir(u.dir, func(path string, entry os.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					all = append(all, path)
				}
				return nil
			})
			for _, dir := range slices.Backward(all) {
				_ = os.Remove(dir) // again, if it is not empty yet
			}
			return !exists(u.dir)
		})
	})
	return u
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// run runs a script in a cgroup, and returns why not.
func (u *unit) run(dir, script string, env ...string) error {
	cmd := exec.CommandContext(u.t.Context(), "sh", "-c", "echo $$ >"+dir+"/cgroup.procs && "+script)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// keeper starts a keeper in the cgroup, as systemd does.
func (u *unit) keeper() *exec.Cmd {
	u.t.Helper()
	cmd := exec.CommandContext(u.t.Context(), "sh", "-c", "echo $$ >"+u.dir+"/cgroup.procs && exec "+filepath.Join(daemon.Bin(), "piped-keeper")+
		" --no-supervise --socket "+u.socket)
	out, err := cmd.StderrPipe()
	if err != nil {
		u.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
		if strings.Contains(lines.Text(), "the keeper serves") {
			go func() { // ends with the keeper
				for lines.Scan() {
					_ = lines.Text()
				}
			}()
			return cmd
		}
	}
	u.t.Fatalf("the keeper does not serve: %q", said)
	return nil
}

func TestKeeperOfAUnitHasItsControllersAgainAfterACrash(t *testing.T) {
	script := filepath.Join(daemon.Bin(), "../packaging/systemd/end-sessions.sh")
	if !exists(script) {
		script = "../../packaging/systemd/end-sessions.sh"
	}
	u := newUnit(t)
	first := u.keeper()
	link, _, err := keeper.Connect(t.Context(), keeper.Options{Socket: u.socket, Version: "test"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = link.Close() }()
	if c := link.Info().Cgroups; !slices.Contains(c.Controllers, "memory") || !slices.Contains(c.Controllers, "pids") {
		t.Fatalf("the keeper has %+v", c)
	}
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", first.Process.Pid)); err != nil || !strings.Contains(string(text), "/piped-keeper.service/keeper") {
		t.Errorf("the keeper is in %q, %v", text, err)
	}
	a, err := link.Enter(keeper.UID{1}, "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Confine(keeper.SessionLimits{MemoryMax: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	p, err := a.Start(t.Context(), 1, keeper.Spec{Path: "/bin/sleep", Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	if err := u.run(u.dir, "true"); err == nil {
		t.Error("a process can be started in the unit before there was made room, so this proves nothing")
	}
	if err := os.Mkdir(u.dir+"/.control", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := u.run(u.dir+"/.control", "exec sh "+script, "SERVICE_RESULT=signal"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(u.dir + "/.control"); err != nil {
		t.Fatal(err)
	}
	second := u.keeper()
	eventually(t, "the next keeper has everything", func() bool { return link.Info().Restarts == 1 && link.Info().Away.IsZero() })
	if c := link.Info().Cgroups; !slices.Contains(c.Controllers, "memory") || !slices.Contains(c.Controllers, "pids") {
		t.Errorf("the next keeper has %+v", c)
	}
	limits, err := filepath.Glob(u.dir + "/piped-*/01000000-*/memory.max")
	if err != nil || len(limits) != 1 {
		t.Fatalf("the session's cgroup: %q, %v", limits, err)
	}
	if text, err := os.ReadFile(limits[0]); err != nil || strings.TrimSpace(string(text)) != "1073741824" {
		t.Errorf("the limit is %q, %v", text, err)
	}
	select {
	case <-p.Done():
		t.Errorf("the process has ended: %+v", p.Exit())
	default:
	}
	if err := link.End(t.Context()); err != nil {
		t.Error(err)
	}
	_ = second.Wait()
}
