//go:build failpoints

package pipe

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A simKernel is what outlives a daemon: one direction as the kernel and the
// shared memory have it. A unit is how much a process reads or writes in a step;
// pages are as large as they are, so that few steps fill and release them.
type simKernel struct {
	socket bool
	sends  bool // toward the process

	// received: what the process wrote and nobody took. Sent: what it has not read.
	// Both are [taken, put) of the stream.
	taken, put uint64
	peek       uint64
	closed     bool
	left       bool // a reset is pending
	everReset  bool
	position   uint64
	page       []byte // the record
	memory     []byte // the log; everything from punched on has memory
	punched    uint64
	detached   map[uint64][]byte // pages that were punched and are still queued
}

const (
	simUnit  = 1000
	simLine  = 1500
	simQueue = 6 * simUnit
	simLimit = 2 * pageSize
	simTotal = 16 * simUnit // no schedule moves more
)

// simMemory is reused: making a window anew for every schedule takes too long.
var simMemory = make([]byte, windowSize)

func newSimKernel(socket, sends bool) *simKernel {
	clear(simMemory[:2*simTotal])
	return &simKernel{socket: socket, sends: sends, page: make([]byte, recordSize), memory: simMemory, detached: make(map[uint64][]byte)}
}

// simPattern is what flows: lines.
var simPattern = func() []byte {
	b := make([]byte, simTotal)
	for i := range b {
		b[i] = byte('a' + (i*7+i>>9)%26)
		if i%simLine == simLine-1 {
			b[i] = '\n'
		}
	}
	return b
}()

// simLines is how many lines end below a stream offset.
func simLines(off uint64) uint64 { return off / simLine }

// A simSpace is the memory as a log sees it.
type simSpace struct{ k *simKernel }

func (s simSpace) window(uint64) ([]byte, error) { return s.k.memory, nil }
func (s simSpace) allocate(_, _ uint64) error    { return nil }
func (s simSpace) size() (uint64, error)         { return windowSize, nil }
func (s simSpace) close()                        {}
func (s simSpace) punch(from, to uint64) error   { return s.k.punch(from, to) }

func (k *simKernel) queued() uint64 { return k.put - k.taken }
func (k *simKernel) free() uint64   { return simQueue - k.queued() }

// canWrite reports whether the process can write so many units.
func (k *simKernel) canWrite(units uint64) bool {
	return !k.closed && units*simUnit <= k.free() && k.put+units*simUnit <= simTotal-4*simUnit
}

// hangup is the process going away.
func (k *simKernel) hangup(reset bool) { k.closed, k.left, k.everReset = true, reset, reset }

// punch clears pages; those that are queued live on for whoever reads them.
func (k *simKernel) punch(from, to uint64) error {
	for at := from; at < to; at += pageSize {
		if k.sends && at < k.put && at+pageSize > k.taken {
			if _, ok := k.detached[at]; !ok {
				k.detached[at] = append([]byte(nil), k.memory[at:at+pageSize]...)
			}
		}
	}
	clear(k.memory[from:min(to, windowSize)])
	k.punched = max(k.punched, to)
	return nil
}

// readOut is what the process reads: pages of the log, as they are now.
func (k *simKernel) readOut(n uint64) []byte {
	n = min(n, k.queued())
	b := make([]byte, n)
	for i := range b {
		at := k.taken + uint64(i)
		if page, ok := k.detached[at/pageSize*pageSize]; ok {
			b[i] = page[at%pageSize]
		} else {
			b[i] = k.memory[at]
		}
	}
	k.taken += n
	return b
}

// A simPort is a port to a simKernel. Every call is an instant at which others
// may act.
type simPort struct {
	k *simKernel
	s *sim
}

func (p *simPort) ready() (readable, reset bool) {
	readable, reset = p.k.queued() > 0 || p.k.closed, p.k.left
	p.s.saw("ready", truth(readable, reset))
	if p.s.mutant == "reset-not-recorded" {
		reset = false
	}
	if readable {
		p.s.yield("ready")
	}
	return readable, reset
}

func (p *simPort) peek(b []byte) (int, error) {
	k := p.k
	n := min(uint64(len(b)), k.queued()-min(k.peek, k.queued()))
	if n == 0 {
		return p.atEnd()
	}
	copy(b[:n], simPattern[k.taken+k.peek:])
	k.peek += n
	p.s.saw("peek", n)
	if p.s.mutant == "read-then-store" {
		k.taken, k.peek = k.taken+n, 0
	}
	return int(n), nil
}

func (p *simPort) atEnd() (int, error) {
	switch k := p.k; {
	case k.left:
		k.left = false
		p.s.saw("reset")
		return 0, unix.ECONNRESET
	case k.closed:
		p.s.saw("eof")
		return 0, nil
	}
	p.s.saw("again")
	return 0, unix.EAGAIN
}

// consume takes less than it is asked for, so that there is something between.
func (p *simPort) consume(n int) (int, error) {
	if p.s.mutant == "read-then-store" {
		return n, nil
	}
	took := min(uint64(n), 2*simUnit, p.k.queued())
	p.k.taken += took
	p.k.peek -= min(p.k.peek, took)
	p.s.saw("consume", took)
	return int(took), nil
}

func (p *simPort) peeked() (int, error) {
	if p.s.mutant == "ignore-peek-offset" {
		return 0, nil
	}
	return int(p.k.peek), nil
}

func (p *simPort) unpeek() error {
	p.k.peek = 0
	p.s.yield("unpeek")
	return nil
}

func (p *simPort) splice(n int) (int, error) {
	k := p.k
	took := min(uint64(n), k.queued(), 2*simUnit)
	if took == 0 {
		return p.atEnd()
	}
	b := simPattern[k.taken:][:took]
	k.taken += took
	if p.s.mutant == "read-then-store" {
		p.s.yield("read")
	}
	copy(k.memory[k.position:], b)
	k.position += took
	p.s.saw("splice", took)
	return int(took), nil
}

func (p *simPort) sendfile(n int) (int, error) {
	k := p.k
	took := min(uint64(n), k.free())
	switch {
	case k.closed:
		p.s.saw("broken")
		return 0, unix.EPIPE
	case took == 0:
		p.s.saw("again")
		return 0, unix.EAGAIN
	case p.s.mutant == "record-then-write":
		k.position += took
		p.s.yield("recorded")
		k.put += took
	case p.s.mutant == "write-then-record":
		k.put += took
		p.s.yield("wrote")
		k.position += took
	default:
		k.put, k.position = k.put+took, k.position+took
	}
	p.s.saw("sendfile", took)
	return int(took), nil
}

func (p *simPort) position() (uint64, error) { return p.k.position, nil }

// simDescriptor has no kernel behind it; all calls go through the port.
func simDescriptor(socket bool) *descriptor {
	d := bareDescriptor(-1, socket)
	d.logs = new(atomic.Int64)
	d.stopRead.ch, d.stopWrite.ch = make(chan struct{}), make(chan struct{})
	return d
}
