package pipe

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// maxLine is what a terminal takes of a line before its end; the rest it drops and
// tells nobody.
const maxLine = 4095

// A lineMode is what a terminal that edits lines makes of the bytes that are typed.
type lineMode struct{ termios *unix.Termios }

// canonical reports whether there are lines at all.
func (m lineMode) canonical() bool { return m.termios.Lflag&unix.ICANON != 0 }

// is reports whether b is the character of a function.
func (m lineMode) is(b byte, function int) bool {
	c := m.termios.Cc[function]
	return c != 0 && b == c
}

// ends reports whether the line is over with b: because it is complete, or because
// it is thrown away.
func (m lineMode) ends(b byte) bool {
	t := m.termios
	switch {
	case b == '\n', b == '\r' && t.Iflag&(unix.ICRNL|unix.IGNCR) == unix.ICRNL:
		return true
	case m.is(b, unix.VEOF), m.is(b, unix.VEOL), m.is(b, unix.VKILL), m.is(b, unix.VEOL2) && t.Lflag&unix.IEXTEN != 0:
		return true
	}
	return t.Lflag&unix.ISIG != 0 && t.Lflag&unix.NOFLSH == 0 && (m.is(b, unix.VINTR) || m.is(b, unix.VQUIT) || m.is(b, unix.VSUSP))
}

// lineLocked returns how many bytes were sent since the last end of a line, at most
// maxLine.
func (o *Outbox) lineLocked(m lineMode) int {
	from := max(o.base.off, o.head.off-min(o.head.off, maxLine))
	n := 0
	for from < o.head.off {
		data := o.log.from(from)
		for _, b := range data {
			if n++; m.ends(b) {
				n = 0
			}
		}
		from += uint64(len(data))
	}
	return n
}

// refuseLineLocked refuses what makes a line longer than the terminal takes, as it
// is now: what is not handed over at once may find it in another mode.
func (o *Outbox) refuseLineLocked(data []byte) error {
	mode, err := o.desc.mode()
	if err != nil || !(lineMode{mode}).canonical() {
		return nil
	}
	m := lineMode{mode}
	n := o.lineLocked(m)
	for _, b := range append(slices.Clip(data), o.cut.trailer()...) {
		if m.ends(b) {
			n = 0
			continue
		}
		if n++; n > maxLine {
			return fmt.Errorf("%w: it drops what comes behind byte %d of a line; end the line before that, or let the program read in raw mode",
				ErrTerminalLine, maxLine)
		}
	}
	return nil
}

// typedEnd marks the offset at which the end of input was typed, where otherwise
// the size of a message stands.
const typedEnd = 1 << 63

// endInput types the end of input and closes the direction, in one: whoever comes
// after a kill finds both, or neither. It returns ErrTerminalRaw where the terminal
// has no such character now.
func (o *Outbox) endInput() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closing || o.end != nil {
		return nil
	}
	mode, err := o.desc.mode()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	m := lineMode{mode}
	eof := mode.Cc[unix.VEOF]
	if !m.canonical() || eof == 0 {
		return fmt.Errorf("%w, which has no end of input: send what the program takes for its end, signal it, stop it, or close the end, which hangs up",
			ErrTerminalRaw)
	}
	// In the middle of a line the first one only hands the line over.
	typed := []byte{eof}
	if o.lineLocked(m) > 0 {
		typed = append(typed, eof)
	}
	if o.rec != nil {
		o.rec.acked.Store(typedEnd | (o.log.end + uint64(len(typed)))) // it counts with the bytes
	}
	if err := o.writeLocked(nil, typed, ""); err != nil {
		return err
	}
	o.closing = true
	return o.countLocked()
}

// inputEnded reports whether the end of input was typed into a terminal.
func (o *Outbox) inputEnded() bool {
	return o.desc.tty && o.rec.acked.Load() == typedEnd|o.head.off
}
