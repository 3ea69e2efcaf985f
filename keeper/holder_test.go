package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
)

// endOf is EndOf for descriptors that must have one.
func endOf(t *testing.T, fd int) keeper.End {
	t.Helper()
	end, err := keeper.EndOf(fd)
	if err != nil {
		t.Fatal(err)
	}
	return end
}

// holding returns the descriptors of each holder of each end, by process id.
func holding(t *testing.T, k *front, ends ...keeper.End) []map[int][]int {
	t.Helper()
	holders, err := k.Holders(t.Context(), ends)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]map[int][]int, len(holders))
	for i, list := range holders {
		got[i] = make(map[int][]int)
		for _, h := range list {
			got[i][h.Pid] = h.FDs
		}
	}
	return got
}

// runningCat starts a cat with an argument that it does not get to before the
// end of the test, and more descriptors. It returns when cat runs: for an
// instant after exec, the kernel knows no command line.
func runningCat(t *testing.T, k *front, arg string, more []keeper.File) (pid int) {
	t.Helper()
	in, inW := blockingPipe(t)
	out, outW := pipe(t)
	spec := program("/bin/cat")
	spec.Args = []string{"cat", "-", arg}
	spec.Files = append([]keeper.File{{FD: 0, Source: in}, {FD: 1, Source: outW}}, more...)
	p := start(t, k, spec)
	t.Cleanup(func() { closeFD(t, inW) })
	closeFD(t, in)
	closeFD(t, outW)
	if _, err := unix.Write(inW, []byte("running\n")); err != nil {
		t.Fatal(err)
	}
	readLine(t, out)
	return p.Pid()
}

func TestHolders(t *testing.T) {
	k := newKeeper(t)
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	s, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	me := os.Getpid()
	child := runningCat(t, k, "caf\xe9", []keeper.File{{FD: 7, Source: p[1]}, {FD: 8, Source: s[1]}, {FD: 11, Source: s[1]}})
	ends := []keeper.End{endOf(t, p[0]), endOf(t, p[1]), endOf(t, s[0]), endOf(t, s[1])}

	t.Run("daemon and child", func(t *testing.T) {
		want := []map[int][]int{
			{me: {p[0]}},
			{me: {p[1]}, child: {7}},
			{me: {s[0]}},
			{me: {s[1]}, child: {8, 11}},
		}
		if diff := cmp.Diff(want, holding(t, k, ends...)); diff != "" {
			t.Errorf("holders (-want +got):\n%s", diff)
		}
	})
	t.Run("a pipe opened both ways holds both ends", func(t *testing.T) {
		both, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", p[0]), unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Close(both) }()
		if kind := endOf(t, both).Kind; kind != keeper.PipeBoth {
			t.Errorf("kind %v, want %v", kind, keeper.PipeBoth)
		}
		want := []map[int][]int{{me: {p[0], both}}, {me: {p[1], both}, child: {7}}}
		if diff := cmp.Diff(want, holding(t, k, ends[:2]...)); diff != "" {
			t.Errorf("holders (-want +got):\n%s", diff)
		}
	})
	t.Run("after the daemon closed its copies", func(t *testing.T) {
		for _, fd := range []int{p[0], p[1], s[0], s[1]} {
			closeFD(t, fd)
		}
		want := []map[int][]int{{}, {child: {7}}, {}, {child: {8, 11}}}
		if diff := cmp.Diff(want, holding(t, k, ends...)); diff != "" {
			t.Errorf("holders (-want +got):\n%s", diff)
		}
	})
	t.Run("command", func(t *testing.T) {
		holders, err := k.Holders(t.Context(), ends[1:2])
		if err != nil {
			t.Fatal(err)
		}
		want := [][]keeper.Holder{{{Pid: child, Command: "cat - caf\uFFFD", FDs: []int{7}}}}
		if diff := cmp.Diff(want, holders); diff != "" {
			t.Errorf("holders (-want +got):\n%s", diff)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := k.Holders(ctx, ends); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want cancelled", err)
		}
	})
}

func TestEndOfRefusesWhatIsNoEnd(t *testing.T) {
	if _, err := keeper.EndOf(newMemfd(t)); !errors.Is(err, keeper.ErrInvalid) {
		t.Errorf("error %v, want %v", err, keeper.ErrInvalid)
	}
	if _, err := keeper.EndOf(9999); !errors.Is(err, syscall.EBADF) {
		t.Errorf("error %v, want %v", err, syscall.EBADF)
	}
}

func TestLongCommandIsCut(t *testing.T) {
	k := newKeeper(t)
	r, w := blockingPipe(t)
	defer closeFD(t, r)
	defer closeFD(t, w)
	pid := runningCat(t, k, strings.Repeat("x", 8192), []keeper.File{{FD: 7, Source: r}})
	holders, err := k.Holders(t.Context(), []keeper.End{endOf(t, r)})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range holders[0] {
		if h.Pid == pid && len(h.Command) == 4096 {
			return
		}
	}
	t.Errorf("no command of 4096 bytes: %+v", holders)
}
