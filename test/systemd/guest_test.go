package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// Names inside the booted system.
const (
	here          = "/opt/piped-test"
	front         = "piped.service"
	keeper        = "piped-keeper.service"
	socket        = "piped.socket"
	keeperSocket  = "piped-keeper.socket"
	configuration = "/etc/piped/config.yaml"
)

// A guest is the administrator and the client inside the booted system.
type guest struct {
	c       *client.Client
	talks   []*talk
	version string // what is installed
}

// playGuest installs the package, does everything that an administrator may do,
// and what nobody should, and removes it again. It prints a line for each.
func playGuest() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	g := &guest{version: "v1"}
	for _, part := range []func(context.Context) error{g.install, g.verify, g.begin, g.surroundings, g.steps, g.mistakes, g.finish, g.killBoth, g.endAll, g.user, g.remove} {
		if err := part(ctx); err != nil {
			return errors.Join(err, g.journal())
		}
	}
	return g.lifecycle()
}

// command runs a program and returns what it says on standard output, without
// the space around it.
func command(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return strings.TrimSpace(string(out)), err
}

// A manager is how a systemd is spoken to: that of the system, or that of a user.
type manager struct{ systemctl []string }

var system = manager{[]string{"systemctl"}}

func (m manager) do(args ...string) error {
	_, err := command(slices.Concat(m.systemctl, args)...)
	return err
}

// property returns what systemd knows of a unit; nothing if it cannot say.
func (m manager) property(unit, name string) string {
	out, _ := command(slices.Concat(m.systemctl, []string{"show", "--property=" + name, "--value", unit})...)
	return out
}

// mainPID is 0 where there is no main process.
func (m manager) mainPID(unit string) int {
	pid, _ := strconv.Atoi(m.property(unit, "MainPID"))
	return pid
}

// succeeded waits until a unit runs with another main process than before.
func (m manager) succeeded(unit string, before int) error {
	if !await(func() bool {
		pid := m.mainPID(unit)
		return pid != 0 && pid != before && m.property(unit, "ActiveState") == "active"
	}) {
		return fmt.Errorf("%s did not come back: %s, main process %d", unit, m.property(unit, "ActiveState"), m.mainPID(unit))
	}
	return nil
}

// kill kills the main process of a unit and waits for the next one.
func (m manager) kill(unit string, signal syscall.Signal) error {
	pid := m.mainPID(unit)
	if pid == 0 {
		return fmt.Errorf("%s has no main process", unit)
	}
	return errors.Join(syscall.Kill(pid, signal), m.succeeded(unit, pid))
}

func (g *guest) journal() error {
	out, err := command("journalctl", "--boot", "--no-pager", "--output=short-precise", "--unit="+front, "--unit="+keeper, "--unit="+socket)
	return errors.Join(err, fmt.Errorf("the journal:\n%s", out))
}

// put installs the programs of a version, as a package does: under a new name first.
func put(version string) error {
	for _, name := range []string{"piped", "piped-keeper"} {
		from := filepath.Join(here, version, name)
		if _, err := command("install", "-m", "0755", from, "/usr/bin/"+name+".new"); err != nil {
			return err
		}
		if err := os.Rename("/usr/bin/"+name+".new", "/usr/bin/"+name); err != nil {
			return err
		}
	}
	return nil
}

func script(name string, args ...string) error {
	_, err := command(append([]string{filepath.Join(here, "packaging/scripts", name)}, args...)...)
	return err
}

func (g *guest) install(context.Context) error {
	if err := put("v1"); err != nil {
		return err
	}
	if _, err := command(here+"/packaging/systemd/install.sh", "/usr"); err != nil {
		return err
	}
	// A hang is found sooner than in life, so that the test is short.
	if err := os.MkdirAll("/etc/systemd/system/piped.service.d", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile("/etc/systemd/system/piped.service.d/test.conf", []byte("[Service]\nWatchdogSec=1s\n"), 0o644); err != nil {
		return err
	}
	return script("postinst.sh", "configure")
}

// verify asks systemd what it thinks of the units.
func (g *guest) verify(context.Context) error {
	for _, manager := range []string{"--system", "--user"} {
		dir := "/usr/lib/systemd/" + strings.TrimPrefix(manager, "--")
		cmd := exec.Command("systemd-analyze", manager, "verify", dir+"/piped.socket", dir+"/piped.service", dir+"/piped-keeper.socket", dir+"/piped-keeper.service")
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR=/run")
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			return fmt.Errorf("systemd-analyze %s verify: %w: %s", manager, err, out)
		}
	}
	// The threshold counts in tenths.
	out, err := command("systemd-analyze", "security", "--no-pager", "--threshold=15", front)
	fmt.Printf("S1 verify=clean %s\n", out[strings.LastIndexByte(out, '\n')+1:])
	return err
}

