package systemd

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// actorVariable makes the test binary be something else than the tests: the
// client or the child inside the booted system.
const actorVariable = "PIPED_SYSTEMD_ACTOR"

// patience is how long is waited for what has to come. It is far longer than
// anything takes.
const patience = 30 * time.Second

// long says that every step is done several times.
var long = os.Getenv("CHAOS") == "long" || os.Getenv("CHAOS") == "full"

func TestMain(m *testing.M) {
	var play func() error
	switch name := os.Getenv(actorVariable); name {
	case "":
		goleak.VerifyTestMain(m)
	case "guest":
		play = playGuest
	case "child":
		play = playChild
	default:
		play = func() error { return fmt.Errorf("no actor %q", name) }
	}
	if err := play(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// await looks every few milliseconds until ok says yes, and returns false when
// patience ends.
func await(ok func() bool) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			return ok()
		}
	}
	return true
}
