package session

import (
	"context"
	"fmt"

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
			keeper.Touch(path)
			keeper.Touch(dir)
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
