package keeper_test

import (
	"errors"
	"io"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
)

// beExiting returns the code it is given.
func beExiting(args []string) {
	code, err := strconv.Atoi(args[0])
	if err != nil {
		fail("%v", err)
	}
	os.Exit(code)
}

// beBlocked says that it is ready, reads to the end of its stdin, and says that
// it is done. It writes only if it has a stdout.
func beBlocked([]string) {
	_, _ = os.Stdout.WriteString("ready\n")
	_, _ = io.Copy(io.Discard, os.Stdin)
	_, _ = os.Stdout.WriteString("done\n")
}

// beOrphaning starts a blocked child with its own streams and leaves it.
func beOrphaning([]string) {
	_, err := syscall.ForkExec(os.Args[0], os.Args[:1], &syscall.ProcAttr{
		Env:   []string{childVariable + "=block"},
		Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		fail("%v", err)
	}
}

func TestExitCode(t *testing.T) {
	k := newKeeper(t)
	for _, code := range []int{0, 7, 255} {
		before := time.Now()
		exit := waitDone(t, start(t, k, behaviour(t, "exit", strconv.Itoa(code))))
		if exit.Code != code || exit.Signal != 0 || exit.CoreDumped {
			t.Errorf("exit %+v, want code %d", exit, code)
		}
		if exit.Time.Before(before) || exit.Time.After(time.Now()) {
			t.Errorf("exit time %v", exit.Time)
		}
	}
}

func TestSignalEndsProcess(t *testing.T) {
	k := newKeeper(t)
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGKILL} {
		in, w := blockingPipe(t)
		p := start(t, k, cat(in))
		closeFD(t, in)
		if exit := p.Exit(); exit != (keeper.ExitStatus{}) {
			t.Errorf("exit of a running process %+v", exit)
		}
		if err := p.Signal(sig); err != nil {
			t.Fatal(err)
		}
		exit := waitDone(t, p)
		if exit.Code != -1 || exit.Signal != sig || exit.CoreDumped {
			t.Errorf("exit %+v, want signal %v without a core", exit, sig)
		}
		closeFD(t, w)
	}
}

func TestSignalAfterExit(t *testing.T) {
	k := newKeeper(t)
	p := start(t, k, program("/bin/true"))
	waitDone(t, p)
	if err := p.Signal(unix.SIGTERM); !errors.Is(err, keeper.ErrExited) || !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("error %v, want %v", err, keeper.ErrExited)
	}
}

func TestSignalsThatRaceWithTheExitReachNobodyElse(t *testing.T) {
	k := newKeeper(t)
	for range 20 {
		p := start(t, k, program("/bin/true"))
		var senders sync.WaitGroup
		for range 3 {
			senders.Go(func() {
				for {
					if err := p.Signal(0); err != nil {
						if !errors.Is(err, keeper.ErrExited) {
							t.Errorf("error %v, want %v", err, keeper.ErrExited)
						}
						return
					}
				}
			})
		}
		senders.Wait()
		waitDone(t, p)
	}
}

func TestExitIsSeenWhileGrandchildHoldsThePipe(t *testing.T) {
	k := newKeeper(t)
	in, inW := blockingPipe(t)
	out, outW := pipe(t)
	spec := behaviour(t, "orphan")
	behaviour(t, "block")
	spec.Files = []keeper.File{{FD: 0, Source: in}, {FD: 1, Source: outW}, {FD: 2, Source: 2}}
	p := start(t, k, spec)
	closeFD(t, in)
	closeFD(t, outW)
	if exit := waitDone(t, p); exit.Code != 0 {
		t.Fatalf("exit %+v", exit)
	}
	if line := readLine(t, out); line != "ready" {
		t.Errorf("the grandchild says %q", line)
	}
	closeFD(t, inW)
	if rest, err := io.ReadAll(out); string(rest) != "done\n" || err != nil {
		t.Errorf("the grandchild says %q, error %v", rest, err)
	}
}
