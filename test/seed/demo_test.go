package seed

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/piped-dev/piped/test/daemon"
)

// runDemo runs a demo.sh as a user with an empty environment does, and returns
// what it wrote and its exit code.
func runDemo(t *testing.T, path string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*daemon.Patience)
	defer cancel()
	bin := daemon.Start(t).Bin
	cmd := exec.CommandContext(ctx, path, bin)
	// What a demo that does not end leaves behind is killed with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.Dir = "/"
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && ctx.Err() != nil {
		t.Fatalf("%s: %v\n%s\n%s", path, err, &out, &errs)
	}
	wantNothingLeft(t, out.String())
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// wantNothingLeft checks that the directory that a transcript names is gone.
func wantNothingLeft(t *testing.T, transcript string) {
	t.Helper()
	found := regexp.MustCompile(`unix://(/tmp/piped-demo\.\w+)/`).FindStringSubmatch(transcript)
	if found == nil {
		t.Fatalf("the transcript names no address:\n%s", transcript)
	}
	if _, err := os.Lstat(found[1]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left behind: Lstat says %v", found[1], err)
	}
}

func TestDemoShowsAllSevenAndLeavesNothing(t *testing.T) {
	path, err := filepath.Abs("../demo/demo.sh")
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := runDemo(t, path)
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q; want 0 and none. stdout:\n%s", code, stderr, stdout)
	}
	for _, want := range []string{"=== 1.", "=== 2.", "=== 3.", "=== 4.", "=== 5.", "counter-proof", "=== 6.", "=== 7.", "=== The end"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the transcript has no %q", want)
		}
	}
}

func TestDemoFailsOnAWrongOutcome(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../demo")); err != nil {
		t.Fatal(err)
	}
	wrong := "from multiprocessing.connection import Connection\nConnection(3).send('Goodbye')\n"
	if err := os.WriteFile(filepath.Join(dir, "sender.py"), []byte(wrong), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := runDemo(t, filepath.Join(dir, "demo.sh"))
	if code != 1 || !strings.Contains(stderr, "'Hello'") || !strings.Contains(stderr, "'Goodbye'") {
		t.Errorf("exit code %d, stderr %q; want 1, what was expected and what came", code, stderr)
	}
}
