package keeper

import (
	"errors"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestZombieHasOnlyItsName(t *testing.T) {
	pid, err := syscall.ForkExec("/bin/true", []string{"true"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for errors.Is(err, syscall.EINTR) || err == nil {
			_, err = syscall.Wait4(pid, nil, 0, nil)
		}
	}()
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if got := commandOf(pid); got != "[true]" {
		t.Errorf("command %q, want %q", got, "[true]")
	}
}
