package server

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestSamplesComeMoreRarelyWhileNothingChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sampler
		defer s.stop()
		for i, step := range []struct {
			changed bool
			want    time.Duration
		}{{false, 1}, {false, 2}, {false, 4}, {true, 1}, {false, 2}, {false, 4}, {false, 8}, {false, 16}, {false, 32}, {false, 50}, {false, 50}, {true, 1}} {
			begin := time.Now()
			<-s.next(step.changed)
			if got := time.Since(begin); got != step.want*time.Millisecond {
				t.Errorf("sample %d comes after %v, want %v ms", i, got, int64(step.want))
			}
		}
	})
}
