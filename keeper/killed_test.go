package keeper_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/keepertest"
)

// killKeeper kills the keeper and returns when the link has given everything to another one.
func killKeeper(t *testing.T, link *keeper.Link) {
	t.Helper()
	before := link.Info()
	if err := unix.Kill(before.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another keeper has everything", func() bool {
		now := link.Info()
		return now.Pid != 0 && now.Pid != before.Pid && now.Away.IsZero()
	})
}

// beHeld is a front of the keeper at args[0], with a session of one process and one descriptor, until its stdin ends.
func beHeld(args []string) {
	ctx := context.Background()
	self, err := os.Executable()
	if err != nil {
		fail("%v", err)
	}
	o := keeper.Options{Socket: args[0], Program: self}
	if len(args) > 1 { // the keeper shall start it again
		o.Front = os.Args
	}
	link, estate, err := keeper.Connect(ctx, o, nil)
	if err != nil {
		fail("%v", err)
	}
	if len(args) > 1 {
		note(args[1], len(estate.Sessions))
	}
	if len(estate.Sessions) > 0 {
		_ = estate.Sessions[0].Processes[4].Signal(unix.SIGTERM)
		<-ctx.Done()
	}
	account, err := link.Enter(keeper.UID{9}, "held")
	if err != nil {
		fail("%v", err)
	}
	if err := account.Put(keeper.Item{Key: 3, FD: 1}); err != nil {
		fail("%v", err)
	}
	p, err := account.Start(ctx, 4, program("/bin/sleep", "1000"))
	if err != nil {
		fail("%v", err)
	}
	_, _ = fmt.Fprintf(os.Stdout, "%d %d\n", p.Pid(), link.Info().Pid)
	if len(args) > 1 {
		go func() {
			for tick := time.NewTicker(time.Millisecond); link.Info().Restarts == 0 || !link.Info().Away.IsZero(); {
				<-tick.C
			}
			note(args[1], -1)
		}()
	}
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
}

// note appends a line "PID SESSIONS" to a file; -1 sessions say that the front has another keeper.
func note(path string, sessions int) {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintf(file, "%d %d\n", os.Getpid(), sessions)
	}
	if err != nil {
		fail("%v", err)
	}
}

// held is a front in a process of its own.
type held struct {
	pid, child, keeper int
	wait               func()
}

