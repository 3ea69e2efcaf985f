package pipe

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// openTerminalPair makes a terminal; slave is the process's side of it.
func openTerminalPair(t *testing.T, poller *Poller, spec Spec) (one, two *Endpoint, slave int) {
	t.Helper()
	one, two, err := Open(poller, spec)
	if err != nil {
		t.Fatal(err)
	}
	_, fd := two.Descriptors()
	return one, two, dup(t, fd)
}

func terminalSpec(raw bool) Spec {
	spec := testSpec(Terminal, "raw", true)
	spec.Terminal = TerminalSpec{Size: WindowSize{Rows: 24, Columns: 80}, Raw: raw}
	return spec
}

// readSlave reads what the process would, or says that it would wait.
func readSlave(t *testing.T, fd int) (text string, waits bool) {
	t.Helper()
	for range 100 {
		if pollFd(t, fd)&unix.POLLIN != 0 {
			b := make([]byte, 4096)
			n, err := unix.Read(fd, b)
			if err != nil {
				t.Fatal(err)
			}
			return string(b[:n]), false
		}
		_, _ = unix.Poll(nil, 1)
	}
	return "", true
}

func TestEndOfInputIsTypedOnceWhateverInstantTheDaemonIsKilledAt(t *testing.T) {
	if inMemory {
		return
	}
	poller := newTestPoller(t)
	spec := exactly(t, terminalSpec(false))
	one, two, slave := openTerminalPair(t, poller, spec)
	defer func() { _ = unix.Close(slave) }()
	send(t, one, "abc")
	if err := one.out.endInput(); err != nil { // and it is killed before it notes anything else
		t.Fatal(err)
	}
	kept := Kept{Control: spec.Control, Ends: [2]KeptEnd{one.kill(), two.kill()}}
	one, two, err := Recover(poller, kept, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer closeEnd(t, two, true)
	defer closeEnd(t, one, true)
	if !one.out.Info().Closing {
		t.Error("sending goes on")
	}
	if err := one.CloseSend(false); err != nil {
		t.Error(err)
	}
	if err := trySend(one, []byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("sending: %v", err)
	}
	await(t, "the end of what was sent", one.out.Flushed())
	for _, want := range []string{"abc", ""} {
		if got, waits := readSlave(t, slave); got != want || waits {
			t.Errorf("the process reads %q, waits: %t; want %q", got, waits, want)
		}
	}
	if got, waits := readSlave(t, slave); !waits {
		t.Errorf("behind the end of input it reads %q", got)
	}
	if end := one.out.End(); end.Cause != CauseClosed {
		t.Errorf("it ended as %+v", *end)
	}
	// The way out is open still.
	if _, err := unix.Write(slave, []byte("out\n")); err != nil {
		t.Fatal(err)
	}
	c := one.in.Consumer()
	defer c.Close()
	if got := string(nextBatch(t, c, Limits{}).Data); !strings.HasPrefix(got, "out") {
		t.Errorf("got %q", got)
	}
}

func TestHangupOfTheProcessEndsBothDirections(t *testing.T) {
	one, two := open(t, terminalSpec(true))
	_, fd := two.Descriptors()
	if _, err := unix.Write(fd, []byte("last")); err != nil {
		t.Fatal(err)
	}
	closeEnd(t, two, true)
	c := one.in.Consumer()
	defer c.Close()
	if got := string(nextBatch(t, c, Limits{}).Data); got != "last" {
		t.Errorf("got %q", got)
	}
	if end := nextEnd(t, c); end.Cause != CauseClosed || end.Detail != "hangup" || end.Bytes != 4 {
		t.Errorf("the end is %+v", end)
	}
	poll(t, "a broken pipe", func() bool { return errors.Is(trySend(one, []byte("x")), ErrBrokenPipe) })
	if !one.HungUp() {
		t.Error("not hung up")
	}
	if all, known := one.AllRead(); known {
		t.Errorf("all was read: %t; nobody can know", all)
	}
	one.Retire()
	if err := one.Resize(WindowSize{Rows: 1, Columns: 1}); !errors.Is(err, ErrClosed) {
		t.Errorf("resize: %v", err)
	}
	if look, ok := one.Terminal(); !ok || look.Size != (WindowSize{Rows: 24, Columns: 80}) || look.Canonical {
		t.Errorf("it was %+v, %t", look, ok)
	}
}

// A process that waits until its output is taken would never read what it is sent.
func TestClosingGoesOnWhileTheProcessWrites(t *testing.T) {
	one, two := open(t, terminalSpec(true))
	_, fd := two.Descriptors()
	slave := dup(t, fd)
	defer func() { _ = unix.Close(slave) }()
	closeEnd(t, two, true)
	if err := unix.SetNonblock(slave, true); err != nil {
		t.Fatal(err)
	}
	for full := 0; full < 50; { // the log, the pipe and the terminal are full
		n, err := unix.Write(slave, make([]byte, 4096))
		if err == unix.EAGAIN || n == 0 {
			full++
			_, _ = unix.Poll(nil, 2)
			continue
		}
		full = 0
	}
	sent := 0
	for ; sent < 200_000; sent += 4096 { // more than the terminal takes
		if err := trySend(one, make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	one.Close(false)
	poll(t, "the end of the endpoint", func() bool {
		// It reads no more before it has written more.
		if n, _ := unix.Write(slave, make([]byte, 4096)); n > 0 && pollFd(t, slave)&unix.POLLIN != 0 {
			n, _ := unix.Read(slave, make([]byte, 4096))
			sent -= max(n, 0)
		}
		select {
		case <-one.Closed():
			return true
		default:
			return false
		}
	})
	// What the process had not read yet the hangup has thrown away.
	if sent > 32<<10 {
		t.Errorf("%d bytes were not handed over", sent)
	}
}
