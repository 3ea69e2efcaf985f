package pipe

import "testing"

func TestIdleDirectionHasNoLog(t *testing.T) {
	if inMemory {
		return // a log in memory has no descriptor
	}
	eachPipe(t, func(t *testing.T, spec Spec) {
		poller := newTestPoller(t)
		spec = exactly(t, spec)
		one, two, err := Open(poller, spec)
		if err != nil {
			t.Fatal(err)
		}
		directions := 0
		for _, e := range []*Endpoint{one, two} {
			if e.in != nil {
				directions++
				if _, err := e.in.Ready(); err != nil || e.in.log.space != nil {
					t.Error("an inbox that nothing came into has a log")
				}
			}
			if e.out != nil {
				directions++
				if e.out.Push() != nil || e.out.log.space != nil {
					t.Error("an outbox that nothing was sent into has a log")
				}
			}
		}
		if n := poller.Unmade(); n != directions {
			t.Errorf("%d logs may yet need a descriptor, there are %d directions", n, directions)
		}
		closeEnd(t, one, true)
		closeEnd(t, two, true)
		if n := poller.Unmade(); n != 0 {
			t.Errorf("%d logs of closed ends may yet need a descriptor", n)
		}
	})
}
