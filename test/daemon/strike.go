package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/piped-dev/piped/client"
)

// PID returns the process id of the daemon that serves, or was the last to.
func (d *Daemon) PID() int { return d.pidIn(d.socket + ".lock") }

// KeeperPID returns the process id of its keeper, or of the last one.
func (d *Daemon) KeeperPID() int { return d.pidIn(d.socket + ".keeper.lock") }

// pidIn reads a process id. The file is empty while one comes after another.
func (d *Daemon) pidIn(lock string) (pid int) {
	d.t.Helper()
	var err error
	if !d.until(func() bool {
		var text []byte
		if text, err = os.ReadFile(lock); err == nil {
			_, err = fmt.Sscan(string(text), &pid)
		}
		return err == nil || errors.Is(err, os.ErrNotExist)
	}) || err != nil {
		d.t.Errorf("no process id in %s: %v", lock, err)
	}
	return pid
}

// until looks until ok says yes, and returns false when Patience ends.
func (d *Daemon) until(ok func() bool) bool {
	if ok() {
		return true
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(Patience); ; {
		select {
		case <-tick.C:
			if ok() {
				return true
			}
		case <-deadline:
			return false
		}
	}
}

// Kill sends a signal to the daemon and returns the process id that got it, or 0
// when the daemon was gone already.
func (d *Daemon) Kill(sig syscall.Signal) (pid int) { return d.kill(d.PID(), sig) }

// KillKeeper sends a signal to the keeper and returns the process id that got it,
// or 0 when it was gone already.
func (d *Daemon) KillKeeper(sig syscall.Signal) (pid int) { return d.kill(d.KeeperPID(), sig) }

func (d *Daemon) kill(pid int, sig syscall.Signal) int {
	d.t.Helper()
	switch err := syscall.Kill(pid, sig); {
	case errors.Is(err, syscall.ESRCH):
		return 0
	case err != nil:
		d.t.Errorf("signal %v to %d: %v", sig, pid, err)
		return 0
	}
	return pid
}

// Strike kills the daemon, which its keeper starts again, and returns once the
// next one answers.
func (d *Daemon) Strike() {
	d.t.Helper()
	d.AwaitNext(d.Kill(syscall.SIGKILL))
}

// AwaitNext waits until another daemon than the one with the process id before
// answers.
func (d *Daemon) AwaitNext(before int) {
	d.t.Helper()
	if !d.until(func() bool { return d.PID() != before }) {
		d.t.Fatalf("nobody starts the daemon again; the log:\n%s", d.Log())
	}
	d.awaitService(nil)
}

// Revive returns once the daemon answers, whoever starts it: after the death of
// both it and its keeper nobody else does.
func (d *Daemon) Revive() {
	d.t.Helper()
	if d.until(func() bool {
		ctx, cancel := context.WithTimeout(d.t.Context(), time.Second)
		defer cancel()
		if c, err := client.Dial(ctx, d.Addr); err == nil {
			return c.Close() == nil
		}
		if r := d.begin(); !soon(r.exited) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.run = r
		}
		return false
	}) {
		return
	}
	d.t.Fatalf("the daemon cannot be started again; the log:\n%s", d.Log())
}

// soon says whether a process ends at once.
func soon(exited <-chan struct{}) bool {
	select {
	case <-exited:
		return true
	case <-time.After(200 * time.Millisecond):
		return false
	}
}

// AwaitNextKeeper waits until there is another keeper than the one with the
// process id before. Whether it has everything yet the daemon says.
func (d *Daemon) AwaitNextKeeper(before int) {
	d.t.Helper()
	if !d.until(func() bool { return d.KeeperPID() != before }) {
		d.t.Fatalf("nobody starts the keeper again; the log:\n%s", d.Log())
	}
}

// AwaitExit waits until a process is gone, or at least a zombie.
func (d *Daemon) AwaitExit(pid int) {
	d.t.Helper()
	gone, err := watchExit(pid)
	if err != nil {
		d.t.Fatalf("watch %d: %v", pid, err)
	}
	if !within(gone) {
		d.t.Fatalf("process %d does not end; the log:\n%s", pid, d.Log())
	}
}
