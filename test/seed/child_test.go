package seed

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// runPython runs one of the demo's own tools and returns its stdout.
func runPython(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	command := script(t, name)
	cmd := exec.CommandContext(t.Context(), command[0], append(command[1:], args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, &stderr)
	}
	return stdout.String()
}

// pickled returns a Python object as the bytes of a message.
func pickled(t *testing.T, literal string) string {
	t.Helper()
	return runPython(t, "", "pickled.py", literal)
}

// unpickled returns what Python prints of the object in a message.
func unpickled(t *testing.T, message string) string {
	t.Helper()
	return strings.TrimSuffix(runPython(t, message, "unpickled.py"), "\n")
}

// fiveHellos returns Hello 0 to Hello 4 as messages, and as the receiving
// programs print them.
func fiveHellos(t *testing.T) (messages, printed []string) {
	t.Helper()
	for i := range 5 {
		messages = append(messages, pickled(t, fmt.Sprintf("Hello %d", i)))
		printed = append(printed, fmt.Sprintf("received 'Hello %d'", i))
	}
	return messages, printed
}

// awaitAsleep waits until a process sleeps in a system call. A child that has
// printed all that it received, and has nothing else to do, sleeps in recv.
func awaitAsleep(t *testing.T, pid int32) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(daemon.Patience)
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatalf("the process should be there: %v", err)
		}
		if bytes.Contains(status, []byte("\nState:\tS")) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("process %d does not sleep:\n%s", pid, status)
		}
	}
}

// running returns the only process of a session, which must run.
func running(t *testing.T, s *pipedv1.Session) *pipedv1.Process {
	t.Helper()
	if n := len(s.GetProcesses()); n != 1 {
		t.Fatalf("%d processes, want 1: %v", n, s)
	}
	p := s.GetProcesses()[0]
	if p.GetState() != pipedv1.Process_STATE_RUNNING {
		t.Fatalf("the process is %v, want RUNNING", p)
	}
	return p
}

// end returns an end of a pipe of a session.
func end(t *testing.T, s *pipedv1.Session, pipe string, number uint32) *pipedv1.Endpoint {
	t.Helper()
	for _, p := range s.GetPipes() {
		for _, e := range p.GetEndpoints() {
			if p.GetName() == pipe && e.GetEnd() == number {
				return e
			}
		}
	}
	t.Fatalf("there is no %s:%d in %v", pipe, number, s)
	return nil
}
