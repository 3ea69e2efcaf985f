package pipe

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A crashScene is a pipe whose daemon is killed over and over: what the pipe is,
// and what its clients and the process at end 2 do.
type crashScene struct {
	Name     string
	Kind     Kind
	Framing  string
	StripCR  bool
	LogSize  uint64
	TailSize uint64
	// Drop: the inbox drops its oldest, and the consumer acknowledges seldom.
	Drop bool
	// Leave: the process exits in the middle of everything, input unread.
	Leave bool
	// Discard: the end is closed in the middle of everything, and what is left dropped.
	Discard bool
	// Retire: when both directions have ended the descriptors are given back.
	Retire bool
	// Shed: and those of the logs too, while something is not acknowledged yet.
	Shed bool
	// Opens: the daemon makes other pipes meanwhile.
	Opens bool
}

func (s *crashScene) spec() Spec {
	f := Framing{Name: s.Framing, StripCR: s.StripCR}
	spec := Spec{Kind: s.Kind, In: f, Out: f, LogSize: s.LogSize, TailSize: s.TailSize, MaxMessage: 1 << 20, Sealed: true}
	spec.Terminal = TerminalSpec{Raw: true} // where it is one
	if s.Drop {
		spec.Overflow = DropOldest
	}
	return spec
}

// A crashRole is what a process that the harness starts gets to know: what to
// play, and the numbers of the descriptors that it inherits.
type crashRole struct {
	Scene crashScene
	Seed  uint64
	Play  string // daemon, process
	// Finish: what there is to do is brought to its end.
	Finish bool
	// Verify: nothing is done but compared with what was seen before.
	Verify bool
	Mutant string

	State, Ready, Vault, Read, Write, Stop int
	// Kept are the descriptors that the vault has.
	Kept map[Key]int
}

const crashEnv = "PIPED_CRASH_ROLE"

// playCrashRole is the main function of the processes that the harness starts.
func playCrashRole(text string) int {
	var role crashRole
	err := json.Unmarshal([]byte(text), &role)
	switch {
	case err != nil:
	case role.Play == "process":
		err = playProcess(&role)
	default:
		err = playDaemon(&role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// crashWords are what the clients of the daemon know, in memory that outlives
// them: nothing is in it that they were not told.
type crashWords struct {
	tried   *atomic.Uint64 // position that a send under way leads to
	sent    *atomic.Uint64 // position up to which sends were acknowledged
	had     *atomic.Uint64 // position up to which messages were received
	acked   *atomic.Uint64 // position up to which an acknowledgement returned
	skipped *atomic.Uint64 // messages that gaps skipped
	flags   *atomic.Uint64
	end     *atomic.Uint64 // position of the inbox's end
	given   *atomic.Uint64 // bytes handed over, at the end
	out     *atomic.Uint64 // position of the outbox at the end
	dropped *atomic.Uint64
	keeping *atomic.Uint64 // step of the journal under way
	kept    *atomic.Uint64 // step up to which the journal's methods returned
	outEnd  *atomic.Uint64 // how the outbox ended, see crashDaemon.outEnd
	allRead *atomic.Uint64 // see crashDaemon.allRead
	page    []byte
}

// What the clients have seen.
const (
	sawEnd      = 1 << iota
	sawClosed   // the inbox ended by an orderly close
	sawReset    // or by a reset
	closedSend  // CloseSend returned
	closedEnd   // Close returned
	sawRetired  // Retire, and RetireLogs where that is the scene, returned
	sawFinished // everything was done
)

func newCrashWords(fd int) (*crashWords, error) {
	b, err := unix.Mmap(fd, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	word := func(n int) *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&b[8*n])) }
	return &crashWords{word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7), word(8), word(9), word(10), word(11), word(12), word(13), b}, nil
}

func (w *crashWords) close() {
	_ = unix.Munmap(w.page)
}

func pack(p Position) uint64 { return p.Message<<32 | p.Offset }

func unpack(v uint64) Position { return Position{Message: v >> 32, Offset: v & (1<<32 - 1)} }

// mix is the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// A pattern is what flows in one direction: everybody knows each of its bytes.
type pattern struct {
	seed uint64
	cut  cutter
	text bool
}

func newPattern(s *crashScene, seed uint64) (pattern, error) {
	f := Framing{Name: s.Framing, StripCR: s.StripCR, MaxMessage: 1 << 20}
	c, err := f.cutter()
	return pattern{seed: mix(seed), cut: c, text: s.Framing == "line"}, err
}

// size returns the payload size of message k.
func (p *pattern) size(k uint64) uint64 {
	h := mix(p.seed + k)
	switch v := h >> 8; h % 32 {
	case 0, 1:
		return 0
	case 2, 3, 4, 5:
		return 4000 + v%400
	case 6, 7:
		return v % 14_000
	case 8:
		return v % 90_000
	default:
		return v % 41
	}
}

// fill fills b with the payload of message k from off on; raw is one message 0.
func (p *pattern) fill(b []byte, k, off uint64) {
	for i := range b {
		at := off + uint64(i)
		x := p.seed ^ k*0x9e3779b97f4a7c15 + (at>>3)*0xbf58476d1ce4e5b9
		x ^= x >> 29
		b[i] = byte(x >> (8 * (at & 7)))
		if p.text {
			b[i] = b[i]&0x3f | 0x40
		}
	}
}

