package client

import (
	"cmp"
	"fmt"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A Position is a boundary in one direction of a pipe: every message below
// Message lies before it, and of Message itself the first Offset payload bytes.
// In the framing "raw" each byte is a message and Offset is 0.
type Position struct {
	// Incarnation of the pipe; 0 in a request means the current one.
	Incarnation uint64
	// Message is a message number; the first is 1.
	Message uint64
	// Offset counts payload bytes inside that message.
	Offset uint64
}

// Compare orders positions of one incarnation: negative, zero or positive as p
// lies before, at or after q.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Message, q.Message), cmp.Compare(p.Offset, q.Offset))
}

// String returns "MESSAGE" or "MESSAGE+OFFSET".
func (p Position) String() string {
	if p.Offset == 0 {
		return fmt.Sprint(p.Message)
	}
	return fmt.Sprintf("%d+%d", p.Message, p.Offset)
}

// after returns the position behind n bytes that begin at p. In raw every byte
// is a message; otherwise they end the message unless more of it comes.
func (p Position) after(n int, raw, more bool) Position {
	switch {
	case raw:
		p.Message += uint64(n)
	case more:
		p.Offset += uint64(n)
	default:
		p.Message, p.Offset = p.Message+1, 0
	}
	return p
}

func (p Position) proto() *pipedv1.Position {
	return &pipedv1.Position{Incarnation: p.Incarnation, Message: p.Message, Offset: p.Offset}
}

func positionOf(p *pipedv1.Position) Position {
	return Position{Incarnation: p.GetIncarnation(), Message: p.GetMessage(), Offset: p.GetOffset()}
}
