package systemd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/piped-dev/piped/client"
)

// rounds is how often each step is done.
func rounds() int {
	if long {
		return 10
	}
	return 1
}

// steps does to the daemon what must not be noticed, in an order that differs
// from round to round, and prints what it cost.
func (g *guest) steps(ctx context.Context) error {
	all := []struct {
		name string
		do   func(context.Context) error
	}{
		{"restart", g.restart}, {"kill", g.kill}, {"watchdog", g.watchdog}, {"reload", g.reload}, {"stop-start", g.stopStart},
		{"daemon-reexec", g.reexec}, {"keeper-kill", g.keeperKill}, {"upgrade", g.upgrade}, {"refused-upgrade", g.refusedUpgrade}, {"rollback", g.rollback},
	}
	for round := range rounds() {
		if round > 0 {
			rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			// Nobody restarts it so often in life: the limit of starts begins anew.
			if err := system.do("reset-failed", front, keeper); err != nil {
				return err
			}
		}
		for _, step := range all {
			if err := g.step(ctx, step.name, step.do); err != nil {
				return fmt.Errorf("%s, round %d: %w", step.name, round+1, err)
			}
		}
	}
	return nil
}

// step does something while both talks go on, and looks at them when they have
// gone on after it: nothing is wrong, and the children are the same.
func (g *guest) step(ctx context.Context, name string, do func(context.Context) error) error {
	children, err := g.children(ctx)
	if err != nil {
		return err
	}
	for _, t := range g.talks {
		t.begin()
	}
	if err := do(ctx); err != nil {
		return err
	}
	var pause time.Duration
	var lines []string
	for _, t := range g.talks {
		if err := t.flows(); err != nil {
			return err
		}
		line, p, err := t.report()
		if err != nil {
			return err
		}
		pause = max(pause, p)
		lines = append(lines, line)
	}
	fmt.Printf("S3 step=%s pause_ms=%d %s\n", name, pause.Milliseconds(), lines[0])
	after, err := g.children(ctx)
	if err == nil && after != children {
		err = fmt.Errorf("children %s before and %s after", children, after)
	}
	return err
}

// children names the processes of the talks, which must be alive.
func (g *guest) children(ctx context.Context) (string, error) {
	var names []string
	for _, t := range g.talks {
		pid, err := g.child(ctx, t)
		if err != nil {
			return "", err
		}
		if err := syscall.Kill(pid, 0); err != nil {
			return "", fmt.Errorf("%s: child %d: %w", t.name, pid, err)
		}
		names = append(names, fmt.Sprintf("%s=%d", t.name, pid))
	}
	return strings.Join(names, " "), nil
}

func (g *guest) restart(context.Context) error { return system.do("restart", front) }

func (g *guest) kill(context.Context) error {
	return system.kill(front, syscall.SIGKILL)
}

// watchdog stops the front: it is there, holds everything, and does nothing.
func (g *guest) watchdog(context.Context) error {
	if err := system.kill(front, syscall.SIGSTOP); err != nil {
		return err
	}
	log, err := command("journalctl", "--boot", "--no-pager", "--output=cat", "UNIT="+front)
	if err == nil && !strings.Contains(log, "Watchdog timeout") {
		err = errors.New("it was not the watchdog")
	}
	return err
}

// configure adds a line to the configuration, or takes what was added away.
func configure(line string) error {
	text, err := os.ReadFile(configuration)
	if err != nil {
		return err
	}
	before, _, _ := strings.Cut(string(text), "# Added.\n")
	if line != "" {
		before += "# Added.\n" + line + "\n"
	}
	return os.WriteFile(configuration, []byte(before), 0o644)
}

// reload changes what can be changed while the daemon runs, then tries a mistake.
func (g *guest) reload(ctx context.Context) error {
	pid := system.mainPID(front)
	if err := errors.Join(configure("limits: {max_message_size: 512MiB}"), system.do("reload", front)); err != nil {
		return err
	}
	// The connection knows the limits already, so a new one is asked.
	fresh, err := client.Dial(ctx, "unix:///run/piped/piped.sock")
	if err != nil {
		return err
	}
	defer func() { _ = fresh.Close() }()
	if !await(func() bool {
		info, err := fresh.Info(ctx)
		return err == nil && info.GetLimits().GetMaxMessageSize() == 512<<20
	}) {
		return errors.New("the new limit is not in force")
	}
	if err := configure("limits: {max_message_size: many}"); err != nil {
		return err
	}
	if err := system.do("reload", front); err == nil {
		return errors.New("a reload with a mistake succeeds")
	}
	if err := errors.Join(configure(""), system.do("reload", front)); err != nil {
		return err
	}
	if now := system.mainPID(front); now != pid {
		return fmt.Errorf("the front was %d and is %d", pid, now)
	}
	return nil
}