// begin connects, through the socket, and starts what must not notice anything.
func (g *guest) begin(ctx context.Context) error {
	begun := time.Now()
	dial, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := client.Dial(dial, "unix:///run/piped/piped.sock")
	if err != nil {
		return err
	}
	g.c = c
	// Where the front might see less than its children.
	if err := os.Symlink(here+"/systemd.test", "/tmp/child"); err != nil {
		return err
	}
	for _, n := range []struct{ name, program string }{{"one", here + "/systemd.test"}, {"two", "/tmp/child"}} {
		t, err := startTalk(ctx, c, n.name, n.program)
		if err != nil {
			return err
		}
		g.talks = append(g.talks, t)
	}
	for _, t := range g.talks {
		if err := t.flows(); err != nil {
			return err
		}
	}
	fmt.Printf("S2 first_messages_ms=%d status=%q\n", time.Since(begun).Milliseconds(), system.property(front, "StatusText"))
	return nil
}

// child returns the process id of the child of a talk.
func (g *guest) child(ctx context.Context, t *talk) (int, error) {
	p, err := g.c.Wait(ctx, t.name, "", 0)
	return int(p.GetPid()), err
}

// surroundings looks at what the front and a child are allowed.
func (g *guest) surroundings(ctx context.Context) error {
	pid, err := g.child(ctx, g.talks[0])
	if err != nil {
		return err
	}
	uid, err := command("id", "-u", "piped")
	if err != nil {
		return err
	}
	// The child is a Go program, which raises its own limit, and gives what it had to what it starts.
	stray, err := command("pgrep", "--parent", strconv.Itoa(pid))
	if err != nil {
		return err
	}
	strayPID, err := strconv.Atoi(stray)
	if err != nil {
		return err
	}
	var soft string
	for line := range strings.Lines(read(strayPID, "limits")) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			soft = strings.Fields(rest)[0]
		}
	}
	var errs []error
	for _, c := range []struct{ what, got, want string }{
		{"user of the child", field(pid, "Uid"), uid},
		{"user of the front", field(system.mainPID(front), "Uid"), uid},
		{"filter of the child", field(pid, "Seccomp"), "0"},
		{"filter of the front", field(system.mainPID(front), "Seccomp"), "2"},
		{"no new privileges of the child", field(pid, "NoNewPrivs"), "0"},
		{"parent of the child", field(pid, "PPid"), strconv.Itoa(system.mainPID(keeper))},
		{"memory adjustment of the child", read(pid, "oom_score_adj"), "0"},
		{"soft descriptor limit of the child", soft, "1024"},
		{"group of the child", groupAbove(pid, 3), "/system.slice/" + keeper},
	} {
		if c.got != c.want {
			errs = append(errs, fmt.Errorf("%s: %q, want %q", c.what, c.got, c.want))
		}
	}
	// Children of root are refused, whoever starts the keeper.
	_, err = command("/usr/bin/piped-keeper", "--no-root", "--socket", "/run/root.sock")
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 78 {
		errs = append(errs, fmt.Errorf("the keeper as root: %w, want exit status 78", err))
	}
	return errors.Join(errs...)
}

func read(pid int, name string) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	return strings.TrimSpace(string(text))
}

// group returns the control group of a process.
func group(pid int) string {
	for line := range strings.Lines(read(pid, "cgroup")) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSpace(path)
		}
	}
	return ""
}

// groupAbove returns the control group so many steps above that of a process: that of
// the unit is above those of the keeper's sessions, of a session and of the process.
func groupAbove(pid, steps int) string {
	path := group(pid)
	for range steps {
		path = filepath.Dir(path)
	}
	return path
}

// field returns the first word of a line of /proc/PID/status.
func field(pid int, name string) string {
	for line := range strings.Lines(read(pid, "status")) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Fields(rest)[0]
		}
	}
	return ""
}

