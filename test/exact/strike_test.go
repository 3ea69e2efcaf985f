package exact

import (
	"testing"
	"time"

	"github.com/piped-dev/piped/test/daemon"
)

func TestD2DaemonThatIsKilledAtRandomLosesNothing(t *testing.T) {
	parallel(t)
	strikes(t, "D2", 20, dosed(5*time.Second, time.Minute, 10*time.Minute), 100*time.Millisecond)
}

func TestD2WithAThousandSessions(t *testing.T) {
	if dosed(true, false, false) {
		t.Skip("CHAOS=full and long")
	}
	strikes(t, "D2/1000", 1000, dosed(0, time.Minute, 10*time.Minute), time.Second)
}

// strikes kills the daemon at random moments, on average at that interval, with
// sessions open that do nothing beside those that talk.
func strikes(t *testing.T, name string, idle int, lasts, interval time.Duration) {
	r := newChaos(t, name, daemon.Options{Args: []string{"--log-size", "256KiB"}})
	r.idlers(idle)
	x := r.newStorm(dosed(4, 8, 8))
	kills := x.killAtRandom(lasts, interval)
	x.end()
	r.note("kills=%d kills_per_s=%.1f idle_sessions=%d", kills, float64(kills)/lasts.Seconds(), idle)
	r.finish()
	if p99 := quantile(x.pauses, 0.99); p99 > 3*time.Second {
		t.Errorf("the pause p99 is %v", p99)
	}
}
