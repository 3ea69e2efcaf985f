package exact

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// actorVariable makes the test binary be something else than the tests: a client
// that is killed, or a child of the daemon.
const actorVariable = "PIPED_EXACT_ACTOR"

// actors are what the test binary can be.
var actors = map[string]func() error{}

// act plays an actor and returns its exit code.
func act(name string) int {
	play, ok := actors[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "no actor %q\n", name)
		return 2
	}
	if err := play(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// program returns the test binary that actors run. The long form starts very
// many, so it builds one without the race detector, which starts faster.
func program(t testing.TB) string {
	t.Helper()
	if !long {
		return os.Args[0]
	}
	path := filepath.Join(t.TempDir(), "actors")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-buildvcs=false", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}
