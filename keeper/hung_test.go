package keeper_test

import (
	"errors"
	"testing"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/keepertest"
)

// A front looks first, but a file system may begin to hang after that.
func TestStartThatHangsInTheKernelIsGivenUpAndTheNextGoesOn(t *testing.T) {
	dir := keepertest.Hung(t)
	k := newKeeper(t)
	hanging := program("/bin/true")
	hanging.Dir = dir + "/work"
	staged := hanging
	staged.Attributes.Nice = new(1)
	for name, spec := range map[string]keeper.Spec{"in the fork": hanging, "in the stage": staged} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := k.Start(t.Context(), spec)
			if !errors.Is(err, keeper.ErrHung) {
				t.Errorf("%v, want that the file system does not answer", err)
			}
			waitDone(t, start(t, k, program("/bin/true")))
		})
	}
	t.Cleanup(func() { k.onlySpawner(t) })
}
