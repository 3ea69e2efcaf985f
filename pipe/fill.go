package pipe

import (
	"errors"
	"fmt"
	"time"

	"github.com/piped-dev/piped/failpoint"
	"golang.org/x/sys/unix"
)

// start lets a sealed inbox read ahead.
func (in *Inbox) start() { in.fillers.Go(in.fill) }

// fill moves bytes from the descriptor into the log until the end.
func (in *Inbox) fill() {
	for in.waitRoom() {
		err := in.desc.whenReadable(in.receive)
		if errors.Is(err, ErrNoSpace) {
			in.waitSpace()
			continue
		}
		switch {
		case errors.Is(err, errAbandoned):
			in.waste()
			return
		case errors.Is(err, errStopped) || in.End() != nil && !in.isAbandoned():
			return
		case err != nil:
			in.filled(0, err)
			return
		}
	}
}

// spaceAgain is how soon a log that could not grow is tried again.
const spaceAgain = 100 * time.Millisecond

// waitSpace waits until it may pay to ask for space again. The process waits
// meanwhile, as when the log is full.
func (in *Inbox) waitSpace() {
	in.mu.Lock()
	in.starved = true
	if in.blocked.IsZero() {
		in.blocked = time.Now()
	}
	in.mu.Unlock()
	timer := time.NewTimer(spaceAgain)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-in.room:
	case <-in.desc.stopRead.ch:
	}
}

// receive moves what the kernel has into the log, or finds the end, without
// waiting: unix.EAGAIN when there is nothing, ErrNoSpace when the log cannot
// grow. One goroutine at a time calls it, on a sealed end.
func (in *Inbox) receive() error {
	in.moving.Lock()
	defer in.moving.Unlock()
	switch {
	case in.isAbandoned():
		return errAbandoned
	case in.port == nil:
		return in.receivePlain()
	case in.desc.socket:
		return in.receivePeeked()
	}
	return in.receiveSpliced()
}

func (in *Inbox) receivePlain() error {
	b, err := in.reserve()
	if err != nil {
		return err
	}
	n, err := ignoringEINTR(func() (int, error) { return unix.Read(in.desc.fd(), b) })
	if err == unix.EAGAIN {
		return err
	}
	in.filled(n, err)
	return nil
}

// receivePeeked is the exact move from a socket: look, commit, take away what was
// looked at. Killed before the commit, nothing has happened; after it, the peek
// offset says how much is still to be taken away.
func (in *Inbox) receivePeeked() error {
	readable, reset := in.port.ready()
	if !readable {
		return unix.EAGAIN
	}
	if reset {
		in.rec.set(flagReset)
		failpoint.Hit("inbox.after-reset")
	}
	b, err := in.reserve()
	if err != nil {
		return err
	}
	n, err := in.port.peek(b)
	if err == unix.EAGAIN {
		return err
	}
	failpoint.Hit("inbox.after-peek")
	in.filled(n, err)
	failpoint.Hit("inbox.after-commit")
	return in.consume(n)
}

// consume takes n committed bytes out of the socket.
func (in *Inbox) consume(n int) error {
	for n > 0 {
		taken, err := in.port.consume(n)
		if err != nil || taken <= 0 {
			// They are there: nobody else holds this end.
			return fmt.Errorf("%d committed bytes cannot be taken out of the socket: %w", n, err)
		}
		n -= taken
		failpoint.Hit("inbox.mid-consume")
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.rec.moved.Store(in.log.end)
	failpoint.Hit("inbox.after-note")
	return nil
}

// receiveSpliced is the exact move from a pipe: the kernel takes the bytes out,
// puts them into the log and moves the log's file position, in one call.
func (in *Inbox) receiveSpliced() error {
	// The log is made when there is something for it.
	if readable, _ := in.port.ready(); !readable {
		return unix.EAGAIN
	}
	b, err := in.reserve()
	if err != nil {
		return err
	}
	n, err := in.port.splice(len(b))
	switch {
	case err == unix.EAGAIN:
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	failpoint.Hit("inbox.after-splice")
	in.filled(n, err)
	return nil
}
