package system

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestChildKilledInMidFrameEndsTheDirectionTruncated(t *testing.T) {
	_, p := start(t)
	for _, c := range []struct {
		name, bytes string // as printf writes them
		rest        string // of the frame
		message     uint64
	}{
		{"inside the payload", `\000\000\000\001a\000\000\000\012half`, "half", 2},
		{"inside the header", `\000\000\000\001a\000\000`, "", 2},
		{"after the header", `\000\000\000\001a\000\000\000\012`, "", 2},
		{"inside a long header", `\000\000\000\001a\377\377\377\377\000`, "", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPeer(t, p.conn)
			ref := at(p.create(stdio(sh(`printf '`+c.bytes+`'; exec sleep 1000`), "mp")), "", 1)
			if got := p.read(ref); got != "a" {
				t.Errorf("first message %q", got)
			}
			p.signal(ref.GetSession(), "KILL")
			if exit := p.exit(ref.GetSession()); exit.GetSignal() != "KILL" || exit.GetSignalNumber() != 9 {
				t.Errorf("exit %v, want signal KILL", exit)
			}
			r := p.recv(&pipedv1.RecvOpen{Endpoint: ref, AutoAck: true})
			if c.rest != "" {
				b := r.batch()
				if string(b.GetData()) != c.rest || !b.GetTruncated() || b.GetMore() || b.GetTotalSize() != 10 || b.GetFirst().GetMessage() != 2 {
					t.Errorf("got %v, want %q, truncated, of 10", b, c.rest)
				}
			}
			end := r.ended()
			if end.GetCause() != pipedv1.EndCause_END_CAUSE_TRUNCATED || end.GetPosition().GetMessage() != c.message ||
				end.GetPosition().GetOffset() != uint64(len(c.rest)) || end.GetDetail() == "" {
				t.Errorf("end %v, want truncated in message %d after %d bytes", end, c.message, len(c.rest))
			}
			wantReason(t, "the first Read", p.readError(ref), "TRUNCATED_FRAME")
			wantReason(t, "the next Read", p.readError(ref), "EOF")
		})
	}
}

func TestBytesThatAreNoFrameEndTheDirectionAfterWhatWasWhole(t *testing.T) {
	_, p := start(t)
	for _, c := range []struct{ name, bytes, reason string }{
		{"a negative length", `\377\377\377\376xxxx`, "BAD_FRAME"},
		{"the most negative length", `\200\000\000\000xxxx`, "BAD_FRAME"},
		{"a text", `Traceback (most recent call last)`, "FRAME_OVER_LIMIT"},
		{"2^62 bytes", `\377\377\377\377\100\000\000\000\000\000\000\000x`, "FRAME_OVER_LIMIT"},
		{"2^64-1 bytes", `\377\377\377\377\377\377\377\377\377\377\377\377x`, "FRAME_OVER_LIMIT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPeer(t, p.conn)
			ref := at(p.create(stdio(sh(`printf '\000\000\000\001a`+c.bytes+`'; exec sleep 1000`), "mp")), "", 1)
			if got := p.read(ref); got != "a" {
				t.Errorf("first message %q", got)
			}
			wantReason(t, "the first Read", p.readError(ref), c.reason)
			wantReason(t, "the next Read", p.readError(ref), "EOF")
		})
	}
	t.Run("a large header for a small message", func(t *testing.T) {
		p := newPeer(t, p.conn)
		ref := at(p.create(stdio(sh(`printf '\377\377\377\377\000\000\000\000\000\000\000\001a'`), "mp")), "", 1)
		if got := p.read(ref); got != "a" {
			t.Errorf("got %q", got)
		}
	})
}

func TestHeaderDoesNotSizeMemory(t *testing.T) {
	d, p := start(t)
	warm := at(p.create(stdio(sh(`printf '\000\000\000\001a'`), "mp")), "", 1)
	p.read(warm)
	grown := peak(t, d.PID(), func() {
		for range 20 { // 1 GiB each, the most that is allowed
			ref := at(p.create(stdio(sh(`printf '\100\000\000\000xyz'; exec sleep 1000`), "mp")), "", 1)
			if ready := p.poll(nil, ref); !ready[0].GetData() {
				t.Errorf("poll: %v", ready)
			}
		}
	})
	if grown > 16<<20 {
		t.Errorf("20 headers of 1 GiB grew the daemon by %s", mib(grown))
	}
}

