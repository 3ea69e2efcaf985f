package custody_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
)

func TestUsageOutlivesFrontUpgradeAndKeeper(t *testing.T) {
	o := options(t)
	link, _ := connect(t, o)
	p := start(t, enter(t, link, 1), 1, shell("i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done"))
	want := exit(t, p).Usage
	if want == nil || want.User+want.System <= 0 || want.Peak <= 0 {
		t.Fatalf("usage %+v", want)
	}
	same := func(after string, p keeper.Process) {
		t.Helper()
		if got := exit(t, p).Usage; got == nil || *got != *want {
			t.Errorf("after %s: %+v, want %+v", after, got, want)
		}
	}
	next := func(after string) {
		t.Helper()
		if err := link.Close(); err != nil {
			t.Fatal(err)
		}
		var estate *keeper.Estate
		link, estate = connect(t, o)
		if len(estate.Sessions) != 1 || estate.Sessions[0].Processes[1] == nil {
			t.Fatalf("after %s: estate %+v", after, estate)
		}
		same(after, estate.Sessions[0].Processes[1])
	}
	next("a front")
	upgraded(t, link.Info().Pid)
	next("an upgrade of the keeper")
	replaced := func() {
		t.Helper()
		old := link.Info().Pid
		if err := unix.Kill(old, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "another keeper to have everything", func() bool {
			now := link.Info()
			return now.Pid != 0 && now.Pid != old && now.Away.IsZero()
		})
	}
	replaced() // it knows from the registry
	next("the death of the keeper, and of the front that knew")
	if err := os.Remove(o.Socket + ".registry"); err != nil {
		t.Fatal(err)
	}
	replaced() // it knows from the front
	next("the death of a keeper without registry")
	upgraded(t, link.Info().Pid)
	next("an upgrade of the next keeper")
	if err := link.End(t.Context()); err != nil {
		t.Error(err)
	}
}
