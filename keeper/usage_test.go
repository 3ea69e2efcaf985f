package keeper_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	burnt   = 200 * time.Millisecond
	touched = 64 << 20
)

// beBurning computes until it has used so much CPU time.
func beBurning([]string) {
	for x := 1; ; {
		for range 1_000_000 {
			x = x*3 + 1
		}
		var used unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
			fail("%v", err)
		}
		if x != 0 && time.Duration(used.Utime.Nano()) >= burnt {
			return
		}
	}
}

// beTouching touches so much memory.
func beTouching([]string) {
	memory, err := unix.Mmap(-1, 0, touched, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		fail("%v", err)
	}
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1
	}
}

func TestExitTellsWhatTheProcessHasUsed(t *testing.T) {
	k := newKeeper(t)
	idle := waitDone(t, start(t, k, program("/bin/true"))).Usage
	burning := waitDone(t, start(t, k, behaviour(t, "burn"))).Usage
	touching := waitDone(t, start(t, k, behaviour(t, "touch"))).Usage
	if idle == nil || burning == nil || touching == nil {
		t.Fatalf("no usage: idle %v, burning %v, touching %v", idle, burning, touching)
	}
	t.Logf("idle %+v, burning %+v, touching %+v", *idle, *burning, *touching)
	if idle.User >= burnt/2 || burning.User < burnt || burning.User > 100*burnt {
		t.Errorf("user CPU time: %v idle, %v after %v", idle.User, burning.User, burnt)
	}
	if idle.Peak <= 0 || idle.Peak >= touched || touching.Peak < touched || touching.Peak > 16*touched {
		t.Errorf("peak: %d idle, %d after %d", idle.Peak, touching.Peak, touched)
	}
}

func TestUsageCoversDescendantsThatWereWaitedFor(t *testing.T) {
	k := newKeeper(t)
	for _, name := range []string{"burn", "touch"} {
		child := behaviour(t, name)
		// More than one command, so that the shell does not become its child.
		spec := program("/bin/sh", "-c", fmt.Sprintf("%s; exit 0", child.Path))
		spec.Env = child.Env
		used := waitDone(t, start(t, k, spec)).Usage
		if used == nil || name == "burn" && used.User < burnt || name == "touch" && used.Peak < touched {
			t.Errorf("%s: %+v", name, used)
		}
	}
}

func TestUsageIsKnownWhereTheKeeperOfTheExitWasTheParent(t *testing.T) {
	k := newKeeper(t)
	in, w := blockingPipe(t)
	running := start(t, k, cat(in))
	closeFD(t, in)
	before := waitDone(t, start(t, k, behaviour(t, "burn"))).Usage
	killKeeper(t, k.Link)
	closeFD(t, w)
	if exit := waitDone(t, running); exit.Usage != nil {
		t.Errorf("a keeper that is not its parent tells %+v", exit.Usage)
	}
	if before == nil || before.User < burnt {
		t.Errorf("before the keeper died: %+v", before)
	}
}
