//go:build failpoints

package pipe

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// PIPED_FP=NAME=kill@N makes the process kill itself when it comes to the
// failpoint NAME for the Nth time.
var armed = parseFailpoint(os.Getenv("PIPED_FP"))

// atFailpoint, if set, is told of every failpoint instead: a simulation decides
// what happens there.
var atFailpoint func(name string)

type armedFailpoint struct {
	name string
	left atomic.Int64
}

func parseFailpoint(s string) *armedFailpoint {
	name, at, ok := strings.Cut(s, "=kill@")
	n, err := strconv.ParseInt(at, 10, 64)
	if !ok || err != nil {
		return &armedFailpoint{}
	}
	f := &armedFailpoint{name: name}
	f.left.Store(n)
	return f
}

func failpoint(name string) {
	if atFailpoint != nil {
		atFailpoint(name)
		return
	}
	if armed.name == name && armed.left.Add(-1) == 0 {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {} // nothing is done between the signal and its effect
	}
}
