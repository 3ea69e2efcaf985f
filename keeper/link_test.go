package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/keepertest"
)

// connect takes over what the front before has left.
func connect(t *testing.T, o keeper.Options, onWait func(int)) (*keeper.Link, *keeper.Estate) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	link, estate, err := keeper.Connect(ctx, o, onWait)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		keepertest.CloseEstate(estate)
		if err := link.Close(); err != nil {
			t.Error(err)
		}
	})
	return link, estate
}

func closeLink(t *testing.T, link *keeper.Link) {
	t.Helper()
	if err := link.Close(); err != nil {
		t.Fatal(err)
	}
}

// sameFile says whether two descriptors are open on one object.
func sameFile(t *testing.T, a, b int) bool {
	t.Helper()
	var one, two unix.Stat_t
	if err := errors.Join(unix.Fstat(a, &one), unix.Fstat(b, &two)); err != nil {
		t.Fatal(err)
	}
	return one.Dev == two.Dev && one.Ino == two.Ino
}

func TestNextFrontGetsEverything(t *testing.T) {
	o := keepertest.Options(t)
	first, estate := connect(t, o, nil)
	if !estate.Gone.IsZero() {
		t.Errorf("a front before the first was gone at %v", estate.Gone)
	}
	a := newFront(t, first)
	log := newMemfd(t)
	if err := a.account.Put(keeper.Item{Key: 7, FD: log}); err != nil {
		t.Fatal(err)
	}
	if err := first.Own().Put(keeper.Item{Key: 1, FD: log}); err != nil {
		t.Fatal(err)
	}
	in, inW := blockingPipe(t)
	defer closeFD(t, inW)
	running, err := a.account.Start(t.Context(), 100, cat(in))
	if err != nil {
		t.Fatal(err)
	}
	closeFD(t, in)
	ended, err := a.account.Start(t.Context(), 101, behaviour(t, "exit", "7"))
	if err != nil {
		t.Fatal(err)
	}
	closeLink(t, first)

	// The exit is kept, whether it comes before or after.
	second, estate := connect(t, o, nil)
	if second.Epoch() != first.Epoch()+1 || estate.Gone.IsZero() {
		t.Errorf("epoch %d after %d, the front before gone at %v", second.Epoch(), first.Epoch(), estate.Gone)
	}
	if len(estate.Own) != 1 || !sameFile(t, estate.Own[1], log) {
		t.Errorf("own descriptors %v", estate.Own)
	}
	if len(estate.Sessions) != 1 {
		t.Fatalf("sessions %+v", estate.Sessions)
	}
	s := estate.Sessions[0]
	if s.Name != "test" || s.UID != (keeper.UID{1}) || len(s.Files) != 1 || !sameFile(t, s.Files[7], log) || len(s.Processes) != 2 {
		t.Errorf("session %+v", s)
	}
	if p := s.Processes[101]; p.Pid() != ended.Pid() || waitDone(t, p).Code != 7 {
		t.Errorf("process %d, exit %+v; want %d and 7", p.Pid(), p.Exit(), ended.Pid())
	}
	p := s.Processes[100]
	if p.Pid() != running.Pid() {
		t.Errorf("process %d, was %d", p.Pid(), running.Pid())
	}
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if exit := waitDone(t, p); exit.Signal != unix.SIGTERM {
		t.Errorf("exit %+v", exit)
	}

	s.Account.Forget(101)
	s.Account.Remove(7)
	closeLink(t, second)
	_, estate = connect(t, o, nil)
	s = estate.Sessions[0]
	if len(s.Files) != 0 || len(s.Processes) != 1 || s.Processes[100].Exit().Signal != unix.SIGTERM {
		t.Errorf("after Forget and Remove: %+v", s)
	}
}

func TestStartOfOneKeyHappensOnce(t *testing.T) {
	k := newKeeper(t)
	in, inW := blockingPipe(t)
	defer closeFD(t, inW)
	defer closeFD(t, in)
	var pids []int
	for range 2 {
		p, err := k.account.Start(t.Context(), 5, cat(in))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, p.Pid())
	}
	if pids[0] != pids[1] {
		t.Errorf("two processes %v", pids)
	}
}

func TestCopiesAreGoneWhenRemoveReturns(t *testing.T) {
	k := newKeeper(t)
	for range 100 {
		r, w := blockingPipe(t)
		if err := unix.SetNonblock(r, true); err != nil {
			t.Fatal(err)
		}
		if err := k.account.Put(keeper.Item{Key: 1, FD: w}); err != nil {
			t.Fatal(err)
		}
		closeFD(t, w)
		if _, err := unix.Read(r, make([]byte, 1)); !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("while the keeper has a copy: %v", err)
		}
		k.account.Remove(1)
		if n, err := unix.Read(r, make([]byte, 1)); n != 0 || err != nil {
			t.Errorf("after Remove: %d bytes, %v; want the end", n, err)
		}
		closeFD(t, r)
	}
}

