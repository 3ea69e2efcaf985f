package exact

import (
	"fmt"
	"math"

	"github.com/anishathalye/porcupine"
)

// What the model knows of one direction: an append-only log, who may append to
// it, and whether it is closed. Every state is a value.
type logState struct {
	// log is the messages in order, as tokens of messageToken.
	log string
	// holder has the lease under epoch; stream is the one through which it may
	// append.
	holder, epoch, stream int
	closed                bool
}

// tokenSize is the length of a message in logState.log.
const tokenSize = 3

// messageToken is message number of a writer.
func messageToken(writer, number int) string {
	return string([]byte{byte(writer), byte(number >> 8), byte(number)})
}

// count returns how many messages of a writer are in the log.
func (s logState) count(writer int) int {
	n := 0
	for i := 0; i < len(s.log); i += tokenSize {
		if s.log[i] == byte(writer) {
			n++
		}
	}
	return n
}

// The operations of a history.
type (
	// An opOpen takes the lease from whoever has it.
	opOpen struct {
		writer, stream int
		// closed: it was refused, because the direction is closed; lost: it took the
		// lease and lost it before it was answered. Else epoch and expected are what
		// the answer said.
		closed, lost    bool
		epoch, expected int
	}
	// An opSend sends one message.
	opSend struct {
		writer, stream, number int
		outcome                outcome
	}
	// An opRecv receives what stands at an index, or the end.
	opRecv struct {
		index int
		token string
		end   bool
	}
	// An opClose closes the direction.
	opClose struct{}
)

// An outcome is what a sender learned about a message.
type outcome int

const (
	acknowledged outcome = iota // it is in the log
	fenced                      // the lease was lost; the message may have been faster
	shut                        // the direction is closed; likewise
	unknown                     // the stream was cut
)

// logModel is the specification of one direction.
var logModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{logState{}} },
	Step: func(state, input, _ any) []any {
		s := state.(logState)
		switch op := input.(type) {
		case opOpen:
			return op.step(s)
		case opSend:
			return op.step(s)
		case opRecv:
			return op.step(s)
		case opClose:
			s.closed = true
			return []any{s}
		}
		return nil
	},
	Equal:             func(a, b any) bool { return a == b },
	DescribeOperation: func(input, _ any) string { return fmt.Sprintf("%T%+q", input, input) },
}).ToModel()

func (op opOpen) step(s logState) []any {
	if op.closed {
		return legal(s, s.closed)
	}
	if op.lost {
		again, anew := s.holder == op.writer, s
		anew.holder, anew.epoch, anew.stream = op.writer, s.epoch+1, op.stream
		s.stream = op.stream
		return append(legal(s, again), anew)
	}
	// The same holder keeps its lease, or gets it anew after it ended. The lease
	// of a closed direction is worth nothing.
	again := s.holder == op.writer && op.epoch == s.epoch
	ok := (again || op.epoch == s.epoch+1) && op.expected == s.count(op.writer)+1
	s.holder, s.epoch, s.stream = op.writer, op.epoch, op.stream
	return legal(s, ok)
}

func (op opSend) step(s logState) []any {
	mine := s.stream == op.stream && s.holder == op.writer
	after, could := s, false
	switch have := s.count(op.writer); {
	case s.closed || !mine:
	case op.number <= have: // it is acknowledged again, and not written
		could = true
	case op.number == have+1:
		after.log, could = s.log+messageToken(op.writer, op.number), true
	}
	next := legal(after, could)
	switch op.outcome {
	case fenced:
		next = append(next, legal(s, !mine)...)
	case shut:
		next = append(next, legal(s, s.closed)...)
	case unknown:
		next = append(next, s)
	}
	return next
}

func (op opRecv) step(s logState) []any {
	at := op.index * tokenSize
	if op.end {
		return legal(s, s.closed && len(s.log) == at)
	}
	return legal(s, len(s.log) >= at+tokenSize && s.log[at:at+tokenSize] == op.token)
}

// legal returns the next states of a step that may be taken or not.
func legal(s logState, ok bool) []any {
	if !ok {
		return nil
	}
	return []any{s}
}

// forever is when an operation returns of which nobody learned how it ended.
const forever = math.MaxInt64
