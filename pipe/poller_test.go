package pipe

import (
	"errors"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// waiting waits until n goroutines wait for a descriptor.
func waiting(t *testing.T, p *Poller, fd, n int) {
	t.Helper()
	poll(t, "the waiters", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.wait[fd]) == n
	})
}

func testSocket(t *testing.T) (fd, other int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return pair[0], pair[1]
}

func fillSocket(t *testing.T, fd int) {
	t.Helper()
	for {
		if err := unix.Sendto(fd, make([]byte, 4096), unix.MSG_DONTWAIT, nil); err == unix.EAGAIN {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestEachWaiterOfADescriptorIsWokenByItsOwnEvent(t *testing.T) {
	p := newTestPoller(t)
	fd, other := testSocket(t)
	defer unix.Close(fd)
	defer unix.Close(other)
	fillSocket(t, fd)
	var wg, writable sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := p.Wait(fd, unix.EPOLLIN, nil, nil); err != nil {
				t.Error(err)
			}
		})
		writable.Go(func() {
			if err := p.Wait(fd, unix.EPOLLOUT, nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	waiting(t, p, fd, 6)
	if _, err := unix.Write(other, []byte("x")); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	waiting(t, p, fd, 3) // the others wait on
	for b := make([]byte, 1<<16); ; {
		if _, _, err := unix.Recvfrom(other, b, unix.MSG_DONTWAIT); err != nil {
			break
		}
	}
	writable.Wait()
	p.Forget(fd)
}

func TestWaitThatIsStoppedLeavesTheOthers(t *testing.T) {
	p := newTestPoller(t)
	fd, other := testSocket(t)
	defer unix.Close(fd)
	stop := make(chan struct{})
	var stopped, woken sync.WaitGroup
	for range 2 {
		stopped.Go(func() {
			if err := p.Wait(fd, unix.EPOLLIN, nil, stop); !errors.Is(err, errStopped) {
				t.Error(err)
			}
		})
		woken.Go(func() {
			if err := p.Wait(fd, unix.EPOLLIN, stopper{}.ch, nil); err != nil {
				t.Error(err)
			}
		})
	}
	waiting(t, p, fd, 4)
	close(stop)
	stopped.Wait()
	_ = unix.Close(other)
	woken.Wait()
	p.Forget(fd)
}

func TestNumberOfAForgottenDescriptorCanBeUsedAgain(t *testing.T) {
	p := newTestPoller(t)
	for range 200 {
		fd, other := testSocket(t)
		keep := dup(t, fd) // the description lives on, as in a child
		var wg sync.WaitGroup
		wg.Go(func() { _ = p.Wait(fd, unix.EPOLLIN, nil, nil) })
		waiting(t, p, fd, 1)
		p.Forget(fd)
		wg.Wait()
		_ = unix.Close(fd)

		again, far := testSocket(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := p.Wait(again, unix.EPOLLIN, nil, nil); err != nil {
				t.Error(err)
			}
		}()
		waiting(t, p, again, 1)
		_ = unix.Close(other) // an event of the old description
		waiting(t, p, again, 1)
		if _, err := unix.Write(far, []byte("x")); err != nil {
			t.Fatal(err)
		}
		await(t, "the waiter", done)
		p.Forget(again)
		for _, fd := range []int{again, far, keep} {
			_ = unix.Close(fd)
		}
	}
}

func TestWaitOfAClosedDescriptorFails(t *testing.T) {
	p := newTestPoller(t)
	if err := p.Wait(-1, unix.EPOLLIN, nil, nil); !errors.Is(err, unix.EBADF) {
		t.Errorf("got %v", err)
	}
	if len(p.wait) != 0 {
		t.Error("it is remembered")
	}
}

func TestScratchIsEmptyBetweenUses(t *testing.T) {
	p := newTestPoller(t)
	var pair [2]int
	if err := unix.Pipe2(pair[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r, w := pair[0], pair[1]
	defer unix.Close(r)
	b := make([]byte, 1<<17)
	if _, err := p.scratch.peek(r, b); err != unix.EAGAIN {
		t.Fatalf("peeking at an empty pipe: %v", err)
	}
	if _, err := p.scratch.take(r, b); err != unix.EAGAIN {
		t.Fatalf("taking from an empty pipe: %v", err)
	}
	put := 0
	for {
		n, err := p.scratch.put(w, [][]byte{make([]byte, 5000), make([]byte, 5000)})
		put += n
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if left := inKernel(t, p.scratch.r); left != 0 {
			t.Fatalf("%d bytes are left in the scratch", left)
		}
	}
	if there := inKernel(t, r); there != put {
		t.Fatalf("%d bytes are there, %d were put", there, put)
	}
	for put > 0 {
		peeked, err := p.scratch.peek(r, b[:3000])
		if err != nil {
			t.Fatal(err)
		}
		n, err := p.scratch.take(r, b[:3000])
		if err != nil || n != peeked {
			t.Fatalf("peeked %d, took %d, %v", peeked, n, err)
		}
		put -= n
	}
	_ = unix.Close(w)
	if n, err := p.scratch.peek(r, b); n != 0 || err != nil {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if nonblocking(t, r) {
		t.Error("the pipe has become non-blocking")
	}
}
