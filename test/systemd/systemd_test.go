package systemd

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestNothingIsLostUnderSystemd prints a line for each thing that is done: see
// playGuest, which does them.
func TestNothingIsLostUnderSystemd(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a system is booted by root only")
	}
	dir := t.TempDir()
	stage(t, dir)
	boot := exec.CommandContext(t.Context(), "./boot.sh", dir, "env", actorVariable+"=guest", "CHAOS="+os.Getenv("CHAOS"), "./systemd.test")
	// The end of the test ends the script and the system; the script then takes away what it mounted.
	boot.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	boot.Cancel = func() error { return syscall.Kill(-boot.Process.Pid, syscall.SIGTERM) }
	boot.WaitDelay = 10 * time.Second
	out, err := boot.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 125 {
		t.Fatalf("the system did not come up:\n%s", out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := os.Stdout.Write(out); err != nil {
		t.Fatal(err)
	}
}

// stage puts what the system needs into dir: the programs in two versions, the
// packaging, and this test.
func stage(t *testing.T, dir string) {
	t.Helper()
	for _, version := range []string{"v1", "v2"} {
		build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-X main.version="+version,
			"-o", filepath.Join(dir, version)+"/", "./cmd/piped", "./cmd/piped-keeper")
		build.Dir = "../.."
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", version, err, out)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"cp", "-r", "../../packaging", dir}, {"install", "-m", "0755", self, filepath.Join(dir, "systemd.test")}} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
}
