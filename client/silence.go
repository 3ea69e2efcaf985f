package client

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/grpc/codes"
)

const (
	// heartbeatDefault is used where the daemon does not say its interval.
	heartbeatDefault = 20 * time.Second
	// heartbeatGrace is how much later than it should a heartbeat may come.
	heartbeatGrace = 10 * time.Second
)

// A silence cuts a stream on which nothing comes for too long. Pings do not tell
// it: a proxy answers them for a daemon that is gone.
type silence struct {
	longest time.Duration
	timer   *time.Timer
	broken  atomic.Bool
	// distrust is told of a stream that was cut; it may be nil.
	distrust func()
}

// newSilence returns a silence that calls cut. It is not running yet.
func newSilence(longest time.Duration, cut context.CancelFunc) *silence {
	s := &silence{longest: longest}
	s.timer = time.AfterFunc(longest, func() {
		s.broken.Store(true)
		cut()
	})
	s.timer.Stop()
	return s
}

// listen receives from a stream, and counts only the time in which it waits: a
// caller that does not ask may take as long as it likes.
func listen[T any](s *silence, longest time.Duration, recv func() (T, error)) (T, error) {
	s.timer.Reset(longest)
	resp, err := recv()
	s.timer.Stop()
	if err != nil && s.broken.Load() {
		if s.distrust != nil && longest >= s.longest {
			s.distrust()
		}
		err = &Error{Code: codes.Unavailable, Message: fmt.Sprintf("nothing came from the daemon for %v", longest)}
	}
	return resp, err
}

// longestSilence is how long a stream of a living daemon may be silent.
func longestSilence(limits *pipedv1.Limits) time.Duration {
	interval := limits.GetHeartbeatInterval().AsDuration()
	if interval <= 0 {
		interval = heartbeatDefault
	}
	return interval + heartbeatGrace
}
