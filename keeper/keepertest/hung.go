package keepertest

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Hung mounts a file system that never answers, until the test ends, and returns where.
// That takes root: nobody else may mount, and there the test is skipped.
func Hung(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := unix.Mount("hung", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		_ = unix.Close(fd)
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		_ = unix.Close(fd) // whoever waits gets an error
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
