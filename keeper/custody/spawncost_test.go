package custody_test

import (
	"context"
	"testing"
	"time"

	"github.com/piped-dev/piped/keeper"
)

// TestCostOfACgroup prints what a start costs with a cgroup and without, measured in
// turns.
func TestCostOfACgroup(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	with, without := options(t), options(t)
	without.Cgroup = "off"
	var accounts [2]*keeper.Account
	for i, o := range []keeper.Options{without, with} {
		link, _ := connect(t, o)
		accounts[i] = enter(t, link, 1)
		t.Cleanup(func() { _ = link.End(context.Background()) })
		if i == 1 && !link.Info().Cgroups.Used {
			t.Skip("no cgroups: " + link.Info().Cgroups.Why)
		}
	}
	var starts, ends [2]time.Duration
	for key := range uint32(rounds) {
		for i, a := range accounts {
			begun := time.Now()
			p := start(t, a, key+1, keeper.Spec{Path: "/bin/true", Args: []string{"true"}})
			started := time.Now()
			exit(t, p)
			starts[i] += started.Sub(begun)
			ends[i] += time.Since(started)
		}
	}
	n := time.Duration(rounds)
	t.Logf("a start: %v without, %v with a cgroup of its own; until the exit is told: %v and %v",
		(starts[0] / n).Round(time.Microsecond), (starts[1] / n).Round(time.Microsecond),
		(ends[0] / n).Round(time.Microsecond), (ends[1] / n).Round(time.Microsecond))
}
