package daemon_test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/piped-dev/piped/test/daemon"
)

func TestMain(m *testing.M) { daemon.Main(m) }

func TestDaemonServesPipectlAndTheClient(t *testing.T) {
	d := daemon.Start(t)
	if r := d.Pipectl(t, "", "pipe", "--name", "work"); r.Code != 0 || r.Stdout != "work\n" {
		t.Errorf("pipectl pipe: %+v, want code 0 and the name", r)
	}
	s, err := d.Dial(t).Get(t.Context(), "work")
	if err != nil || s.GetName() != "work" {
		t.Errorf("Get: %v, %v", s, err)
	}
}

func TestPipectlReturnsTheExitCode(t *testing.T) {
	d := daemon.Start(t)
	r := d.Pipectl(t, "in\n", "run", "-q", "--", "sh", "-c", "cat; echo err >&2; exit 7")
	if want := (daemon.Result{Stdout: "in\n", Stderr: "err\n", Code: 7}); r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
}

// recorder stands in for the test whose failure is expected.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Helper()             {}
func (r *recorder) Logf(string, ...any) {}
func (r *recorder) Failed() bool        { return len(r.errors) > 0 }

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func TestStopFindsWhatIsLeftBehind(t *testing.T) {
	rec := &recorder{TB: t}
	d := daemon.Start(rec)
	ctx, cancel := context.WithCancel(t.Context())
	stray := exec.CommandContext(ctx, "sleep", "1000")
	stray.Env = []string{"HOME=" + d.Dir}
	if err := stray.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stray.Wait() }()
	defer cancel()
	d.Stop()
	if len(rec.errors) != 1 || !strings.Contains(rec.errors[0], "left over") || !strings.Contains(rec.errors[0], "sleep 1000") {
		t.Errorf("Stop reported %q, want the stray process", rec.errors)
	}
}

func TestStopEndsChildrenToo(t *testing.T) {
	d := daemon.Start(t)
	if r := d.Pipectl(t, "", "start", "--", "sleep", "1000"); r.Code != 0 {
		t.Fatalf("pipectl start: %+v", r)
	}
	d.Stop()
}
