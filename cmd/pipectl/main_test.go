//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(cleaning{m}, map[string]func(){"pipectl": main})
}

// cleaning removes what all tests share after the last.
type cleaning struct{ *testing.M }

func (c cleaning) Run() int {
	defer func() { _ = os.RemoveAll(sharedDir) }()
	return c.M.Run()
}

// sharedDir is what daemonDir made.
var sharedDir string

// daemonDir is a folder with the daemon in it, built once.
var daemonDir = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pipectl-test")
	if err != nil {
		return "", err
	}
	sharedDir = dir
	out, err := exec.Command("go", "build", "-o", dir+"/", "github.com/piped-dev/piped/cmd/piped", "github.com/piped-dev/piped/cmd/piped-keeper").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
})

func TestScripts(t *testing.T) {
	bin, err := daemonDir()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			dir, err := os.MkdirTemp("/tmp", "pc") //nolint:usetesting // the path of a socket has little room
			if err != nil {
				return err
			}
			addr := "unix://" + dir + "/s"
			env.Defer(func() {
				stopSpawned(t, addr)
				_ = os.RemoveAll(dir)
			})
			env.Setenv(client.AddressVariable, addr)
			// The race detector would sleep for a second at each exit.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitsocket": waitSocket,
			"exits":      exits,
		},
	})
}

// stopSpawned ends a daemon that a script has left behind, as --spawn does.
func stopSpawned(t *testing.T, addr string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, addr)
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	info, err := c.Info(ctx)
	if err != nil {
		return // it is just ending
	}
	if err := syscall.Kill(int(info.GetPid()), syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Error(err)
	}
	eventually(t, func() bool { return isDead(int(info.GetPid())) && isDead(int(info.GetKeeper().GetPid())) })
}

// waitSocket waits until a daemon answers at PIPED_ADDR.
func waitSocket(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: waitsocket")
	}
	path, err := client.SocketPath(ts.Getenv(client.AddressVariable))
	ts.Check(err)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(20 * time.Second)
	for {
		conn, err := net.Dial("unix", path) //nolint:noctx // bounded by the deadline
		if err == nil {
			ts.Check(conn.Close())
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			ts.Fatalf("nobody listens at %s: %v", path, err)
		}
	}
}

// exits runs a program that must exit with a code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG]...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}
