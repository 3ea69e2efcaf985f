//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// newDaemon starts a daemon for one test, and returns its address and how to
// kill it together with its keeper: sessions survive less than both.
func newDaemon(t *testing.T) (addr string, kill func()) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pc") //nolint:usetesting // the path of a socket has little room
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	addr = "unix://" + dir + "/s"
	return addr, daemonAt(t, addr)
}

// daemonAt starts one at an address, and returns how to kill it.
func daemonAt(t *testing.T, addr string) (kill func()) {
	t.Helper()
	bin, err := daemonDir()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "piped"), "--listen", addr)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reaped := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(reaped)
	}()
	t.Cleanup(func() {
		stopSpawned(t, addr)
		_ = cmd.Process.Kill() // where it never answered
		<-reaped
	})
	eventually(t, func() bool {
		_, err := client.FindAddress(t.Context(), addr)
		return err == nil
	})
	return func() { killBoth(t, addr) }
}

// daemonInfo asks whoever serves now.
func daemonInfo(t *testing.T, addr string) *pipedv1.GetServerInfoResponse {
	t.Helper()
	c, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	info, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// pids asks for the processes of whoever serves now.
func pids(t *testing.T, addr string) (daemon, keeper int) {
	t.Helper()
	info := daemonInfo(t, addr)
	return int(info.GetPid()), int(info.GetKeeper().GetPid())
}

// killBoth kills daemon and keeper at one instant, so that neither can save what
// the other had.
func killBoth(t *testing.T, addr string) {
	t.Helper()
	daemon, keeper := pids(t, addr)
	if err := errors.Join(syscall.Kill(daemon, syscall.SIGSTOP), syscall.Kill(keeper, syscall.SIGKILL), syscall.Kill(daemon, syscall.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return isDead(daemon) && isDead(keeper) })
}

// isDead says whether a process is gone, or waits only to be reaped.
func isDead(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "Z")
}

// eventually waits for a condition.
func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	if !pollUntil(condition) {
		t.Fatal("it never came true")
	}
}

// pollUntil waits for a condition, and says whether it came true in time.
func pollUntil(condition func() bool) bool {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(20 * time.Second)
	for !condition() {
		select {
		case <-ticker.C:
		case <-deadline:
			return false
		}
	}
	return true
}

func TestRunForwardsSignals(t *testing.T) {
	addr, _ := newDaemon(t)
	for name, sig := range map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "QUIT": syscall.SIGQUIT} {
		t.Run(name, func(t *testing.T) {
			// The trap runs a builtin loop, so that no other child is in the way.
			cmd := exec.Command("pipectl", "--addr", addr, "run", "-q", "--",
				"sh", "-c", `trap "echo got; exit 3" `+name+`; echo ready; while read line; do :; done; sleep 60`)
			// A stdin that stays open.
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = in.Close() }()
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			if !lines.Scan() || lines.Text() != "ready" {
				t.Fatalf("got %q, want ready", lines.Text())
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if !lines.Scan() || lines.Text() != "got" {
				t.Errorf("got %q, want got", lines.Text())
			}
			err = cmd.Wait()
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 3 {
				t.Errorf("got %v, want exit code 3", err)
			}
		})
	}
}

func TestKilledRunLeavesItsSessionUnderTheNameItSaid(t *testing.T) {
	addr, _ := newDaemon(t)
	cmd := exec.Command("pipectl", "--addr", addr, "run", "--", "cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	errOut, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(errOut)
	lines.Scan()
	name, said := strings.CutPrefix(lines.Text(), "pipectl: session: ")
	if !said {
		t.Errorf("stderr says %q", lines.Text())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	c, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	session, err := c.Get(t.Context(), name)
	if err != nil || session.GetState() != pipedv1.Session_STATE_ACTIVE {
		t.Errorf("got %v, %v; want it active", session, err)
	}
	// Another client takes over.
	e := c.Endpoint(client.Ref{Session: name})
	eventually(t, func() bool { return !errors.Is(e.Send(t.Context(), []byte("still there")), client.ErrBusyWriter) })
	var r *client.Reader
	eventually(t, func() bool {
		r, err = e.NewReader(t.Context(), client.ReaderOptions{})
		return !errors.Is(err, client.ErrBusyReader)
	})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := r.Next(t.Context()); err != nil || string(m.Data) != "still there" {
		t.Errorf("got %q, %v", m.Data, err)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRunFailsWith125WhenTheDaemonGoes(t *testing.T) {
	addr, kill := newDaemon(t)
	out, outWriter, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	in, inWriter, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(in.Close(), inWriter.Close()) }()
	var errOut strings.Builder
	done := make(chan exitCode, 1)
	go func() {
		done <- run(context.WithoutCancel(t.Context()), []string{"--addr", addr, "run", "--", "sh", "-c", "echo ready; cat"}, in, outWriter, &errOut)
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	kill()
	if code := <-done; code != exitFailed {
		t.Errorf("exit code %d, want %d", code, exitFailed)
	}
	if !strings.Contains(errOut.String(), "pipectl: error: ") || !strings.Contains(errOut.String(), "may still be there") {
		t.Errorf("stderr says %q", errOut.String())
	}
	_ = outWriter.Close()
}
