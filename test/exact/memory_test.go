package exact

import (
	"sync"
	"testing"
	"time"
)

// A memory looks at what a process has in memory, ten times a second.
type memory struct {
	stop    chan struct{}
	loop    sync.WaitGroup
	began   time.Time
	seconds []float64
	kib     []float64
}

// watchMemory begins to look.
func watchMemory(t testing.TB, pid int) *memory {
	m := &memory{stop: make(chan struct{}), began: time.Now()}
	m.loop.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				m.seconds = append(m.seconds, time.Since(m.began).Seconds())
				m.kib = append(m.kib, float64(figure(t, pid, "VmRSS")>>10))
			case <-m.stop:
				return
			}
		}
	})
	return m
}

// slope ends the looking and returns by how many KiB the memory grew in a
// second, as the line says that fits the second half best.
func (m *memory) slope() float64 {
	close(m.stop)
	m.loop.Wait()
	x, y := m.seconds[len(m.seconds)/2:], m.kib[len(m.kib)/2:]
	if len(x) < 2 {
		return 0
	}
	var mx, my, xy, xx float64
	for i := range x {
		mx, my = mx+x[i]/float64(len(x)), my+y[i]/float64(len(x))
	}
	for i := range x {
		xy, xx = xy+(x[i]-mx)*(y[i]-my), xx+(x[i]-mx)*(x[i]-mx)
	}
	return xy / xx
}
