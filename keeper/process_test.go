package keeper

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
		if exit := p.Exit(); exit != (ExitStatus{}) {
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
	if err := p.Signal(unix.SIGTERM); !errors.Is(err, ErrExited) || !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("error %v, want %v", err, ErrExited)
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
						if !errors.Is(err, ErrExited) {
							t.Errorf("error %v, want %v", err, ErrExited)
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
	spec.Files = []File{{FD: 0, Source: in}, {FD: 1, Source: outW}, {FD: 2, Source: 2}}
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

func TestCloseLeavesProcessesRunning(t *testing.T) {
	k := New(testLog())
	in, inW := blockingPipe(t)
	out, outW := pipe(t)
	spec := behaviour(t, "block")
	spec.Files = []File{{FD: 0, Source: in}, {FD: 1, Source: outW}, {FD: 2, Source: 2}}
	before := len(openFDs())
	p, err := k.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer abandon(p.Pid())
	closeFD(t, in)
	closeFD(t, outW)
	for range 2 {
		if err := k.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if got := len(openFDs()); got != before-2 {
		t.Errorf("%d descriptors, want %d", got, before-2)
	}
	if err := p.Signal(unix.SIGKILL); !errors.Is(err, ErrClosed) {
		t.Errorf("Signal: %v, want %v", err, ErrClosed)
	}
	closeFD(t, inW)
	if text, err := io.ReadAll(out); string(text) != "ready\ndone\n" || err != nil {
		t.Errorf("the process wrote %q, error %v", text, err)
	}
	select {
	case <-p.Done():
		t.Error("Done is closed although nobody reaps")
	default:
	}
}

func TestCloseWhileStartsAreUnderWayForgetsNone(t *testing.T) {
	before := len(openFDs())
	for range 20 {
		k := New(testLog())
		started := make(chan Process, 100)
		var starters sync.WaitGroup
		for range 4 {
			starters.Go(func() {
				for range cap(started) / 4 {
					p, err := k.Start(t.Context(), program("/bin/true"))
					if err != nil {
						if !errors.Is(err, ErrClosed) {
							t.Errorf("error %v, want %v", err, ErrClosed)
						}
						return
					}
					started <- p
				}
			})
		}
		known := []Process{<-started}
		if err := k.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if got := len(openFDs()); got != before {
			t.Errorf("%d descriptors after Close, want %d", got, before)
		}
		starters.Wait()
		close(started)
		for p := range started {
			known = append(known, p)
		}
		for _, p := range known {
			if errors.Is(p.Signal(0), ErrClosed) {
				abandon(p.Pid())
			}
		}
	}
}

func TestStatusTakenBySomebodyElseIsNotGuessed(t *testing.T) {
	k := newKeeper(t)
	in, w := blockingPipe(t)
	p := start(t, k, cat(in))
	closeFD(t, in)
	// Holding the lock keeps the keeper from reaping first.
	c := p.(*child)
	c.mu.Lock()
	closeFD(t, w)
	_, err := syscall.Wait4(p.Pid(), nil, 0, nil)
	c.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if exit := waitDone(t, p); exit.Code != -1 || exit.Signal != 0 {
		t.Errorf("exit %+v, want an unknown one", exit)
	}
}

func TestChildThatCannotBeWatchedIsRefused(t *testing.T) {
	notPollable, err := unix.MemfdCreate("pidfd", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	for _, pidfd := range []int{-1, notPollable} {
		pid, own, err := spawn(program("/bin/cat"))
		if err != nil {
			t.Fatal(err)
		}
		closeFD(t, own)
		if _, err := newChild(pid, pidfd); err == nil {
			t.Errorf("a child with pidfd %d is taken", pidfd)
		}
		abandon(pid)
	}
	if left := children(); len(left) > 0 {
		t.Errorf("children left: %v", left)
	}
}