func TestChildThatLeavesInputUnreadEndsResetOnceAfterItsOutput(t *testing.T) {
	_, p := start(t)
	begin := func(p *peer) *pipedv1.EndpointRef {
		name := p.create(quiet(sh(`head -c 1 <&3 >/dev/null; printf '\000\000\000\001a\000\000\000\001b' >&3`, gives(2, 3))), framed("pipe", "mp"))
		p.write(at(name, "", 1), "never", "read", "by", "anybody")
		p.exit(name)
		return at(name, "", 1)
	}
	t.Run("by Recv", func(t *testing.T) {
		p := newPeer(t, p.conn)
		ref := begin(p)
		for range 2 { // every reader, however late
			r := p.recv(&pipedv1.RecvOpen{Endpoint: ref, Mode: pipedv1.RecvMode_RECV_MODE_OBSERVE})
			for _, want := range []string{"a", "b"} {
				if b := r.batch(); string(b.GetData()) != want {
					t.Errorf("got %q, want %q", b.GetData(), want)
				}
			}
			if end := r.ended(); end.GetCause() != pipedv1.EndCause_END_CAUSE_RESET || end.GetPosition().GetMessage() != 3 {
				t.Errorf("end %v, want reset after message 2", end)
			}
			if err := r.failure(); err != nil {
				t.Errorf("after the end: %v, want OK", err)
			}
		}
	})
	t.Run("by Read, after a Poll that does not eat it", func(t *testing.T) {
		p := newPeer(t, p.conn)
		ref := begin(p)
		if ready := p.poll(nil, ref); len(ready) != 1 {
			t.Errorf("poll: %v", ready)
		}
		for _, want := range []string{"a", "b"} {
			if got := p.read(ref); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		if ready := p.poll(nil, ref); len(ready) != 1 || !ready[0].GetEnd() {
			t.Errorf("poll at the end: %v", ready)
		}
		wantReason(t, "the first Read at the end", p.readError(ref), "PEER_RESET")
		wantReason(t, "the next", p.readError(ref), "EOF")
		wantReason(t, "the one after", p.readError(ref), "EOF")
		_, err := p.pipes.Write(p.ctx(), writing(ref, "x"))
		wantReason(t, "Write", err, "BROKEN_PIPE")
	})
}

func TestGrandchildHoldsThePipeOpenAfterTheExitAndIsNamed(t *testing.T) {
	_, p := start(t)
	name := p.create(sh(`sleep 1000 & echo $!; exit 3`))
	ref := at(name, "stdio", 1)
	began := time.Now()
	if code := p.exit(name).GetCode(); code != 3 || time.Since(began) > 10*time.Second {
		t.Errorf("exit %d after %v, want 3 at once", code, time.Since(began))
	}
	pid, err := strconv.Atoi(p.read(ref))
	if err != nil {
		t.Fatal(err)
	}
	kill := func() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	r := p.recv(&pipedv1.RecvOpen{Endpoint: ref})
	if ready := p.poll(atOnce, ref); len(ready) != 0 {
		t.Errorf("poll says %v while the grandchild holds the pipe", ready)
	}
	s := p.get(name)
	if s.GetState() != pipedv1.Session_STATE_ACTIVE || s.GetProcesses()[0].GetState() != pipedv1.Process_STATE_EXITED {
		t.Errorf("session %v with process %v, want active with an exited one", s.GetState(), s.GetProcesses()[0].GetState())
	}
	holders := p.endpoint(at(name, "stdio", 2)).GetHolders()
	if len(holders) != 1 || int(holders[0].GetPid()) != pid || !strings.Contains(holders[0].GetCommand(), "sleep") || !slices.Contains(holders[0].GetFds(), 1) {
		kill()
		t.Fatalf("holders %v, want the sleep with pid %d", holders, pid)
	}
	kill()
	if end := r.ended(); end.GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED || end.GetPosition().GetMessage() != 2 {
		t.Errorf("end %v, want closed after message 1", end)
	}
	p.everything(at(name, "stderr", 1))
	eventually(t, "the session has ended", func() bool { return p.get(name).GetState() == pipedv1.Session_STATE_ENDED })
}

func TestOutputOfAReapedChildStaysReadable(t *testing.T) {
	_, p := start(t)
	name := p.create(sh(`i=0; while [ $i -lt 5000 ]; do echo "line number $i of many"; i=$((i+1)); done`))
	p.exit(name)
	got, end := p.everything(at(name, "", 1))
	if len(got) != 5000 || got[4999] != "line number 4999 of many" || end.GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED {
		t.Errorf("%d lines, %v", len(got), end)
	}
}

func TestMessagesSentBeforeAProcessInheritsTheEndReachIt(t *testing.T) {
	_, p := start(t)
	name := p.create(nil, framed("pipe", "line"))
	p.write(at(name, "", 1), "sent before", "anybody", "was there")
	p.start(name, sh(`head -n 3 <&3 | tr a-z A-Z >&3`, copies(2, 3)))
	for _, want := range []string{"SENT BEFORE", "ANYBODY", "WAS THERE"} {
		if got := p.read(at(name, "", 1)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	p.exit(name)
}

func TestInheritanceThatWouldLoseBytesIsRefused(t *testing.T) {
	_, p := start(t)
	refusal := func(name string, in *pipedv1.Inherit) error {
		_, err := p.sessions.StartProcess(p.ctx(), &pipedv1.StartProcessRequest{Session: name, Process: quiet(sh("exit 0", in))})
		return err
	}
	t.Run("unread messages", func(t *testing.T) {
		name := p.create(nil, framed("pipe", "line"))
		p.write(at(name, "", 1), "one", "two")
		if _, err := p.pipes.Read(p.ctx(), &pipedv1.ReadRequest{Endpoint: at(name, "", 2)}); err != nil {
			t.Fatal(err)
		}
		wantReason(t, "start", refusal(name, copies(2, 3)), "UNREAD_BUFFERED")
		p.read(at(name, "", 2))
		if err := refusal(name, copies(2, 3)); err != nil {
			t.Errorf("after it was acknowledged: %v", err)
		}
	})
	t.Run("a sealed end", func(t *testing.T) {
		name := p.create(quiet(sh("exec sleep 1000", gives(2, 3))), framed("pipe", "line"))
		wantReason(t, "start", refusal(name, copies(1, 3)), "ENDPOINT_SEALED")
	})
	t.Run("an end that was handed over", func(t *testing.T) {
		name := p.create(quiet(sh("exec sleep 1000", gives(2, 3))), framed("pipe", "line"))
		wantReason(t, "start", refusal(name, copies(2, 3)), "ENDPOINT_CLOSED")
	})
	t.Run("an end that a process holds has another reader", func(t *testing.T) {
		name := p.create(quiet(sh("exec sleep 1000", copies(2, 3))), framed("pipe", "line"))
		p.write(at(name, "", 1), "x")
		_, err := p.pipes.Read(p.ctx(), &pipedv1.ReadRequest{Endpoint: at(name, "", 2)})
		wantReason(t, "Read", err, "BUSY_READER")
		if !strings.Contains(factOf(err, "client"), "sleep") {
			t.Errorf("client %q, want the process", factOf(err, "client"))
		}
		if resp, err := p.pipes.Read(p.ctx(), &pipedv1.ReadRequest{Endpoint: at(name, "", 2), Force: true}); err != nil || string(resp.GetBatch().GetData()) != "x" {
			t.Errorf("by force: %v, %v", resp, err)
		}
	})
}

func TestChildGetsExactlyTheDeclaredDescriptors(t *testing.T) {
	_, p := start(t)
	for range 3 { // ends of others are around
		p.create(quiet(sh("exec sleep 1000", gives(2, 5))), framed("pipe", "line"))
	}
	name := p.create(&pipedv1.ProcessSpec{Args: []string{"/bin/sh", "-c", `ls /proc/self/fd; echo "$PIPED_FDS"; echo here | cat /dev/stdin >/dev/stdout`},
		Inherits: []*pipedv1.Inherit{gives(2, 7)}}, framed("pipe", "mp"))
	got, _ := p.everything(at(name, "stdio", 1))
	// ls itself opens the directory, as the lowest free number.
	if want := []string{"0", "1", "2", "3", "7", "pipe:7:mp", "here"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestExitIsTheCodeOrTheSignal(t *testing.T) {
	_, p := start(t)
	for script, want := range map[string]string{"exit 0": "code:0", "exit 255": "code:255", "kill -9 $$": "KILL", "kill -TERM $$": "TERM"} {
		exit := p.exit(p.create(sh(script)))
		got := fmt.Sprintf("code:%d", exit.GetCode())
		if exit.GetSignalNumber() != 0 {
			got = exit.GetSignal()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", script, got, want)
		}
	}
}
