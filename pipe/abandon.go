package pipe

import (
	"errors"

	"golang.org/x/sys/unix"
)

var (
	// ErrNotSealed says that the daemon does not have this end for itself alone.
	ErrNotSealed = errors.New("the end is shared")
	// errAbandoned: nobody wants what comes any more.
	errAbandoned = errors.New("abandoned")
)

// Abandon ends receiving although somebody holds the other end: readers get what has
// come by now, and then the end, with CauseAbandoned, or CauseTruncated inside a frame. What comes after that is read
// and thrown away, so that whoever holds the other end neither waits nor gets SIGPIPE,
// until it is closed there or the endpoint is closed here. It outlives the process.
// Abandoning a direction that has ended, or again, does nothing; only a sealed end
// can be abandoned (ErrNotSealed).
func (e *Endpoint) Abandon(why string) error {
	if e.in == nil {
		return ErrWrongDirection
	}
	if !e.sealed {
		return ErrNotSealed
	}
	e.in.abandon(why)
	return nil
}

// Abandoned reports whether what comes out of the end is thrown away, and whether
// somebody may still send it.
func (e *Endpoint) Abandoned() (abandoned, going bool) {
	if e.in == nil {
		return false, false
	}
	e.in.mu.Lock()
	defer e.in.mu.Unlock()
	return e.in.abandoned, e.in.abandoned && !e.in.wasted
}

func (in *Inbox) abandon(why string) {
	in.moving.Lock()
	defer in.moving.Unlock()
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed || in.end != nil {
		return
	}
	in.rec.set(flagAbandoned)
	in.abandonLocked(why)
	in.wakeLocked()
	select {
	case in.room <- struct{}{}: // the filler may wait for space
	default:
	}
}

// abandonLocked ends the direction where it is.
func (in *Inbox) abandonLocked(why string) {
	e := &End{Cause: CauseAbandoned, Bytes: in.head.off, Detail: why}
	if !in.head.fresh() {
		if in.cut.open() {
			in.finishPartialLocked()
		} else {
			e.Cause, e.Want, e.Got = CauseTruncated, in.head.total(), in.head.pay
			e.Detail = "abandoned inside a message; " + why
		}
	}
	e.Position = in.head.position()
	in.abandoned = true
	in.endLocked(e)
}

func (in *Inbox) isAbandoned() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.abandoned
}

// wasteSize is how much is thrown away at a time: a kernel pipe holds no more.
const wasteSize = 64 << 10

// waste throws away what comes until nothing can.
func (in *Inbox) waste() {
	var b []byte
	err := in.desc.whenReadable(func() error {
		if b == nil {
			b = make([]byte, wasteSize) // when there is something
		}
		for {
			n, err := ignoringEINTR(func() (int, error) { return unix.Read(in.desc.fd(), b) })
			switch {
			case err == unix.EAGAIN:
				b = nil
				return err
			case n <= 0:
				return err
			}
			in.mu.Lock()
			in.thrown += uint64(n)
			in.mu.Unlock()
		}
	})
	if errors.Is(err, errStopped) {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.wasted = true
	in.wakeLocked()
}
