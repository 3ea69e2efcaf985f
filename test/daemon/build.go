package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"
)

// bin is the directory that holds piped and pipectl while the tests run.
var bin string

// Main builds piped and pipectl, runs the tests of a package and exits. It
// fails the package when goroutines are left over at the end. Call it from
// TestMain.
func Main(m *testing.M) {
	dir, err := build()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}))
}

// build compiles the programs as users get them, without the race detector,
// which has no say about another process and would slow it down.
func build() (string, error) {
	dir, err := os.MkdirTemp("", "piped-bin-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", dir+"/",
		"github.com/piped-dev/piped/cmd/piped", "github.com/piped-dev/piped/cmd/pipectl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir)
		return "", fmt.Errorf("building the programs: %w\n%s", err, out)
	}
	return dir, nil
}
