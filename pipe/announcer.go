package pipe

import "sync"

// An announcer passes news on to whoever wants them, in order and with no lock
// held, by a goroutine of its own.
type announcer struct {
	mu     sync.Mutex
	queue  []func()
	closed bool
	wake   chan struct{} // cap 1
	done   chan struct{}
}

func newAnnouncer() *announcer {
	a := &announcer{wake: make(chan struct{}, 1), done: make(chan struct{})}
	go a.run()
	return a
}

// say calls f soon. It never waits.
func (a *announcer) say(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	a.queue = append(a.queue, f)
	a.rouse()
}

func (a *announcer) rouse() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// close returns when everything was said.
func (a *announcer) close() {
	a.mu.Lock()
	a.closed = true
	a.rouse()
	a.mu.Unlock()
	<-a.done
}

func (a *announcer) run() {
	defer close(a.done)
	for range a.wake {
		a.mu.Lock()
		queue, closed := a.queue, a.closed
		a.queue = nil
		a.mu.Unlock()
		for _, f := range queue {
			f()
		}
		if closed {
			return
		}
	}
}
