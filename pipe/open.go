package pipe

import (
	"errors"
	"fmt"
	"os"

	"github.com/piped-dev/piped/failpoint"
	"golang.org/x/sys/unix"
)

// Open makes a pipe and returns the daemon's copies of its ends 1 and 2. The error
// wraps ErrNoSpace where the control file has no room, or the vault refuses copies.
func Open(poller *Poller, spec Spec) (one, two *Endpoint, err error) {
	if err := errors.Join(spec.In.Check(), spec.Out.Check()); err != nil {
		return nil, nil, err
	}
	var fds [2]ends
	var term *terminal
	if spec.Kind.IsTerminal() {
		spec.TailSize = max(spec.TailSize, minTerminalTail)
		fds, term, err = openTerminal(poller, &spec)
	} else {
		fds, err = openDescriptors(poller, spec.Kind, spec.Sealed)
	}
	if err != nil {
		return nil, nil, err
	}
	slot := -1
	if spec.Control != nil {
		if err = spec.Control.enter(); err == nil {
			defer spec.Control.leave() // each end enters by itself
			slot, err = spec.Control.add(&description{spec}, func(slot int) error { return keepEnds(spec.Vault, slot, &fds, term) })
		}
		if err != nil {
			fds[0].close()
			fds[1].close()
			term.close()
			return nil, nil, err
		}
	}
	one, two, err = newEndpoints(fds, term, &spec, slot)
	if err != nil {
		return nil, nil, err
	}
	if err := one.beginExact(); err != nil {
		for _, e := range []*Endpoint{one, two} {
			e.forget()
			e.abort()
		}
		return nil, nil, err
	}
	one.announce(poller.news, 1, spec.Ended)
	two.announce(poller.news, 2, spec.Ended)
	one.start()
	two.start()
	return one, two, nil
}

// keepEnds keeps copies of the descriptors of a pipe in a vault, if there is one.
func keepEnds(vault Vault, slot int, fds *[2]ends, term *terminal) error {
	var items []Item
	if vault == nil {
		return nil
	}
	for i, e := range fds {
		if e.read != nil {
			items = append(items, Item{KeyOf(slot, i+1, PartRead), e.read.fd()})
		}
		if e.write != nil && e.write != e.read {
			items = append(items, Item{KeyOf(slot, i+1, PartWrite), e.write.fd()})
		}
	}
	if term != nil && term.master != fds[0].write {
		items = append(items, Item{masterKey(slot), term.master.fd()})
	}
	if err := vault.Put(items...); err != nil {
		return fmt.Errorf("%w: keeping the ends: %w", ErrNoSpace, err)
	}
	for i := range fds {
		fds[i].deposited(vault, slot, i+1)
	}
	term.deposited(vault, slot, fds[0].write)
	failpoint.Hit("vault.after-ends")
	return nil
}

// deposited notes that copies of the descriptors are in a vault.
func (e ends) deposited(vault Vault, slot, end int) {
	if e.write != nil && !e.write.isClosed() {
		e.write.kept = deposit{vault, KeyOf(slot, end, PartWrite)}
	}
	if e.read != nil && !e.read.isClosed() { // also where they are one
		e.read.kept = deposit{vault, KeyOf(slot, end, PartRead)}
	}
}

// newEndpoints makes the two ends of a pipe whose descriptors are there, and
// closes those on an error.
func newEndpoints(fds [2]ends, term *terminal, spec *Spec, slot int) (one, two *Endpoint, err error) {
	if one, err = newEndpoint(fds[0], 1, spec, slot); err != nil {
		fds[0].close()
		fds[1].close()
		term.close()
		return nil, nil, err
	}
	one.terminal = term
	if spec.Kind.IsTerminal() {
		one.in.hangup = true
	}
	if two, err = newEndpoint(fds[1], 2, spec, slot); err != nil {
		one.abort()
		fds[1].close()
		return nil, nil, err
	}
	return one, two, nil
}

// forget notes that an end that was just made never came to be.
func (e *Endpoint) forget() {
	if e.in != nil {
		e.in.rec.set(flagEndClosed)
	}
	if e.out != nil {
		e.out.rec.set(flagEndClosed)
	}
}

