package custody_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
)

// TestManySessionsAreHandedOverFast prints what a thousand sessions, of five
// descriptors and a process each, cost the keeper, and how long the next front
// waits for them, after a front's death and after a keeper's.
func TestManySessionsAreHandedOverFast(t *testing.T) {
	sessions := 1000
	if testing.Short() {
		sessions = 100
	}
	o := options(t)
	link, _ := connect(t, o)
	pid := link.Info().Pid
	before := memory(t, pid)
	r, _ := pipe(t)
	var accounts []*keeper.Account
	begun := time.Now()
	for i := range sessions {
		var uid keeper.UID
		binary.LittleEndian.PutUint32(uid[:], uint32(i+1))
		a, err := link.Enter(uid, fmt.Sprint("session ", i))
		if err != nil {
			t.Fatal(err)
		}
		var items []keeper.Item
		for key := range uint32(4) {
			items = append(items, keeper.Item{Key: key, FD: r})
		}
		if err := a.Put(items...); err != nil {
			t.Fatal(err)
		}
		start(t, a, 1, keeper.Spec{Path: "/bin/cat", Args: []string{"cat"}, Files: []keeper.File{{FD: 0, Source: r}, {FD: 1, Source: -1}}})
		accounts = append(accounts, a)
	}
	t.Logf("%d sessions in %v; the keeper: %d bytes and %.1f descriptors a session", sessions, time.Since(begun).Round(time.Millisecond),
		(memory(t, pid)-before)/sessions, float64(descriptors(t, pid))/float64(sessions))

	begun = time.Now()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a new keeper", func() bool { now := link.Info(); return now.Restarts == 1 && now.Away.IsZero() })
	t.Logf("a keeper's death: %v", time.Since(begun).Round(time.Millisecond))
	exit(t, start(t, accounts[0], 2, shell("exit 0"))) // so that there is a spawner
	begun = time.Now()
	upgraded(t, link.Info().Pid)
	if err := accounts[0].Put(keeper.Item{Key: 9, FD: r}); err != nil {
		t.Fatal(err)
	}
	t.Logf("an upgrade: %v", time.Since(begun).Round(time.Millisecond))
	if err := link.Close(); err != nil {
		t.Fatal(err)
	}

	begun = time.Now()
	link, estate := connect(t, o)
	t.Logf("the next front has everything after %v", time.Since(begun).Round(time.Millisecond))
	if len(estate.Sessions) != sessions {
		t.Errorf("%d sessions, want %d", len(estate.Sessions), sessions)
	}
	for _, s := range estate.Sessions {
		for _, fd := range s.Files {
			_ = unix.Close(fd)
		}
	}
	begun = time.Now()
	if err := link.End(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("the end of all: %v", time.Since(begun).Round(time.Millisecond))
}

// memory returns the resident memory of a process, in bytes.
func memory(t *testing.T, pid int) (n int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n << 10
}

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
