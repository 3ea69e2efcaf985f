// Package keepertest gives tests a real keeper: the test binary itself, executed again.
package keepertest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/custody"
)

// names are what a test binary is called when it is to be a keeper, its spawner, or a stage.
var names = []string{"piped-keeper", "piped-spawner", "piped-stage", "piped-launcher"}

// patience is how long a keeper may take to end.
const patience = 30 * time.Second

// Main is the first thing in TestMain: where the test binary was executed as a keeper it is one, and Main does not return.
func Main() {
	if !slices.Contains(names, filepath.Base(os.Args[0])) {
		return
	}
	code := custody.Main(os.Args[1:], "test")
	// Not os.Exit: a race-enabled binary sleeps for a second there.
	_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(code), 0, 0) //nolint:dogsled // it does not return
}

// Options returns options for a keeper of the test's own, which ends with the test.
func Options(t testing.TB) keeper.Options {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "piped-keeper-") //nolint:usetesting // the path of a socket has little room
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := keeper.Options{Socket: filepath.Join(dir, "keeper"), Program: self, Version: "test"}
	t.Cleanup(func() {
		end(t, o)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return o
}

// end ends a keeper that nobody has ended.
func end(t testing.TB, o keeper.Options) {
	t.Helper()
	if _, err := os.Stat(o.Socket); errors.Is(err, fs.ErrNotExist) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	link, estate, err := keeper.Connect(ctx, o, nil)
	if err != nil {
		t.Errorf("end the keeper: %v", err)
		return
	}
	CloseEstate(estate)
	if err := link.End(ctx); err != nil {
		t.Errorf("end the keeper: %v", err)
	}
}

// CloseEstate closes the descriptors of an estate that nobody wants.
func CloseEstate(estate *keeper.Estate) {
	for _, fd := range estate.Own {
		_ = unix.Close(fd)
	}
	for _, s := range estate.Sessions {
		for _, fd := range s.Files {
			_ = unix.Close(fd)
		}
	}
}

// Start returns a link to a keeper of the test's own. Both end with the test, after what the test itself has its cleanups do.
func Start(t testing.TB) *keeper.Link {
	t.Helper()
	return Connect(t, Options(t))
}

// Connect returns a link to a keeper that has nothing yet. At the end of the test the link is closed with End, if it is not closed by then.
func Connect(t testing.TB, o keeper.Options) *keeper.Link {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	link, estate, err := keeper.Connect(ctx, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(estate.Sessions)+len(estate.Own)+len(estate.Lost) > 0 {
		t.Errorf("a new keeper has %+v", estate)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := link.End(ctx); err != nil && !errors.Is(err, keeper.ErrClosed) {
			t.Errorf("end the keeper: %v", err)
		}
	})
	return link
}
