package daemon

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"
)

// bin is the directory that holds the programs while the tests run.
var bin string

// Main builds the programs, runs the tests of a package and exits. It
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

// build compiles the programs as users get them.
func build() (string, error) {
	dir, err := os.MkdirTemp("", "piped-bin-")
	if err != nil {
		return "", err
	}
	if err := Build(context.Background(), dir); err != nil {
		_ = os.RemoveAll(dir)
		return "", err
	}
	return dir, nil
}

// Build compiles piped, piped-keeper and pipectl into dir, with further arguments
// for go build: tags, an overlay. It does so without the race detector, which has
// no say about another process and would slow it down.
func Build(ctx context.Context, dir string, args ...string) error {
	const module = "github.com/piped-dev/piped/cmd/"
	args = append([]string{"build", "-buildvcs=false", "-o", dir + "/"}, args...)
	cmd := exec.CommandContext(ctx, "go", append(args, module+"piped", module+"piped-keeper", module+"pipectl")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the programs: %w\n%s", err, out)
	}
	return nil
}
