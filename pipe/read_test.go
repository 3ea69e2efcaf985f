package pipe

import (
	"runtime"
	"testing"
)

func TestReadIsKnownWhenTheReaderHasGone(t *testing.T) {
	one, two := open(t, testSpec(OneWay, "line", false))
	p := takePeer(t, one)
	for range 5 {
		send(t, two, "hello")
	}
	if got := p.read(t, 6); got != "hello\n" {
		t.Fatalf("got %q", got)
	}
	p.close()
	poll(t, "the end", func() bool { return two.out.End() != nil })
	if at := two.out.Read(); at != (Position{Message: 2}) {
		t.Errorf("read up to %v, one message was", at)
	}
}

func TestWhatAResetTookAwayIsNeverCalledRead(t *testing.T) {
	rounds := 300
	if long {
		rounds = 3000
	}
	poller := newTestPoller(t)
	for range rounds {
		one, two, err := Open(poller, testSpec(Duplex, "line", true))
		if err != nil {
			t.Fatal(err)
		}
		far, err := two.Copy()
		if err != nil {
			t.Fatal(err)
		}
		closeEnd(t, two, true)
		send(t, one, "hello")
		stop, looked := make(chan struct{}), make(chan bool)
		go func() {
			read := false
			for {
				all, _ := one.AllRead()
				read = read || all || one.out.Read().Message > 1
				select {
				case <-stop:
					looked <- read
					return
				default:
				}
			}
		}()
		far.Close()
		for one.in.End() == nil {
			runtime.Gosched()
		}
		close(stop)
		if <-looked {
			t.Error("what nobody read was called read")
		}
		closeEnd(t, one, true)
	}
}
