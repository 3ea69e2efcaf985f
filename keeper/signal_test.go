package keeper

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// beKeeper runs a program by a keeper of its own. It checks that closing the
// keeper leaves the same signals ignored as before.
func beKeeper(args []string) {
	k := New(testLog())
	if err := runOutput(k, program(args[0], args[1:]...)); err != nil {
		fail("%v", err)
	}
	if err := k.Close(); err != nil {
		fail("%v", err)
	}
	if os.Getenv("CHECK_HANGUP") == "" {
		return
	}
	ignored, err := ignoredSignals()
	if err != nil {
		fail("%v", err)
	}
	if !slices.Contains(ignored, unix.SIGHUP) {
		fail("SIGHUP is not ignored any more after Close")
	}
}

// underShell returns a Spec in which a shell runs script and then becomes the
// program of spec.
func underShell(script string, spec Spec) Spec {
	shell := program("/bin/sh", append([]string{"-c", script + `; exec "$0" "$@"`}, spec.Args...)...)
	shell.Env = spec.Env
	return shell
}

func TestSignalsIgnoredByTheDaemonAreDefaultInTheChild(t *testing.T) {
	k := newKeeper(t)
	keeper := behaviour(t, "keeper", "/bin/grep", "^SigIgn", "/proc/self/status")
	keeper.Env = append(keeper.Env, "CHECK_HANGUP=1")
	signals := "HUP INT QUIT PIPE TERM CHLD TSTP TTIN TTOU CONT USR1 WINCH"
	got, exit := output(t, k, underShell(`trap "" `+signals, keeper))
	if exit.Code != 0 {
		t.Fatalf("exit %+v", exit)
	}
	mask, err := strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(got, "SigIgn:")), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	// Signals 32 to 34 belong to the C library, and Go leaves them alone; whoever
	// runs the tests may ignore them.
	if mask &^= 0b111 << 31; mask != 0 {
		t.Errorf("signals ignored by the child: mask %x", mask)
	}
}

func TestSignalsBlockedByTheDaemonAreNotBlockedInTheChild(t *testing.T) {
	k := newKeeper(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var blocked, old, after unix.Sigset_t
	blocked.Val[0] = 1 << (unix.SIGUSR1 - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &blocked, &old); err != nil {
		t.Fatal(err)
	}
	got, exit := output(t, k, program("/bin/grep", "^SigBlk", "/proc/self/status"))
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, &after); err != nil {
		t.Fatal(err)
	}
	if exit.Code != 0 {
		t.Fatalf("exit %+v", exit)
	}
	if want := fmt.Sprintf("SigBlk:\t%016x\n", 0); got != want {
		t.Errorf("signals blocked by the child %q, want %q", got, want)
	}
	if after.Val[0]&blocked.Val[0] == 0 {
		t.Error("the start changed the signal mask of the caller")
	}
}

func TestChildHasTheOriginalLimitOfOpenFiles(t *testing.T) {
	k := newKeeper(t)
	keeper := behaviour(t, "keeper", "/bin/grep", "^Max open files", "/proc/self/limits")
	got, exit := output(t, k, underShell("ulimit -Sn 123", keeper))
	if exit.Code != 0 {
		t.Fatalf("exit %+v", exit)
	}
	if fields := strings.Fields(got); len(fields) < 5 || fields[3] != "123" {
		t.Errorf("limit of the child %q, want a soft limit of 123", got)
	}
}
