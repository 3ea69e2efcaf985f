package custody_test

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
)

func TestEverythingIsHandedToTheNextFront(t *testing.T) {
	o := options(t)
	link, estate := connect(t, o)
	if len(estate.Sessions)+len(estate.Own)+len(estate.Lost) != 0 || link.Epoch() != 1 {
		t.Fatalf("estate of a new keeper %+v, epoch %d", estate, link.Epoch())
	}
	r, w := pipe(t)
	a := enter(t, link, 1)
	if err := a.Put(keeper.Item{Key: 7, FD: r}, keeper.Item{Key: 8, FD: w}); err != nil {
		t.Fatal(err)
	}
	if err := link.Own().Put(keeper.Item{Key: 1, FD: r}); err != nil {
		t.Fatal(err)
	}
	a.Remove(8)
	running := start(t, a, 1, shell("read x; exit 3", keeper.File{FD: 0, Source: r}))
	exited := start(t, a, 2, shell("exit 4"))
	if got := exit(t, exited); got.Code != 4 || got.Unknown {
		t.Errorf("exit %+v", got)
	}
	if err := link.Close(); err != nil {
		t.Fatal(err)
	}

	link, estate = connect(t, o)
	if link.Epoch() != 2 || estate.Gone.IsZero() {
		t.Errorf("epoch %d, the front before went at %v", link.Epoch(), estate.Gone)
	}
	if len(estate.Sessions) != 1 || len(estate.Own) != 1 {
		t.Fatalf("estate %+v", estate)
	}
	s := estate.Sessions[0]
	if s.UID != (keeper.UID{1}) || s.Name != "session 1" || len(s.Files) != 1 || len(s.Processes) != 2 {
		t.Fatalf("session %+v", s)
	}
	if end, err := keeper.EndOf(s.Files[7]); err != nil || end.Kind != keeper.PipeReader {
		t.Errorf("descriptor %v, %v", end, err)
	}
	if got := exit(t, s.Processes[2]); got.Code != 4 {
		t.Errorf("exit %+v", got)
	}
	if s.Processes[1].Pid() != running.Pid() {
		t.Errorf("process %d, was %d", s.Processes[1].Pid(), running.Pid())
	}
	if _, err := unix.Write(w, []byte("x\n")); err != nil {
		t.Fatal(err)
	}
	if got := exit(t, s.Processes[1]); got.Code != 3 {
		t.Errorf("exit %+v", got)
	}
	for _, fd := range []int{s.Files[7], estate.Own[1]} {
		_ = unix.Close(fd)
	}
	if err := link.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{o.Socket, o.Socket + ".registry", o.Socket + ".lock"} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}