// finish ends one talk in order: its child has the last word about everything.
func (g *guest) finish(ctx context.Context) error {
	t := g.talks[0]
	if err := t.finish(); err != nil {
		return err
	}
	p, err := g.c.Wait(ctx, t.name, "", patience)
	if err == nil && (p.GetState() != pipedv1.Process_STATE_EXITED || p.GetExit().GetCode() != 0) {
		err = fmt.Errorf("%s: %v, want exit 0", t.name, p)
	}
	if err != nil {
		return err
	}
	line, _, err := t.report()
	fmt.Printf("S4 sent=%d received=%d %s exit=0\n", t.sent, t.out.Next-1, line)
	return err
}

// killBoth takes away everybody who has copies of the descriptors, at once. What
// cannot go on is said, and is not left running.
func (g *guest) killBoth(ctx context.Context) error {
	t := g.talks[1]
	pid, err := g.child(ctx, t)
	if err != nil {
		return err
	}
	t.abandon()
	pids := [2]int{system.mainPID(front), system.mainPID(keeper)}
	if err := errors.Join(syscall.Kill(pids[0], syscall.SIGKILL), syscall.Kill(pids[1], syscall.SIGKILL)); err != nil {
		return err
	}
	if err := errors.Join(system.succeeded(front, pids[0]), system.succeeded(keeper, pids[1])); err != nil {
		return err
	}
	_, err = g.c.Get(ctx, t.name)
	var told *client.Error
	if !errors.As(err, &told) || told.Reason != client.ErrSessionLost || told.Metadata["why"] != "LOST_BOTH" {
		return fmt.Errorf("after both were killed: %w, want SESSION_LOST because of LOST_BOTH", err)
	}
	if !await(func() bool { return syscall.Kill(pid, 0) != nil }) {
		return fmt.Errorf("the child %d is left over after both were killed", pid)
	}
	fmt.Println("S5 both killed: children=0, the session is told as LOST_BOTH")
	t, err = startTalk(ctx, g.c, "after", here+"/systemd.test")
	if err != nil {
		return err
	}
	g.talks[1] = t
	return t.flows()
}

// endAll is the documented end of all sessions.
func (g *guest) endAll(ctx context.Context) error {
	t := g.talks[1]
	pid, err := g.child(ctx, t)
	if err != nil {
		return err
	}
	t.abandon()
	if err := g.c.Close(); err != nil {
		return err
	}
	if err := system.do("stop", keeper); err != nil {
		return err
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
		return fmt.Errorf("the child %d is alive after the keeper was stopped", pid)
	}
	if left, _ := command("pgrep", "--list-full", "sleep"); left != "" {
		return fmt.Errorf("left over after the keeper was stopped: %s", left)
	}
	dial, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := client.Dial(dial, "unix:///run/piped/piped.sock")
	if err != nil {
		return err
	}
	_, err = c.Get(dial, t.uid)
	if !errors.Is(err, client.ErrSessionNotFound) {
		return errors.Join(fmt.Errorf("after all sessions were ended: %w, want SESSION_NOT_FOUND", err), c.Close())
	}
	fmt.Println("S6 stop of the keeper: children=0 descendants=0, the next client gets SESSION_NOT_FOUND")
	return c.Close()
}

// remove takes the package away.
func (g *guest) remove(context.Context) error {
	if err := script("prerm.sh", "remove"); err != nil {
		return err
	}
	for _, unit := range []string{front, keeper, socket, keeperSocket} {
		if state := system.property(unit, "ActiveState"); state != "inactive" {
			return fmt.Errorf("%s is %s after the removal", unit, state)
		}
	}
	return script("postrm.sh", "purge")
}

// lifecycle counts the lines of the journal.
func (g *guest) lifecycle() error {
	out, err := command("journalctl", "--boot", "--no-pager", "--output=cat", "_SYSTEMD_UNIT="+front)
	if err != nil {
		return err
	}
	started, ended := strings.Count(out, "msg=\"piped started\""), strings.Count(out, "msg=\"piped ended\"")
	fmt.Printf("S7 journal: started=%d ended=%d reloaded=%d\n", started, ended, strings.Count(out, "configuration reloaded"))
	if started == 0 || ended == 0 || ended >= started {
		return fmt.Errorf("want a line for each start and each orderly end:\n%s", out)
	}
	return nil
}