func TestSourcesAreOnlyTheChildsWhenStartReturns(t *testing.T) {
	k := newKeeper(t)
	for range 50 {
		r, w := blockingPipe(t)
		spec := program("/bin/true")
		spec.Files = []keeper.File{{FD: 1, Source: w}}
		p := start(t, k, spec)
		closeFD(t, w)
		waitDone(t, p)
		if err := unix.SetNonblock(r, true); err != nil {
			t.Fatal(err)
		}
		if n, err := unix.Read(r, make([]byte, 1)); n != 0 || err != nil {
			t.Fatalf("after the exit: %d bytes, %v; want the end", n, err)
		}
		closeFD(t, r)
	}
}

func TestLeaveOfAnAccountKillsItsProcesses(t *testing.T) {
	k := newKeeper(t)
	in, inW := blockingPipe(t)
	defer closeFD(t, inW)
	p, err := k.Start(t.Context(), cat(in))
	if err != nil {
		t.Fatal(err)
	}
	closeFD(t, in)
	k.account.Leave()
	if exit := waitDone(t, p); exit.Signal != unix.SIGKILL {
		t.Errorf("exit %+v", exit)
	}
	k.onlySpawner(t)
	if err := k.account.Put(keeper.Item{Key: 1, FD: inW}); !errors.Is(err, keeper.ErrClosed) {
		t.Errorf("Put after Leave: %v", err)
	}
	if _, err := k.Enter(keeper.UID{1}, "again"); err != nil {
		t.Errorf("Enter after Leave: %v", err)
	}
}

func TestEndLeavesNothing(t *testing.T) {
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
	pids := append(k.pids(t), link.Info().Pid, p.Pid())
	if err := link.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("process %d is gone", pid), func() bool { return errors.Is(unix.Kill(pid, 0), syscall.ESRCH) })
	}
	left, err := filepath.Glob(filepath.Dir(o.Socket) + "/*")
	if err != nil || len(left) > 0 {
		t.Errorf("files left: %v, %v", left, err)
	}
	if _, err := k.Start(t.Context(), program("/bin/true")); !errors.Is(err, keeper.ErrClosed) {
		t.Errorf("Start after End: %v", err)
	}
}

func TestSpawnCostDoesNotGrowWithDescriptors(t *testing.T) {
	k := newKeeper(t)
	spec := program("/bin/true")
	measure := func() time.Duration {
		best := time.Hour
		for range 30 {
			begin := time.Now()
			p, err := k.Start(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(begin))
			waitDone(t, p)
		}
		return best
	}
	few := measure()
	log := newMemfd(t)
	var items []keeper.Item
	for key := range uint32(5000) {
		items = append(items, keeper.Item{Key: key, FD: log})
	}
	if err := k.account.Put(items...); err != nil {
		t.Fatal(err)
	}
	many := measure()
	ratio := float64(many) / float64(few)
	t.Logf("start of a process: %v with few descriptors, %v with 5,000, ratio %.2f", few, many, ratio)
	if ratio > 2 {
		t.Errorf("a start costs %.2f times as much with 5,000 descriptors", ratio)
	}
}

func TestLeaveKeepsEverythingForTheNextFront(t *testing.T) {
	o := keepertest.Options(t)
	o.Front = []string{"/bin/false"} // would be seen: it never becomes a front
	link, _ := connect(t, o, nil)
	k := newFront(t, link)
	in, inW := blockingPipe(t)
	defer closeFD(t, inW)
	p, err := k.account.Start(t.Context(), 1, cat(in))
	if err != nil {
		t.Fatal(err)
	}
	closeFD(t, in)
	if err := link.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := k.account.Put(keeper.Item{Key: 1, FD: inW}); !errors.Is(err, keeper.ErrClosed) {
		t.Errorf("Put after Leave: %v", err)
	}
	o.Front = nil
	_, estate := connect(t, o, nil)
	if len(estate.Sessions) != 1 || estate.Sessions[0].Processes[1].Pid() != p.Pid() {
		t.Errorf("estate %+v", estate)
	}
}

func TestConnectSaysWhyThereIsNoKeeper(t *testing.T) {
	dir := t.TempDir()
	for program, want := range map[string]error{dir + "/none": fs.ErrNotExist, "/bin/false": nil} {
		_, _, err := keeper.Connect(t.Context(), keeper.Options{Socket: dir + "/keeper", Program: program}, nil)
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", program, err, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := keeper.Connect(ctx, keeper.Options{Socket: dir + "/keeper"}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody starts one: %v", err)
	}
}

func TestDescriptorThatIsNotOpenIsRefusedAndNothingElse(t *testing.T) {
	k := newKeeper(t)
	log := newMemfd(t)
	if err := k.account.Put(keeper.Item{Key: 1, FD: log}, keeper.Item{Key: 2, FD: 99999}); !errors.Is(err, syscall.EBADF) {
		t.Errorf("error %v, want %v", err, syscall.EBADF)
	}
	if err := k.account.Put(keeper.Item{Key: 1, FD: log}); err != nil {
		t.Error(err)
	}
	if info := k.Info(); info.Restarts != 0 {
		t.Errorf("the link was lost: %+v", info)
	}
}
