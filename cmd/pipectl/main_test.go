package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pipectl": main})
}

// daemonDir is a folder with the daemon in it, built once.
var daemonDir = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pipectl-test")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "piped"), "github.com/piped-dev/piped/cmd/piped").CombinedOutput()
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
	t.Cleanup(func() { _ = os.RemoveAll(bin) })
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			// Not below WORK: the path of a socket has little room.
			dir, err := os.MkdirTemp("/tmp", "pc")
			if err != nil {
				return err
			}
			env.Defer(func() { _ = os.RemoveAll(dir) })
			env.Setenv("DIR", dir)
			env.Setenv(client.AddressVariable, "unix://"+dir+"/s")
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
