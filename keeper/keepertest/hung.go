package keepertest

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// Hung mounts a file system that never answers, until the test ends, and returns where.
// It skips the test where nothing may be mounted.
func Hung(t *testing.T) string {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	dir := t.TempDir()
	if err := unix.Mount("hung", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		_ = unix.Close(fd)
		t.Skipf("nothing can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		_ = unix.Close(fd) // whoever waits gets an error
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
