package children

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// A script is what a child does before it ends, and how it ends.
type script struct {
	socket       bool // its pipe is a socket at descriptor 3, not its standard streams
	input, reads int  // bytes that are sent to it, and how many of them it reads
	frames, size int  // what it writes
	half         int  // bytes of one more frame; -1: no frame, -2: half a header
	code, signal int
}

// newScript draws one.
func newScript(r *rand.Rand) script {
	s := script{socket: r.IntN(2) == 0, input: r.IntN(3) * r.IntN(3000), frames: r.IntN(20), size: 2 + r.IntN(1500), half: -1, code: r.IntN(90)}
	switch r.IntN(3) {
	case 0: // nothing of it
	case 1:
		s.reads = s.input
	case 2:
		s.reads = s.input / 2
	}
	switch r.IntN(4) {
	case 0:
		s.half = -2
	case 1:
		s.half = r.IntN(s.size)
	}
	if r.IntN(3) == 0 {
		s.code, s.signal = 0, []int{9, 11, 15}[r.IntN(3)]
	}
	return s
}

// args are the script as the child takes it.
func (s script) args() []string {
	out, in, how := 1, 0, strconv.Itoa(s.code)
	if s.socket {
		out, in = 3, 3
	}
	if s.signal > 0 {
		how = "k" + strconv.Itoa(s.signal)
	}
	args := []string{"end"}
	for _, n := range []int{out, in, s.input, s.reads, s.frames, s.size, s.half} {
		args = append(args, strconv.Itoa(n))
	}
	return append(args, how)
}

// cause is how its output ends.
func (s script) cause() pipedv1.EndCause {
	switch {
	case s.half != -1:
		return pipedv1.EndCause_END_CAUSE_TRUNCATED
	case s.socket && s.reads < s.input:
		return pipedv1.EndCause_END_CAUSE_RESET
	}
	return pipedv1.EndCause_END_CAUSE_CLOSED
}

// bytes is how much it writes, framing included.
func (s script) bytes() uint64 {
	n := s.frames * (4 + s.size)
	switch {
	case s.half == -2:
		n += 2
	case s.half >= 0:
		n += 4 + s.half
	}
	return uint64(n)
}

func TestP1WhatIsToldOfAChildThatEndsAnywhereIsRight(t *testing.T) {
	h := start(t, daemon.Options{})
	if err := h.perform(script{half: -1}); err != nil { // what the first one makes and the daemon keeps
		t.Fatal(err)
	}
	before := h.use()
	n := sized(1000, 10_000)
	var truncated, unread, reset, signalled atomic.Int64
	began := time.Now()
	err := inParallel(4, n, func(i int) error {
		s := newScript(rand.New(rand.NewPCG(1, uint64(i))))
		if err := h.perform(s); err != nil {
			return fmt.Errorf("%+v: %w", s, err)
		}
		count := func(c *atomic.Int64, yes bool) {
			if yes {
				c.Add(1)
			}
		}
		count(&truncated, s.half != -1)
		count(&unread, s.reads < s.input)
		count(&reset, s.cause() == pipedv1.EndCause_END_CAUSE_RESET)
		count(&signalled, s.signal > 0)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	h.wantNoMore(before)
	say("P1", "ends: children=%d truncated=%d input_unread=%d reset=%d signalled=%d wrong=0 seconds=%.1f",
		n, truncated.Load(), unread.Load(), reset.Load(), signalled.Load(), time.Since(began).Seconds())
}

// perform has a child do a script, and compares everything that is told of it.
func (h *host) perform(s script) error {
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*patience)
	defer cancel()
	pipe := framed("", "mp")
	pipe.FramingOut, pipe.FramingIn = pipe.FramingIn, &pipedv1.Framing{Name: "raw"}
	process := h.plays(s.args()...)
	var pipes []*pipedv1.PipeSpec
	name := "stdio"
	if s.socket {
		name, pipe.Name = "pipe", "pipe"
		pipes, process = append(pipes, pipe), quiet(process)
		process.Inherits = []*pipedv1.Inherit{gives("pipe", 3)}
	} else {
		process.StdioPipe = pipe
	}
	session, err := h.create(ctx, process, pipes...)
	if err != nil {
		return err
	}
	if s.input > 0 {
		if err := h.c.Endpoint(client.Ref{Session: session, Pipe: name, End: 1}).Send(ctx, make([]byte, s.input)); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	exited, err := h.wait(ctx, session)
	if err != nil {
		return err
	}
	err = errors.Join(s.checkExit(exited.GetExit()), h.checkOutput(ctx, s, session, name), h.checkFinals(ctx, s, session, name))
	return errors.Join(err, h.c.Delete(ctx, session, true))
}

func (s script) checkExit(exit *pipedv1.Exit) error {
	if int(exit.GetCode()) != s.code || int(exit.GetSignalNumber()) != s.signal || exit.GetCause() != pipedv1.Exit_CAUSE_OWN {
		return fmt.Errorf("exit %v", exit)
	}
	return nil
}

// checkOutput receives, after the exit, everything that the child has written.
func (h *host) checkOutput(ctx context.Context, s script, session, pipe string) error {
	got, end, err := h.everything(ctx, session, pipe)
	if err != nil {
		return err
	}
	if end.GetCause() != s.cause() || end.GetBytes() != s.bytes() {
		return fmt.Errorf("output ended with %v, want %v after %d bytes", end, s.cause(), s.bytes())
	}
	whole := got
	if s.half > 0 {
		if len(got) == 0 {
			return errors.New("what had come of the last frame is missing")
		}
		last := got[len(got)-1]
		whole = got[:len(got)-1]
		if !last.Truncated || string(last.Data) != strings.Repeat("!", s.half) || last.TotalSize != uint64(s.size) {
			return fmt.Errorf("the last frame is %d bytes of %d, truncated %v; want %d of %d", len(last.Data), last.TotalSize, last.Truncated, s.half, s.size)
		}
	}
	if len(whole) != s.frames {
		return fmt.Errorf("%d frames, want %d", len(whole), s.frames)
	}
	for i, m := range whole {
		if m.Truncated || string(m.Data) != strings.Repeat(string(rune('a'+i%26)), s.size) {
			return fmt.Errorf("frame %d is %d bytes, truncated %v, want %d", i, len(m.Data), m.Truncated, s.size)
		}
	}
	return nil
}

// checkFinals compares the last words that are on record with the exit.
func (h *host) checkFinals(ctx context.Context, s script, session, pipe string) error {
	want := 3 // standard error too
	if s.socket {
		want = 2
	}
	var finals []*pipedv1.Final
	var err error
	if !await(func() bool {
		var now *pipedv1.Session
		if now, err = h.c.Get(ctx, session); err != nil {
			return true
		}
		finals = now.GetProcesses()[0].GetFinals()
		return len(finals) == want
	}) || err != nil {
		return fmt.Errorf("finals %v: %w", finals, err)
	}
	for _, f := range finals {
		switch {
		case f.GetPipe() != pipe:
		case f.GetSent():
			if f.AllRead == nil || f.GetAllRead() != (s.reads == s.input) || f.GetLast().GetBytes() != uint64(s.input) {
				return fmt.Errorf("of the input %v, want all_read %v of %d bytes", f, s.reads == s.input, s.input)
			}
		case f.GetLast().GetCause() != s.cause() || f.GetLast().GetBytes() != s.bytes():
			return fmt.Errorf("of the output %v, want %v after %d bytes", f, s.cause(), s.bytes())
		}
	}
	return nil
}
