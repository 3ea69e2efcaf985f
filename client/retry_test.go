package client

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A stream that nothing moves on comes back from loss after loss, each of which is
// one of its own.
func TestLimitOfARetryCountsFromTheLastTimeThatTheDaemonWasMet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := &Error{Code: 14}
		r := retry{limit: time.Second}
		for range 20 {
			began := time.Now()
			if err := r.again(t.Context(), gone); err != nil {
				t.Fatal(err)
			}
			if pause := time.Since(began); pause > minPause {
				t.Errorf("after a stream that lasted it pauses for %v", pause)
			}
			r.reached(time.Now())
			<-time.After(300 * time.Millisecond) // of the clock of synctest
		}
		began := time.Now()
		for {
			if err := r.again(t.Context(), gone); err != nil {
				break
			}
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("without a daemon it gives up after %v, want 1 s", took)
		}
		if err := r.again(t.Context(), gone); !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
	})
}

// Where streams open and end at once, it gets slower.
func TestRetryPausesLongerWhereNothingLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r retry
		began := time.Now()
		for range 20 {
			if err := r.again(t.Context(), &Error{Code: 14}); err != nil {
				t.Fatal(err)
			}
			r.reached(time.Now())
		}
		if took := time.Since(began); took < 7*maxPause {
			t.Errorf("20 attempts in %v", took)
		}
	})
}
