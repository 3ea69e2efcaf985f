package spawner

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
)

// own gives a process's terminal to the user that it will run as, as a login does:
// what opens it by name, /dev/tty or /dev/pts/N, is asked who it is.
func own(spec *keeper.Spec) error {
	t, c := spec.Attributes.Terminal, spec.Attributes.Credential
	if t == nil {
		return nil
	}
	i := slices.IndexFunc(spec.Files, func(f keeper.File) bool { return f.FD == t.FD })
	fail := func(err error) error { return &keeper.SpawnError{Step: "terminal", Path: spec.Path, Err: err} }
	if i < 0 || spec.Files[i].Source < 0 {
		return fail(fmt.Errorf("%w: descriptor %d, the terminal, is not among the files", keeper.ErrInvalid, t.FD))
	}
	if c == nil || isOurs(c) {
		return nil
	}
	if err := unix.Fchown(spec.Files[i].Source, int(c.UID), -1); err != nil {
		return fail(fmt.Errorf("giving the terminal to user %d: %w", c.UID, err))
	}
	return nil
}
