package children

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// An injection is system calls of a process that fail, until it is relieved.
type injection struct {
	t     testing.TB
	cmd   *exec.Cmd
	lines *bufio.Scanner
	log   string
	over  bool
}

// inject has the kernel refuse calls of a process: names with commas between, and
// what strace's inject says of them. It returns when the process is watched.
func inject(t testing.TB, pid int, calls, how string) *injection {
	t.Helper()
	log := filepath.Join(t.TempDir(), "calls")
	cmd := exec.Command("strace", "-f", "-o", log, "-e", "trace="+calls, "-e", "inject="+calls+":"+how, "-p", strconv.Itoa(pid))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	i := &injection{t: t, cmd: cmd, lines: bufio.NewScanner(stderr), log: log}
	t.Cleanup(func() { i.relieve() })
	if !i.lines.Scan() || !strings.Contains(i.lines.Text(), "attached") {
		t.Fatalf("strace does not attach to %d: %s", pid, i.lines.Text())
	}
	return i
}

// count returns how many calls have been refused by now.
func (i *injection) count() int {
	i.t.Helper()
	text, err := os.ReadFile(i.log)
	if err != nil {
		i.t.Fatal(err)
	}
	return bytes.Count(text, []byte("(INJECTED)"))
}

// relieve lets the process go on as it was, and returns how many calls have been
// refused.
func (i *injection) relieve() int {
	i.t.Helper()
	if !i.over {
		i.over = true
		_ = i.cmd.Process.Signal(syscall.SIGTERM) // it lets go
		for i.lines.Scan() {
			continue
		}
		_ = i.cmd.Wait() // ended by the signal, so never nil
	}
	return i.count()
}

// mayTrace skips the test where a process cannot be watched that is no descendant.
func mayTrace(t *testing.T) {
	t.Helper()
	scope, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	if os.Geteuid() != 0 && err == nil && strings.TrimSpace(string(scope)) != "0" {
		t.Skip("kernel.yama.ptrace_scope lets only root trace a daemon")
	}
}
