package session

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
)

// find looks a program up and touches it and its directory, as far as the daemon
// may, so that a file system that hangs holds up this start alone and never the one
// process that forks. Where one hangs, a goroutine waits for it, which nobody can
// release, and find returns when ctx ends.
func find(ctx context.Context, name, search, dir string) (path string, err error) {
	type found struct {
		path string
		err  error
	}
	done := make(chan found, 1)
	go func() {
		path, err := keeper.LookPath(name, search, dir)
		if err == nil {
			touch(path)
			touch(dir)
		}
		done <- found{path, err}
	}()
	select {
	case f := <-done:
		return f.path, f.err
	case <-ctx.Done():
		return "", &keeper.SpawnError{Step: "lookup", Path: name, Err: fmt.Errorf("%w (program %q, directory %q): %w", keeper.ErrHung, name, dir, ctx.Err())}
	}
}

// touch has the kernel read the beginning of a file, or open a directory. Whether it
// may is for the start to find out.
func touch(path string) {
	// A FIFO would wait for a writer.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	var stat unix.Stat_t
	if unix.Fstat(fd, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFREG {
		_, _ = unix.Pread(fd, make([]byte, 256), 0) // what exec looks at first, BINPRM_BUF_SIZE
	}
}
