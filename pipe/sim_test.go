//go:build failpoints

package pipe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"testing"

	"github.com/piped-dev/piped/failpoint"
)

// A sim runs the real moves of one direction on a simulated kernel, along a
// schedule: one letter for each step, which is what the process or the clients do,
// or the daemon's next call of the kernel or store to shared memory, or its death.
type sim struct {
	simWay
	k        *simKernel
	mutant   string
	schedule []byte
	at       int
	quiet    bool   // the daemon runs alone
	busy     bool   // the daemon is inside of something
	trace    []byte // what it did there
	before   []byte // how things were when it began
	options  []byte // when the schedule is over

	in  *Inbox
	out *Outbox

	// What the clients were told: inbox offsets they tried to acknowledge and did,
	// outbox offsets they tried to send up to and did; and what the process has read.
	tried, told, read uint64
}

// A simWay is what is simulated.
type simWay struct {
	name         string
	socket, send bool
	drop         bool
	tail         uint64
}

var simWays = []simWay{
	{name: "socket-in", socket: true},
	{name: "socket-in-tail", socket: true, tail: 2000},
	{name: "socket-in-drop", socket: true, drop: true},
	{name: "pipe-in"},
	{name: "pipe-in-drop", drop: true},
	{name: "socket-out", socket: true, send: true},
	{name: "socket-out-tail", socket: true, send: true, tail: 2000},
	{name: "pipe-out", send: true},
}

// The steps.
const (
	stepGoOn   = 'c' // the daemon goes on to its next call or store
	stepCrash  = 'x'
	stepMove   = 'd' // the daemon begins to receive, or to hand over
	stepClient = 'a' // a client acknowledges everything, or sends a line
	stepSome   = 's' // a client acknowledges a line, or sends three
	stepOne    = '1' // the process writes or reads a unit
	stepTwo    = '2'
	stepThree  = '3'
	stepClose  = 'e' // the process closes
	stepReset  = 'r' // and leaves input unread
)

type (
	simCrash struct{}
	simStop  struct{}
	simBad   struct{ err error }
)

func bad(format string, args ...any) { panic(simBad{fmt.Errorf(format, args...)}) }

// choose takes the next step of the schedule; where that is over it stops.
func (s *sim) choose(options []byte) byte {
	if s.at == len(s.schedule) {
		s.options = options
		panic(simStop{})
	}
	s.at++
	return s.schedule[s.at-1]
}

// saw adds to what the daemon did since it began.
func (s *sim) saw(what string, numbers ...uint64) {
	if !s.quiet {
		s.trace = appendNumbers(append(s.trace, what...), numbers...)
	}
}

// yield is an instant between two calls or stores of the daemon: others may act,
// and it may die.
func (s *sim) yield(name string) {
	if s.quiet {
		return
	}
	s.saw(name)
	for {
		switch c := s.choose(append([]byte{stepGoOn, stepCrash}, s.processSteps(stepTwo)...)); c {
		case stepGoOn:
			return
		case stepCrash:
			panic(simCrash{})
		default:
			s.process(c)
		}
	}
}

// processSteps are what the process can do.
func (s *sim) processSteps(sizes ...byte) (steps []byte) {
	for _, c := range sizes {
		if s.send && s.k.queued() > 0 && !s.k.closed || !s.send && s.k.canWrite(uint64(c-'0')) {
			steps = append(steps, c)
		}
	}
	if !s.k.closed {
		steps = append(steps, stepClose)
		if s.socket && !s.send {
			steps = append(steps, stepReset)
		}
	}
	return steps
}

func (s *sim) process(c byte) {
	switch {
	case c == stepClose || c == stepReset:
		s.k.hangup(c == stepReset)
	case s.send:
		got := s.k.readOut(uint64(c-'0') * simUnit)
		if want := simPattern[s.read:][:len(got)]; string(got) != string(want) {
			bad("the process reads something else from %d on", s.read)
		}
		s.read += uint64(len(got))
	default:
		s.k.put += uint64(c-'0') * simUnit
	}
}

// boot recovers what is there.
func (s *sim) boot() {
	spec := Spec{LogSize: simLimit, TailSize: s.tail, MaxMessage: 1 << 20}
	if s.drop {
		spec.Overflow = DropOldest
	}
	rec, desc, framing := newRecord(s.k.page), simDescriptor(s.socket), Framing{Name: "line"}
	var err error
	if s.send {
		if s.out, err = newOutbox(desc, framing, &spec, rec, func(bool) {}); err == nil {
			s.out.port = &simPort{s.k, s}
			err = s.out.recover(simSpace{s.k})
		}
	} else {
		if s.in, err = newInbox(desc, framing, &spec, rec); err == nil {
			s.in.port = &simPort{s.k, s}
			err = s.in.recover(simSpace{s.k})
		}
	}
	if err != nil {
		bad("recovery: %w", err)
	}
	s.settled()
}

