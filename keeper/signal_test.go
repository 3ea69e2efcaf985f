package keeper_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
)

// beFront runs a program by a keeper of its own, with its own stdout.
func beFront(args []string) {
	ignoreForLibrary()
	ctx := context.Background()
	dir, err := os.MkdirTemp("/tmp", "piped-front-")
	if err != nil {
		fail("%v", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	self, err := os.Executable()
	if err != nil {
		fail("%v", err)
	}
	link, _, err := keeper.Connect(ctx, keeper.Options{Socket: dir + "/keeper", Program: self}, nil)
	if err != nil {
		fail("%v", err)
	}
	account, err := link.Enter(keeper.UID{1}, "test")
	if err != nil {
		fail("%v", err)
	}
	spec := program(args[0], args[1:]...)
	spec.Files = []keeper.File{{FD: 0, Source: -1}, {FD: 1, Source: 1}, {FD: 2, Source: 2}}
	p, err := account.Start(ctx, 1, spec)
	if err != nil {
		fail("%v", err)
	}
	<-p.Done()
	if exit := p.Exit(); exit.Code != 0 {
		fail("%s: %+v", spec.Path, exit)
	}
	if err := link.End(ctx); err != nil {
		fail("%v", err)
	}
}

// ignoreForLibrary ignores the signals of the C library, which make does, and which
// neither a shell nor Go can be told to.
func ignoreForLibrary() {
	act := [4]uint64{1} // struct sigaction of the kernel, with SIG_IGN
	for sig := uintptr(32); sig <= 34; sig++ {
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0); errno != 0 {
			fail("ignore signal %d: %v", sig, errno)
		}
	}
}

// underShell returns a Spec in which a shell runs script and then becomes the
// program of spec.
func underShell(script string, spec keeper.Spec) keeper.Spec {
	shell := program("/bin/sh", append([]string{"-c", script + `; exec "$0" "$@"`}, spec.Args...)...)
	shell.Env = spec.Env
	return shell
}

func TestSignalsIgnoredByTheDaemonAreDefaultInTheChild(t *testing.T) {
	k := newKeeper(t)
	front := behaviour(t, "front", "/bin/grep", "^SigIgn", "/proc/self/status")
	signals := "HUP INT QUIT PIPE TERM CHLD TSTP TTIN TTOU CONT USR1 WINCH"
	got, exit := output(t, k, underShell(`trap "" `+signals, front))
	if exit.Code != 0 {
		t.Fatalf("exit %+v", exit)
	}
	mask, err := strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(got, "SigIgn:")), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	if mask != 0 {
		t.Errorf("signals ignored by the child: mask %x", mask)
	}
}

func TestChildBlocksNoSignal(t *testing.T) {
	got, exit := output(t, newKeeper(t), program("/bin/grep", "^SigBlk", "/proc/self/status"))
	if exit.Code != 0 {
		t.Fatalf("exit %+v", exit)
	}
	if want := fmt.Sprintf("SigBlk:\t%016x\n", 0); got != want {
		t.Errorf("signals blocked by the child %q, want %q", got, want)
	}
}

func TestChildHasTheOriginalLimitOfOpenFiles(t *testing.T) {
	k := newKeeper(t)
	front := behaviour(t, "front", "/bin/grep", "^Max open files", "/proc/self/limits")
	got, exit := output(t, k, underShell("ulimit -Sn 123", front))
	if exit.Code != 0 {
		t.Fatalf("exit %+v", exit)
	}
	if fields := strings.Fields(got); len(fields) < 5 || fields[3] != "123" {
		t.Errorf("limit of the child %q, want a soft limit of 123", got)
	}
}