// A patternStream is the bytes of a pattern as they go over the wire.
type patternStream struct {
	pattern
	next  uint64 // the message that comes after rest
	bytes uint64 // taken so far, in raw
	rest  []byte
	buf   []byte
}

// take returns up to n bytes that come next.
func (s *patternStream) take(n int) []byte {
	if isRaw(s.cut) {
		s.buf = append(s.buf[:0], make([]byte, n)...)
		s.fill(s.buf, 0, s.bytes)
		s.bytes += uint64(n)
		return s.buf
	}
	if len(s.rest) == 0 {
		s.next++
		size := s.size(s.next)
		b := s.cut.header(s.buf[:0], size)
		at := uint64(len(b))
		b = append(b, make([]byte, size)...)
		s.fill(b[at:], s.next, 0)
		s.buf = append(b, s.cut.trailer()...)
		s.rest = s.buf
	}
	b := s.rest[:min(n, len(s.rest))]
	s.rest = s.rest[len(b):]
	return b
}

// whole reports whether a message ends where the stream stands.
func (s *patternStream) whole() bool { return len(s.rest) == 0 }

// A processReport is what the process at end 2 says when it is done.
type processReport struct {
	Wrote, Read uint64 // bytes
	Messages    uint64 // of Wrote
	Unread      int    // bytes of input that it left behind
	Whole       bool   // Read ends where a message ends
}

// playProcess plays the process at end 2: it writes one pattern and compares what
// it reads with the other, in pieces of random sizes.
func playProcess(role *crashRole) error {
	var stop atomic.Bool
	go func() {
		var b [1]byte
		_, _ = unix.Read(role.Stop, b[:])
		stop.Store(true)
	}()
	var report processReport
	var done [2]chan error
	for i, play := range []func(*crashRole, *atomic.Bool, *processReport) error{processWrites, processReads} {
		done[i] = make(chan error, 1)
		go func() { done[i] <- play(role, &stop, &report) }()
	}
	if err := errors.Join(<-done[0], <-done[1]); err != nil {
		return err
	}
	for role.Scene.Leave { // when there is something to leave unread, and nobody is sending more:
		// a send that meets the end of the process may take the reset from the reader.
		n, _ := unix.IoctlGetInt(role.Read, unix.TIOCINQ)
		if n > 0 && n == report.Unread {
			break
		}
		report.Unread = n
		_, _ = unix.Poll(nil, 15)
	}
	return json.NewEncoder(os.Stdout).Encode(report)
}

// pieces are the sizes in which the process reads and writes.
func piece(rng *uint64) int {
	*rng = mix(*rng)
	switch v := int(*rng >> 33); *rng % 8 {
	case 0, 1, 2:
		return 1 + v%16
	case 3, 4, 5:
		return 1 + v%5000
	default:
		return 1 + v%60_000
	}
}

func processWrites(role *crashRole, stop *atomic.Bool, report *processReport) error {
	p, err := newPattern(&role.Scene, role.Seed+1)
	if err != nil {
		return err
	}
	s, rng := patternStream{pattern: p}, role.Seed+uint64(unix.Getpid())
	for !stop.Load() || !s.whole() {
		b := s.take(piece(&rng))
		for len(b) > 0 {
			n, err := unix.Write(role.Write, b)
			switch {
			case err == unix.EINTR:
				continue
			case role.Scene.Discard && (err == unix.EPIPE || err == unix.ECONNRESET):
				return nil
			case err != nil:
				return fmt.Errorf("process: write: %w", err)
			}
			report.Wrote += uint64(n)
			b = b[n:]
		}
	}
	report.Messages = s.next
	if isRaw(p.cut) {
		report.Messages = report.Wrote
	}
	if role.Scene.Leave {
		return nil
	}
	if role.Read == role.Write {
		return unix.Shutdown(role.Write, unix.SHUT_WR)
	}
	return unix.Close(role.Write)
}

func processReads(role *crashRole, stop *atomic.Bool, report *processReport) error {
	p, err := newPattern(&role.Scene, role.Seed)
	if err != nil {
		return err
	}
	s, rng := patternStream{pattern: p}, role.Seed+uint64(unix.Getpid())*3
	buf := make([]byte, 64<<10)
	for !role.Scene.Leave || !stop.Load() {
		n, err := unix.Read(role.Read, buf[:piece(&rng)])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECONNRESET && role.Scene.Discard:
			continue // what is behind it comes yet
		case err != nil:
			return fmt.Errorf("process: read: %w", err)
		case n == 0:
			report.Whole = s.whole()
			return nil
		}
		for got := buf[:n]; len(got) > 0; {
			want := s.take(len(got))
			if string(got[:len(want)]) != string(want) {
				return fmt.Errorf("process: wrong bytes after %d (message %d): got %.40q, want %.40q", report.Read, s.next, got[:len(want)], want)
			}
			got = got[len(want):]
			report.Read += uint64(len(want))
		}
	}
	return nil
}
