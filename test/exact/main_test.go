package exact

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	"github.com/piped-dev/piped/test/daemon"
)

// patience is how long a row waits for what has to come.
var patience = daemon.Patience

// long says that the rows run in full.
var long = os.Getenv("EXACT") == "long"

// sized returns how much of something a row does.
func sized[T any](inShort, inLong T) T {
	if long {
		return inLong
	}
	return inShort
}

func TestMain(m *testing.M) {
	if name := os.Getenv(actorVariable); name != "" {
		os.Exit(act(name))
	}
	daemon.Main(m)
}

// await looks until ok says yes, and returns false when patience ends.
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

// pause waits for a duration that a fault is to last, or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// persist repeats an opening that a cut connection made fail. What is open
// already must come back by itself.
func persist[T any](ctx context.Context, open func() (T, error)) (T, error) {
	for {
		v, err := open()
		if !lostConnection(err) || ctx.Err() != nil {
			return v, err
		}
	}
}

// lostConnection says that an error is that of a connection and not of the
// daemon.
func lostConnection(err error) bool {
	var none *client.NoServerError
	return errors.Is(err, client.ErrUnavailable) || errors.As(err, &none)
}
