package daemon

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"go.uber.org/goleak"
)

// bin is the directory that holds the programs while the tests run.
var bin string

// ProgramsVariable names the environment variable with a directory of programs that
// are built already, for a machine without Go.
const ProgramsVariable = "PROGRAMS_UNDER_TEST"

// Main builds the programs, runs the tests of a package and exits. It
// fails the package when goroutines are left over at the end. Call it from
// TestMain.
func Main(m *testing.M) {
	dir, made := os.Getenv(ProgramsVariable), ""
	if dir == "" {
		var err error
		if dir, err = build(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		made = dir
	}
	bin = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(made); err != nil {
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

// Bin returns the directory of the programs that Main has built. What is put there
// goes with it.
func Bin() string { return bin }

// programs are what an installation has.
var programs = []string{"piped", "piped-keeper", "pipectl"}

// Build compiles all programs into dir, with further arguments for go build: tags,
// an overlay. It does so without the race detector, which has no say about another
// process and would slow it down.
func Build(ctx context.Context, dir string, args ...string) error {
	return BuildOnly(ctx, dir, programs, args...)
}

// BuildOnly is Build for some programs; the others in dir are those that Main has
// built, if it has.
func BuildOnly(ctx context.Context, dir string, names []string, args ...string) error {
	args = append([]string{"build", "-buildvcs=false", "-o", dir + "/"}, args...)
	for _, name := range names {
		args = append(args, "github.com/piped-dev/piped/cmd/"+name)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the programs: %w\n%s", err, out)
	}
	for _, name := range programs {
		if slices.Contains(names, name) || bin == "" {
			continue
		}
		if err := Install(filepath.Join(bin, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// Install puts a copy of a program in the place of another one, which may run.
func Install(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to+".new", text, 0o700); err != nil { //nolint:gosec // a program
		return err
	}
	return os.Rename(to+".new", to)
}
