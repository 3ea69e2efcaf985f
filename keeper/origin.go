package keeper

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An Origin is where a process comes from, as /proc/PID/stat says (proc(5)). It is
// zero of a process that is gone, and of one that may not be seen.
type Origin struct {
	// Started is when it was forked, as exactly as the kernel tells (10 ms).
	Started time.Time
	// Parent is its parent now, SID the leader of its session: a child that was started
	// by the keeper leads one, and its descendants stay in it until they make one of
	// their own.
	Parent, SID int
}

// OriginOf looks at a process.
func OriginOf(pid int) Origin {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Origin{}
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const parent, session, start = 1, 3, 19 // the third field of all is the first behind the name
	if len(fields) <= start {
		return Origin{}
	}
	number := func(i int) int { n, _ := strconv.Atoi(fields[i]); return n }
	o := Origin{Parent: number(parent), SID: number(session)}
	const tick = time.Second / 100 // USER_HZ, on all machines that Go knows
	if ticks, err := strconv.ParseInt(fields[start], 10, 64); err == nil && !booted().IsZero() {
		o.Started = booted().Add(time.Duration(ticks) * tick)
	}
	return o
}

// booted returns when the machine was started; zero where /proc does not tell.
var booted = sync.OnceValue(func() time.Time {
	text, _ := os.ReadFile("/proc/stat") // without it nothing is found
	for line := range strings.Lines(string(text)) {
		if since, found := strings.CutPrefix(line, "btime "); found {
			if seconds, err := strconv.ParseInt(strings.TrimSpace(since), 10, 64); err == nil {
				return time.Unix(seconds, 0)
			}
		}
	}
	return time.Time{}
})
