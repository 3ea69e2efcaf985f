package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// beWithoutDescriptors takes all descriptors there are, and gives them back one
// by one until a start works.
func beWithoutDescriptors([]string) {
	k := New(testLog())
	spec := program("/bin/true")
	if err := runOutput(k, spec); err != nil {
		fail("before: %v", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64}); err != nil {
		fail("%v", err)
	}
	var taken []int
	for {
		fd, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.EINVAL) {
			break
		}
		if err != nil {
			fail("%v", err)
		}
		taken = append(taken, fd)
	}
	if _, err := k.Holders(context.Background(), nil); !errors.Is(err, ErrDescriptors) {
		fail("Holders: %v", err)
	}
	refused := 0
	for err := runOutput(k, spec); err != nil; err = runOutput(k, spec) {
		var spawnErr *SpawnError
		if !errors.Is(err, ErrDescriptors) || !errors.As(err, &spawnErr) || len(taken) == 0 {
			fail("after %d refusals: %v", refused, err)
		}
		refused++
		_ = unix.Close(taken[len(taken)-1])
		taken = taken[:len(taken)-1]
	}
	for _, fd := range taken {
		_ = unix.Close(fd)
	}
	// A fork needs a number above the highest source.
	last, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 63)
	if err != nil {
		fail("%v", err)
	}
	high := spec
	high.Files = []File{{FD: 0, Source: last}}
	if _, err := k.Start(context.Background(), high); !errors.Is(err, ErrDescriptors) {
		fail("with the highest source: %v", err)
	}
	_ = unix.Close(last)
	if err := runOutput(k, spec); err != nil {
		fail("afterwards: %v", err)
	}
	if err := k.Close(); err != nil {
		fail("%v", err)
	}
	if left := children(); len(left) > 0 {
		fail("children left: %v", left)
	}
	_, _ = fmt.Fprintf(os.Stdout, "refused %d\n", refused)
}

func TestOutOfDescriptorsIsNamedAndPasses(t *testing.T) {
	got, exit := output(t, newKeeper(t), behaviour(t, "descriptors"))
	if exit.Code != 0 {
		t.Fatalf("exit %+v", exit)
	}
	var refused int
	if _, err := fmt.Sscanf(got, "refused %d", &refused); err != nil || refused < 3 || refused > 8 {
		t.Errorf("the child says %q, error %v; want a few refusals", got, err)
	}
}