// stopStart stops the front. The socket stays, so the clients that come back
// start it again; a start that comes too late is no error.
func (g *guest) stopStart(context.Context) error {
	return errors.Join(system.do("stop", front), system.do("start", front))
}

func (g *guest) reexec(context.Context) error {
	before := [2]int{system.mainPID(front), system.mainPID(keeper)}
	if err := system.do("daemon-reexec"); err != nil {
		return err
	}
	if after := [2]int{system.mainPID(front), system.mainPID(keeper)}; after != before {
		return fmt.Errorf("main processes %v before and %v after", before, after)
	}
	return nil
}

func (g *guest) keeperKill(context.Context) error {
	before := system.mainPID(front)
	if err := system.kill(keeper, syscall.SIGKILL); err != nil {
		return err
	}
	if now := system.mainPID(front); now != before {
		return fmt.Errorf("the front was %d and is %d: it has to outlive its keeper", before, now)
	}
	return nil
}

func (g *guest) upgrade(ctx context.Context) error  { return g.become(ctx, "v2") }
func (g *guest) rollback(ctx context.Context) error { return g.become(ctx, "v1") }

// refusedUpgrade installs a keeper that does not understand what the running one
// holds: that one goes on.
func (g *guest) refusedUpgrade(context.Context) error {
	const program, complaint = "/usr/bin/piped-keeper", "the keeper was not upgraded"
	said := func() int {
		log, _ := command("journalctl", "--boot", "--no-pager", "--output=cat", "_SYSTEMD_UNIT="+keeper)
		return strings.Count(log, complaint)
	}
	pid, before := system.mainPID(keeper), said()
	if err := os.WriteFile(program+".new", []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(program+".new", program), system.do("reload", keeper)); err != nil {
		return err
	}
	if !await(func() bool { return said() > before }) {
		return errors.New("nobody says that the upgrade was refused")
	}
	if now := system.mainPID(keeper); now != pid {
		return fmt.Errorf("the keeper was %d and is %d", pid, now)
	}
	return put(g.version)
}

// become installs the package of another version.
func (g *guest) become(ctx context.Context, version string) error {
	pid := system.mainPID(keeper)
	g.version = version
	if err := errors.Join(put(version), script("postinst.sh", "configure", "some version")); err != nil {
		return err
	}
	if !await(func() bool { info, err := g.c.Info(ctx); return err == nil && info.GetVersion() == version }) {
		return fmt.Errorf("the front is not of %s", version)
	}
	if now := system.mainPID(keeper); now != pid {
		return fmt.Errorf("the keeper was %d and is %d", pid, now)
	}
	// What was replaced is a deleted file.
	if !await(func() bool {
		program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		return err == nil && program == "/usr/bin/piped-keeper"
	}) {
		return fmt.Errorf("the keeper is not of %s", version)
	}
	return nil
}

// mistakes starts the front with a configuration that cannot be: it is given up
// at once, and the sessions wait for somebody to put it right.
func (g *guest) mistakes(ctx context.Context) error {
	return g.step(ctx, "wrong-configuration", func(context.Context) error {
		if err := configure("limits: {max_message_size: many}"); err != nil {
			return err
		}
		_ = system.do("restart", front) // fails, as it should
		// Each client that connects makes systemd try once more, until it gives up the socket too.
		if !await(func() bool {
			return system.property(front, "ActiveState") == "failed" && system.property(front, "ExecMainStatus") == "78"
		}) {
			return fmt.Errorf("the front is %s with exit status %s, want failed with 78",
				system.property(front, "ActiveState"), system.property(front, "ExecMainStatus"))
		}
		if err := configure(""); err != nil {
			return err
		}
		return errors.Join(system.do("reset-failed", front), system.do("restart", socket), system.do("restart", front))
	})
}
