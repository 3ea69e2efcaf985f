package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestSilentStreamIsCutAndCountsAsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		longest := longestSilence(&pipedv1.Limits{HeartbeatInterval: durationpb.New(20 * time.Second)})
		ctx, cancel := context.WithCancel(t.Context())
		s := newSilence(longest, cancel)
		// A caller that does not listen may take its time.
		<-time.After(time.Hour)
		for range 3 {
			if _, err := listen(s, longest, func() (int, error) {
				<-time.After(longest - time.Millisecond)
				return 0, ctx.Err()
			}); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		_, err := listen(s, longest, func() (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		})
		if !errors.Is(err, ErrUnavailable) || !lost(err) {
			t.Errorf("got %v, want ErrUnavailable, and that it is lost", err)
		}
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("it took %v, want 30 s", took)
		}
	})
}

func TestRetryPausesLongerAndLongerUntilItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := &Error{Code: 14}
		r := retry{limit: time.Minute}
		began, last := time.Now(), time.Now()
		attempts := 0
		for ; r.again(t.Context(), gone) == nil; attempts++ {
			if pause := time.Since(last); pause > maxPause || attempts == 0 && pause > minPause {
				t.Errorf("attempt %d after %v", attempts, pause)
			}
			last = time.Now()
		}
		if took := time.Since(began); took != time.Minute || attempts < 60 || attempts > 125 {
			t.Errorf("%d attempts in %v", attempts, took)
		}
		r.succeeded()
		began = time.Now()
		if err := r.again(t.Context(), gone); err != nil || time.Since(began) > minPause {
			t.Errorf("after a success: %v after %v", err, time.Since(began))
		}
		if err := r.again(t.Context(), &Error{Code: 10, Reason: ErrFenced}); !errors.Is(err, ErrFenced) {
			t.Errorf("got %v, want ErrFenced at once", err)
		}
		if err := r.again(t.Context(), &Error{Code: 14, Reason: ErrShuttingDown}); err != nil {
			t.Errorf("a daemon that ends: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.again(ctx, gone); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want Canceled", err)
		}
	})
}
