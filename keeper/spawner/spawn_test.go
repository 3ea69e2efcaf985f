package spawner

import (
	"errors"
	"syscall"
	"testing"

	"github.com/piped-dev/piped/keeper"
)

func TestSystemErrorsHaveNames(t *testing.T) {
	spec := keeper.Spec{Path: "/bin/true", Args: []string{"true"}, Dir: "/"}
	for errno, want := range map[syscall.Errno]error{
		syscall.EMFILE: keeper.ErrDescriptors,
		syscall.ENFILE: keeper.ErrDescriptors,
		syscall.EAGAIN: keeper.ErrProcesses,
		syscall.ENOMEM: keeper.ErrMemory,
		syscall.E2BIG:  keeper.ErrArguments,
		syscall.EACCES: keeper.ErrNotExecutable,
	} {
		err := diagnose(spec, errno)
		if !errors.Is(err, want) || !errors.Is(err, errno) {
			t.Errorf("%v becomes %v, want %v", errno, err, want)
		}
		// And so they have on the other side.
		told := keeper.Restore(keeper.Describe(err))
		var a, b *keeper.SpawnError
		if !errors.Is(told, want) || !errors.Is(told, errno) || told.Error() != err.Error() || !errors.As(err, &a) || !errors.As(told, &b) || a.Step != b.Step {
			t.Errorf("%v is told as %v", err, told)
		}
	}
}
