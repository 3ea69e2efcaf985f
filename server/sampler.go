package server

import "time"

// A sampler says when to look again at what nobody tells the change of: soon
// after something has changed, more and more rarely while nothing does. The zero
// value is ready; stop it.
type sampler struct {
	timer *time.Timer
	wait  time.Duration
}

const (
	shortestSample = time.Millisecond
	longestSample  = 50 * time.Millisecond
)

// next returns a channel that gets a value when it is time for the next look.
// changed: the last one found something new.
func (s *sampler) next(changed bool) <-chan time.Time {
	s.wait = min(max(2*s.wait, shortestSample), longestSample)
	if changed {
		s.wait = shortestSample
	}
	if s.timer == nil {
		s.timer = time.NewTimer(s.wait)
	} else {
		s.timer.Reset(s.wait)
	}
	return s.timer.C
}

func (s *sampler) stop() {
	if s.timer != nil {
		s.timer.Stop()
	}
}