// abort gives back what an end has taken that never came to be.
func (e *Endpoint) abort() {
	e.terminal.close()
	ends{e.read, e.write}.close()
	if e.in != nil {
		e.in.log.drop()
	}
	if e.out != nil {
		e.out.log.drop()
	}
	if e.control != nil {
		e.control.leave()
	}
}

// beginExact makes the kernel count what is peeked, before the other end can
// send anything.
func (e *Endpoint) beginExact() error {
	if e.in != nil && e.in.port != nil && e.read.socket {
		return e.in.port.unpeek()
	}
	return nil
}

// start lets a sealed end read ahead, and a pipe notice that nobody reads it any
// more when nothing is sent.
func (e *Endpoint) start() {
	if e.out != nil && !e.write.socket && e.out.End() == nil {
		// Where the kernel refuses to watch it, the next send notices.
		_ = e.write.poller.OnHangup(e.write.fd(), e.out.breakIfGone)
	}
	if e.sealed && e.in != nil && (e.in.End() == nil || e.in.isAbandoned() && !e.read.isClosed()) {
		e.in.start()
		if e.terminal != nil {
			e.terminal.start()
		}
	}
}

// announce makes the directions of the end tell when they have ended.
func (e *Endpoint) announce(news *announcer, end int, ended func(end int, sent bool)) {
	if ended == nil {
		return
	}
	if e.in != nil {
		e.in.announce(func() { news.say(func() { ended(end, false) }) })
	}
	if e.out != nil {
		e.out.announce(func() { news.say(func() { ended(end, true) }) })
	}
}

// ends are the descriptors of one end.
type ends struct{ read, write *descriptor }

func openDescriptors(poller *Poller, kind Kind, sealed bool) (fds [2]ends, err error) {
	defer func() {
		if err != nil {
			for _, e := range fds {
				e.close()
			}
		}
	}()
	if kind == Duplex {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fds, os.NewSyscallError("socketpair", err)
		}
		for i, fd := range pair {
			d, derr := newDescriptor(fd, true, sealed && i == 0, poller)
			if derr != nil {
				err = derr
				continue
			}
			fds[i] = ends{d, d}
		}
		return fds, err
	}
	if kind == Stdio || kind == StdinOnly {
		if fds[1].read, fds[0].write, err = openPipe(poller, false, sealed); err != nil {
			return fds, err
		}
	}
	if kind != StdinOnly {
		fds[0].read, fds[1].write, err = openPipe(poller, sealed, false)
	}
	return fds, err
}

func openPipe(poller *Poller, readSealed, writeSealed bool) (r, w *descriptor, err error) {
	var pair [2]int
	if err := unix.Pipe2(pair[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	if r, err = newDescriptor(pair[0], false, readSealed, poller); err != nil {
		_ = unix.Close(pair[1])
		return nil, nil, err
	}
	if w, err = newDescriptor(pair[1], false, writeSealed, poller); err != nil {
		r.close()
		return nil, nil, err
	}
	return r, w, nil
}

func (e ends) close() {
	for _, d := range []*descriptor{e.read, e.write} {
		if d != nil {
			d.close()
		}
	}
}

func newEndpoint(fds ends, end int, spec *Spec, slot int) (*Endpoint, error) {
	e := &Endpoint{num: end, sealed: spec.Sealed && end == 1, read: fds.read, write: fds.write, slot: slot, control: spec.Control, closed: make(chan struct{})}
	in, out := spec.Out, spec.In
	if end == 2 {
		in, out = out, in
	}
	record := func(sent bool) *record {
		if spec.Control == nil {
			return nil
		}
		r := spec.Control.record(slot, end, sent)
		if part := PartInbox; spec.Vault != nil {
			if sent {
				part = PartOutbox
			}
			r.log = deposit{spec.Vault, KeyOf(slot, end, part)}
		}
		return r
	}
	var err error
	if e.control != nil {
		if err = e.control.enter(); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				e.control.leave()
			}
		}()
	}
	if e.read != nil {
		if e.in, err = newInbox(e.read, in, spec, record(false)); err != nil {
			return nil, err
		}
	}
	if e.write != nil {
		e.sent = record(true)
		if e.out, err = newOutbox(e.write, out, spec, e.sent, e.hangup); err != nil {
			return nil, err
		}
	}
	return e, nil
}