// hold starts a front in a process of its own.
func hold(t *testing.T, o keeper.Options, args ...string) *held {
	t.Helper()
	in, inW := blockingPipe(t)
	out, outW := pipe(t)
	spec := behaviour(t, "held", append([]string{o.Socket}, args...)...)
	pid, err := syscall.ForkExec(spec.Path, spec.Args, &syscall.ProcAttr{Env: spec.Env, Files: []uintptr{uintptr(in), uintptr(outW), 2}})
	if err != nil {
		t.Fatal(err)
	}
	closeFD(t, in)
	closeFD(t, outW)
	h := &held{pid: pid}
	waited := false
	h.wait = func() {
		if !waited {
			waited = true
			_, _ = syscall.Wait4(pid, nil, 0, nil)
		}
	}
	t.Cleanup(func() {
		_ = unix.Kill(pid, unix.SIGKILL)
		h.wait()
		closeFD(t, inW)
	})
	if _, err := fmt.Sscanf(readLine(t, out), "%d %d", &h.child, &h.keeper); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestStoppedFrontIsWaitedFor(t *testing.T) {
	o := keepertest.Options(t)
	old := hold(t, o)
	if err := unix.Kill(old.pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	waits := make(chan int, 1)
	type result struct {
		link   *keeper.Link
		estate *keeper.Estate
		err    error
	}
	connected := make(chan result, 1)
	go func() {
		link, estate, err := keeper.Connect(t.Context(), o, func(pid int) { waits <- pid })
		connected <- result{link, estate, err}
	}()
	if pid := <-waits; pid != old.pid {
		t.Errorf("it waits for process %d, want %d", pid, old.pid)
	}
	select {
	case r := <-connected:
		t.Fatalf("two fronts at once: %v", r.err)
	case <-time.After(200 * time.Millisecond): // long enough for one that does not wait
	}
	if err := unix.Kill(old.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r := <-connected
	if r.err != nil {
		t.Fatal(r.err)
	}
	defer closeLink(t, r.link)
	defer keepertest.CloseEstate(r.estate)
	if len(r.estate.Sessions) != 1 || r.estate.Sessions[0].Name != "held" || r.estate.Sessions[0].Processes[4].Pid() != old.child {
		t.Errorf("estate %+v", r.estate)
	}
}

func TestFrontThatIsKilledIsStartedAgain(t *testing.T) {
	o := keepertest.Options(t)
	notes := filepath.Join(t.TempDir(), "notes")
	old := hold(t, o, notes)
	noted := func(n int) (pid, sessions int) {
		var lines []string
		eventually(t, fmt.Sprintf("front %d is there", n), func() bool {
			text, _ := os.ReadFile(notes)
			lines = strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
			return len(lines) >= n && strings.HasSuffix(string(text), "\n")
		})
		if _, err := fmt.Sscanf(lines[n-1], "%d %d", &pid, &sessions); err != nil {
			t.Fatal(err)
		}
		return pid, sessions
	}
	if pid, sessions := noted(1); pid != old.pid || sessions != 0 {
		t.Errorf("front %d with %d sessions, want %d with none", pid, sessions, old.pid)
	}
	begin := time.Now()
	if err := unix.Kill(old.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	old.wait()
	second, sessions := noted(2)
	t.Logf("the next front has everything after %v", time.Since(begin))
	if sessions != 1 {
		t.Errorf("it has %d sessions", sessions)
	}
	if err := unix.Kill(second, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	third, _ := noted(3)
	if third == second {
		t.Error("the third front is the second")
	}
	// Without its socket nobody could find the keeper any more: then all ends.
	if err := os.Remove(o.Socket); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(third, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{old.keeper, old.child, third} {
		eventually(t, fmt.Sprintf("process %d is gone", pid), func() bool { return errors.Is(unix.Kill(pid, 0), syscall.ESRCH) })
	}
}

func TestKeeperThatIsKilledIsReplaced(t *testing.T) {
	o := keepertest.Options(t)
	link, _ := connect(t, o, nil)
	k := newFront(t, link)
	log := newMemfd(t)
	var items []keeper.Item
	for key := range uint32(100) {
		items = append(items, keeper.Item{Key: key, FD: log})
	}
	if err := k.account.Put(items...); err != nil {
		t.Fatal(err)
	}
	in, inW := blockingPipe(t)
	out, outW := pipe(t)
	spec := program("/bin/sh", "-c", "read x; exit 9")
	spec.Files = []keeper.File{{FD: 0, Source: in}, {FD: 1, Source: outW}}
	p := start(t, k, spec)
	closeFD(t, in)
	closeFD(t, outW)
	ended := start(t, k, behaviour(t, "exit", "3"))
	waitDone(t, ended)

	for range 3 {
		killKeeper(t, link)
	}
	if link.Info().Restarts != 3 {
		t.Errorf("info %+v, want 3 restarts", link.Info())
	}
	if err := p.Signal(0); err != nil {
		t.Errorf("signal: %v", err)
	}
	if _, err := unix.Write(inW, []byte("\n")); err != nil {
		t.Fatal(err)
	}
	closeFD(t, inW)
	if exit := waitDone(t, p); exit.Code != 9 && !exit.Unknown {
		t.Errorf("exit %+v, want 9 or unknown", exit)
	} else if exit.Unknown {
		t.Log("this kernel does not tell how a process has exited that is not a child")
	}
	_ = out
	another := start(t, k, behaviour(t, "exit", "5"))
	if exit := waitDone(t, another); exit.Code != 5 {
		t.Errorf("exit %+v, want 5", exit)
	}

	closeLink(t, link)
	_, estate := connect(t, o, nil)
	if len(estate.Sessions) != 1 || len(estate.Sessions[0].Files) != 100 || len(estate.Sessions[0].Processes) != 3 {
		t.Fatalf("estate %+v", estate.Sessions)
	}
	for key, fd := range estate.Sessions[0].Files {
		if !sameFile(t, fd, log) {
			t.Errorf("descriptor %d is another one", key)
		}
	}
}

func TestExitWhileTheKeeperIsAwayIsKnown(t *testing.T) {
	k := newKeeper(t)
	for _, code := range []int{0, 7, 255} {
		in, inW := blockingPipe(t)
		spec := program("/bin/sh", "-c", "read x; exit "+strconv.Itoa(code))
		spec.Files = []keeper.File{{FD: 0, Source: in}}
		p := start(t, k, spec)
		closeFD(t, in)
		before := k.Info().Pid
		if err := unix.Kill(before, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		closeFD(t, inW) // it exits now
		if exit := waitDone(t, p); exit.Code != code && !exit.Unknown {
			t.Errorf("exit %+v, want %d or unknown", exit, code)
		} else if exit.Unknown {
			t.Logf("code %d is not known on this kernel", code)
		}
	}
}

func TestCopiesAreGoneWhenRemoveReturnsAlsoFromKeepersThatDie(t *testing.T) {
	k := newKeeper(t)
	for i := range uint32(5) {
		r, w := blockingPipe(t)
		if err := unix.SetNonblock(r, true); err != nil {
			t.Fatal(err)
		}
		if err := k.account.Put(keeper.Item{Key: i, FD: w}); err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(k.Info().Pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		k.account.Remove(i)
		closeFD(t, w)
		// Here this process starts another keeper: what it forks has all its descriptors for an instant.
		eventually(t, "nobody has a copy", func() bool {
			n, err := unix.Read(r, make([]byte, 1))
			return n == 0 && err == nil
		})
		closeFD(t, r)
		// Put waits for the next keeper.
		if err := k.account.Put(keeper.Item{Key: 1000, FD: 2}); err != nil {
			t.Fatal(err)
		}
	}
}

// Otherwise both could be killed now, and the record would tell it as lost.
func TestAccountThatIsLeftWithoutAKeeperIsOffTheRecordOfTheNextWhenLeaveReturns(t *testing.T) {
	k := newKeeper(t)
	for i := range byte(5) {
		account, err := k.Enter(keeper.UID{100 + i}, "left")
		if err != nil {
			t.Fatal(err)
		}
		before := k.Info().Pid
		if err := unix.Kill(before, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		account.Leave()
		if now := k.Info().Pid; now == 0 || now == before {
			t.Errorf("keeper %d after %d", now, before)
		}
	}
}

func TestBothKilledIsToldAndNothingRunsOn(t *testing.T) {
	o := keepertest.Options(t)
	old := hold(t, o)
	if err := unix.Kill(old.keeper, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(old.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	old.wait()
	_, estate := connect(t, o, nil)
	want := []keeper.Loss{{UID: keeper.UID{9}, Name: "held"}}
	if diff := cmp.Diff(want, estate.Lost); diff != "" {
		t.Errorf("lost sessions (-want +got):\n%s", diff)
	}
	if len(estate.Sessions)+len(estate.Own) > 0 {
		t.Errorf("estate %+v", estate)
	}
	eventually(t, "the process of the lost session is gone", func() bool { return errors.Is(unix.Kill(old.child, 0), syscall.ESRCH) })
}

func TestKeeperEndsWhenItsSocketIsGoneAndNobodyNeedsIt(t *testing.T) {
	o := keepertest.Options(t)
	old := hold(t, o)
	if err := os.Remove(o.Socket); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(old.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	old.wait()
	for _, pid := range []int{old.keeper, old.child} {
		eventually(t, fmt.Sprintf("process %d is gone", pid), func() bool { return errors.Is(unix.Kill(pid, 0), syscall.ESRCH) })
	}
	if _, err := os.Stat(o.Socket + ".registry"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the registry is still there: %v", err)
	}
}

func TestUpgradesUnderLoadLoseNothing(t *testing.T) {
	k := newKeeper(t)
	log := newMemfd(t)
	in, inW := blockingPipe(t)
	spec := program("/bin/sh", "-c", "read x; exit 9")
	spec.Files = []keeper.File{{FD: 0, Source: in}}
	running := start(t, k, spec)
	closeFD(t, in)
	before := k.Info()

	done := make(chan struct{})
	var load sync.WaitGroup
	var starts, puts atomic.Int64
	for i := range uint32(2) {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				code := n % 250
				p, err := k.Start(t.Context(), program("/bin/sh", "-c", "exit "+strconv.Itoa(code)))
				if err != nil {
					t.Error(err)
					return
				}
				if exit := waitDone(t, p); exit.Code != code {
					t.Errorf("exit %+v, want %d", exit, code)
				}
				starts.Add(1)
			}
		})
		load.Go(func() {
			for n := uint32(0); ; n++ {
				select {
				case <-done:
					return
				default:
				}
				key := 1000*(i+1) + n%500
				if err := k.account.Put(keeper.Item{Key: key, FD: log}); err != nil {
					t.Error(err)
					return
				}
				k.account.Remove(key)
				puts.Add(1)
			}
		})
	}
	// The spawner is another one after each upgrade.
	spawner := func() int {
		for _, pid := range k.pids(t) {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if strings.HasPrefix(string(text), "piped-spawner\x00") {
				return pid
			}
		}
		return 0
	}
	eventually(t, "there is a spawner", func() bool { return spawner() != 0 })
	const upgrades = 5
	for range upgrades {
		old := spawner()
		if err := unix.Kill(before.Pid, unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, "there is another spawner", func() bool { now := spawner(); return now != 0 && now != old })
	}
	close(done)
	load.Wait()
	t.Logf("%d upgrades under %d starts and %d puts", upgrades, starts.Load(), puts.Load())
	if now := k.Info(); now.Pid != before.Pid || now.Restarts != 0 {
		t.Errorf("keeper %+v, was %+v", now, before)
	}
	closeFD(t, inW)
	if exit := waitDone(t, running); exit.Code != 9 {
		t.Errorf("exit %+v, want 9", exit)
	}
	k.onlySpawner(t)
}

func TestFrontIsToldThatTheKeeperEndsByOrder(t *testing.T) {
	o := keepertest.Options(t)
	link, _ := connect(t, o, nil)
	k := newFront(t, link)
	in, inW := blockingPipe(t)
	defer closeFD(t, inW)
	p, err := k.Start(t.Context(), cat(in))
	if err != nil {
		t.Fatal(err)
	}
	closeFD(t, in)
	if err := unix.Kill(link.Info().Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-link.Ended():
	case <-time.After(30 * time.Second):
		t.Fatal("the front is not told")
	}
	if exit := waitDone(t, p); exit.Signal != unix.SIGKILL {
		t.Errorf("exit %+v", exit)
	}
	if err := k.account.Put(keeper.Item{Key: 1, FD: inW}); !errors.Is(err, keeper.ErrClosed) {
		t.Errorf("Put: %v", err)
	}
}

func TestFrontIsStartedAgainAlsoByTheNextKeeper(t *testing.T) {
	o := keepertest.Options(t)
	notes := filepath.Join(t.TempDir(), "notes")
	old := hold(t, o, notes)
	if err := unix.Kill(old.keeper, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the front has another keeper", func() bool {
		text, _ := os.ReadFile(notes)
		return strings.Contains(string(text), fmt.Sprintf("%d -1\n", old.pid))
	})
	if err := unix.Kill(old.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	old.wait()
	eventually(t, "there is another front", func() bool {
		text, _ := os.ReadFile(notes)
		return strings.Contains(string(text), " 1\n")
	})
	text, err := os.ReadFile(notes)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	var next, sessions int
	if _, err := fmt.Sscanf(lines[len(lines)-1], "%d %d", &next, &sessions); err != nil || sessions != 1 || next == old.pid {
		t.Errorf("the fronts have noted %q", lines)
	}
	// So that all ends.
	if err := errors.Join(os.Remove(o.Socket), unix.Kill(next, unix.SIGKILL)); err != nil {
		t.Error(err)
	}
	eventually(t, "the front's process is gone", func() bool { return errors.Is(unix.Kill(next, 0), syscall.ESRCH) })
}