// alive runs f and reports whether the daemon survived it.
func (s *sim) alive(f func()) (alive bool) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case simCrash:
			alive = false
		default:
			panic(p)
		}
	}()
	f()
	return true
}

// begin notes how things are when the daemon begins something.
func (s *sim) begin() {
	s.before, s.trace, s.busy = s.state(s.before[:0]), s.trace[:0], true
}

// run follows the schedule to its end.
func (s *sim) run() {
	s.quiet = true
	s.boot()
	s.quiet = false
	for {
		s.busy = false
		alive := true
		switch c := s.choose(s.steps()); c {
		case stepCrash:
			alive = false
		case stepMove:
			s.begin()
			alive = s.alive(s.move)
		case stepClient, stepSome:
			s.begin()
			alive = s.alive(func() { s.client(c) })
		default:
			s.process(c)
		}
		for !alive {
			s.in, s.out = nil, nil
			s.begin()
			alive = s.alive(s.boot)
		}
		s.settled()
	}
}

// steps are what can happen while the daemon waits.
func (s *sim) steps() []byte {
	steps := append(s.processSteps(stepOne, stepTwo, stepThree), stepCrash, stepMove)
	if s.send && s.tried+3*simLine > simTotal-4*simUnit {
		return steps
	}
	if !s.drop {
		steps = append(steps, stepClient, stepSome)
	}
	return steps
}

func (s *sim) move() {
	if s.send {
		s.hand()
		return
	}
	in := s.in
	if in.end != nil || !in.roomLocked() {
		return
	}
	var err error
	switch s.mutant {
	case "publish-after-consume":
		err = receivePublishingLast(in)
	case "no-note":
		err = receiveWithoutNote(in)
	default:
		err = in.receive()
	}
	if err != nil && !errors.Is(err, errAgain) {
		bad("receive: %w", err)
	}
}

// hand is Push, as far as one call of the kernel goes.
func (s *sim) hand() {
	o := s.out
	if o.end != nil || o.head.off == o.given.off {
		return
	}
	o.draining = true
	run := o.runLocked()
	n, err := o.hand(run)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.handedOverLocked(&run, n, err)
	o.draining = false
}

// client sends, or acknowledges.
func (s *sim) client(c byte) {
	if s.send {
		lines := 1
		if c == stepSome {
			lines = 3
		}
		for range lines {
			s.sendLine()
		}
		return
	}
	to := s.in.head
	if c == stepSome {
		to = s.in.acked
		to.message(s.in.cut, &s.in.log, ^uint64(0), s.in.head.off, nil)
	}
	s.tried = max(s.tried, to.off)
	if s.mutant == "checkpoint-after-release" {
		ackReleasingFirst(s.in, to)
	} else if err := s.in.Ack(to.position()); err != nil {
		bad("acknowledging: %w", err)
	}
	s.told = max(s.told, to.off)
}

func (s *sim) sendLine() {
	line := simPattern[s.told:][:simLine]
	s.tried = s.told + simLine
	if s.mutant == "acknowledge-before-commit" {
		s.told = s.tried
	}
	switch err := s.out.Append(Part{Data: line[:simLine-1]}); {
	case err == nil:
		s.told = s.tried
	case errors.Is(err, ErrNoRoom), errors.Is(err, ErrBrokenPipe):
		s.tried = s.told
	default:
		bad("sending: %w", err)
	}
}

// state describes everything that decides what can come.
func (s *sim) state(b []byte) []byte {
	k := s.k
	b = appendNumbers(b, k.taken, k.put, k.peek, truth(k.closed, k.left, k.everReset), k.position, k.punched, uint64(len(k.detached)), s.tried, s.told, s.read)
	b = append(b, k.page[:32+2*checkpointSize]...)
	switch {
	case s.in != nil:
		in := s.in
		b = appendDirection(b, &in.direction)
		b = appendPlace(b, &in.acked)
		b = appendNumbers(b, in.drops.Messages, in.drops.Bytes, truth(in.lost != nil, in.tailOpen))
	case s.out != nil:
		b = appendDirection(b, &s.out.direction)
		b = appendPlace(b, &s.out.given)
	}
	return b
}

