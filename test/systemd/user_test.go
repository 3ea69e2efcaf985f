package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/piped-dev/piped/client"
)

// user does the same, in short, with the units of a user.
func (g *guest) user(ctx context.Context) error {
	if err := os.WriteFile("/usr/lib/sysusers.d/visitor.conf", []byte("u visitor 4711 - /home/visitor\n"), 0o644); err != nil {
		return err
	}
	if _, err := command("systemd-sysusers", "visitor.conf"); err != nil {
		return err
	}
	if _, err := command("install", "-d", "-o", "visitor", "-g", "visitor", "/home/visitor"); err != nil {
		return err
	}
	if err := system.do("start", "user@4711.service"); err != nil {
		return err
	}
	visitor := manager{[]string{"setpriv", "--reuid=visitor", "--regid=visitor", "--clear-groups", "env", "XDG_RUNTIME_DIR=/run/user/4711",
		"systemctl", "--user"}}
	if err := visitor.do("enable", "--now", "--quiet", socket, keeperSocket); err != nil {
		return err
	}
	dial, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := client.Dial(dial, "unix:///run/user/4711/piped/piped.sock")
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	t, err := startTalk(ctx, c, "three", here+"/systemd.test")
	if err != nil {
		return err
	}
	u := &guest{c: c, talks: []*talk{t}}
	pid, err := u.child(ctx, t)
	if err != nil {
		return err
	}
	if uid := field(pid, "Uid"); uid != "4711" {
		return fmt.Errorf("the child of a user runs as %s", uid)
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"user-restart", func() error { return visitor.do("restart", front) }},
		{"user-kill", func() error { return visitor.kill(front, syscall.SIGKILL) }},
		{"user-keeper-kill", func() error { return visitor.kill(keeper, syscall.SIGKILL) }},
		{"user-keeper-reload", func() error { return visitor.do("reload", keeper) }},
	} {
		if err := u.step(ctx, step.name, func(context.Context) error { return step.do() }); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	t.abandon()
	if err := visitor.do("stop", keeper); err != nil {
		return err
	}
	if left, _ := command("pgrep", "--list-full", "--uid=visitor", "sleep|systemd.test"); strings.TrimSpace(left) != "" {
		return fmt.Errorf("left over after the keeper of the user was stopped: %s", left)
	}
	return errors.Join(visitor.do("disable", "--now", "--quiet", socket, keeperSocket), system.do("stop", "user@4711.service"))
}