func appendDirection(b []byte, d *direction) []byte {
	b = appendPlace(appendPlace(b, &d.base), &d.head)
	l := &d.log
	return appendNumbers(b, d.lastEnd, truth(d.end != nil), l.end, l.allocated, l.released, l.next, d.rec.seq, uint64(d.rec.newest))
}

func appendPlace(b []byte, p *place) []byte {
	return appendNumbers(b, p.off, p.num, p.pay, truth(p.st.held))
}

func appendNumbers(b []byte, numbers ...uint64) []byte {
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

func truth(bits ...bool) (n uint64) {
	for _, bit := range bits {
		n <<= 1
		if bit {
			n |= 1
		}
	}
	return n
}

var simSeed = maphash.MakeSeed()

// key identifies the state in which the schedule ended.
func (s *sim) key() uint64 {
	b := s.state(nil)
	if s.busy {
		b = append(append(append(b, s.before...), s.trace...), '|')
	}
	return maphash.Bytes(simSeed, b)
}

// explore runs a schedule, and, if it leads to a state that was not seen before,
// brings that to an end without further deaths.
func explore(way simWay, mutant string, schedule []byte, seen map[uint64]bool) (options []byte, err error) {
	s := &sim{simWay: way, k: newSimKernel(way.socket, way.send), mutant: mutant, schedule: schedule}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case simBad:
			err = fmt.Errorf("schedule %s: %w", schedule, p.err)
		default:
			panic(p)
		}
	}()
	failpoint.Hook = s.yield
	defer func() { failpoint.Hook = nil }()
	s.stopped(s.run)
	key := s.key()
	if seen[key] {
		return nil, nil
	}
	seen[key] = true
	options = s.options
	s.quiet = true
	if s.busy { // as if it died here
		s.in, s.out = nil, nil
		s.boot()
	}
	s.finish()
	return options, nil
}

func (s *sim) stopped(f func()) {
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(simStop); !ok {
				panic(p)
			}
		}
	}()
	f()
}

// A simCount is what an enumeration went through.
type simCount struct{ states, schedules, crashes int }

// enumerate goes through all schedules of up to depth steps.
func enumerate(way simWay, mutant string, depth int) (n simCount, err error) {
	seen := make(map[uint64]bool)
	frontier := [][]byte{nil}
	for d := 0; d <= depth && len(frontier) > 0; d++ {
		var next [][]byte
		for _, schedule := range frontier {
			n.schedules++
			if d > 0 && schedule[d-1] == stepCrash {
				n.crashes++
			}
			options, err := explore(way, mutant, schedule, seen)
			if err != nil {
				return n, err
			}
			for _, c := range options {
				next = append(next, append(schedule[:d:d], c))
			}
		}
		frontier = next
	}
	n.states = len(seen)
	return n, nil
}

func simDepth() int {
	if long {
		return 22
	}
	return 16
}

func TestSimulatedEveryCrashPointOfEverySchedule(t *testing.T) {
	var all simCount
	for _, way := range simWays {
		n, err := enumerate(way, "", simDepth())
		if err != nil {
			t.Errorf("%s: %v", way.name, err)
			continue
		}
		t.Logf("way=%s states=%d schedules=%d crash_points=%d violations=0", way.name, n.states, n.schedules, n.crashes)
		all.states, all.schedules, all.crashes = all.states+n.states, all.schedules+n.schedules, all.crashes+n.crashes
	}
	t.Logf("steps=%d states=%d schedules=%d crash_points=%d violations=0", simDepth(), all.states, all.schedules, all.crashes)
}

// simMutants are wrong orders, and on what they show.
var simMutants = []struct{ name, way string }{
	{"read-then-store", "socket-in"},
	{"read-then-store", "pipe-in"},
	{"publish-after-consume", "socket-in"},
	{"no-note", "socket-in"},
	{"ignore-peek-offset", "socket-in"},
	{"reset-not-recorded", "socket-in"},
	{"checkpoint-after-release", "socket-in"},
	{"checkpoint-after-release", "pipe-in"},
	{"write-then-record", "socket-out"},
	{"record-then-write", "pipe-out"},
	{"acknowledge-before-commit", "socket-out"},
}

func TestSimulatedMutantsAreFound(t *testing.T) {
	for _, mutant := range simMutants {
		i := slices.IndexFunc(simWays, func(w simWay) bool { return w.name == mutant.way })
		_, err := enumerate(simWays[i], mutant.name, 16)
		if err == nil {
			t.Errorf("mutant %s was not found on %s", mutant.name, mutant.way)
		}
		t.Logf("mutant=%s way=%s found=%q", mutant.name, mutant.way, err)
	}
}
