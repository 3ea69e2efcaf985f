package pipe

import "fmt"

// A Position is a boundary in a direction: every message below Message lies
// before it, and of Message itself the first Offset payload bytes. The first
// message is 1. In the framing raw every byte counts as one message, and Offset
// is 0.
type Position struct {
	Message uint64
	Offset  uint64
}

// Before reports whether p lies before q.
func (p Position) Before(q Position) bool {
	return p.Message < q.Message || p.Message == q.Message && p.Offset < q.Offset
}

// String returns "message" or "message+offset".
func (p Position) String() string {
	if p.Offset == 0 {
		return fmt.Sprint(p.Message)
	}
	return fmt.Sprintf("%d+%d", p.Message, p.Offset)
}

// A Batch is a run of consecutive messages, or one part of a large message.
type Batch struct {
	First Position
	// Data holds the payloads one after another, each with Prefix bytes before
	// and Suffix bytes after it.
	Data []byte
	// Sizes are the payload sizes; empty means that Data is one message, or in
	// raw a run of bytes.
	Sizes          []uint32
	Prefix, Suffix int
	// More, Partial and Truncated speak of the last message: it goes on in the
	// next batch; it is a line without its newline; it was cut by the end.
	More, Partial, Truncated bool
	// Total is the payload size of a message that comes in parts, 0 where the
	// framing does not say.
	Total uint64
	// Next is the position after the batch.
	Next Position
}

// A Gap is what a reader has missed.
type Gap struct{ From, To Position }

// An End is the last word about a direction.
type End struct {
	Cause EndCause
	// Position after the last message, or inside the one that was cut.
	Position Position
	// Bytes of the direction, framing included.
	Bytes uint64
	// Detail is for people; empty for a plain end.
	Detail string
	// Want and Got are the payload sizes of a truncated frame, or Want the
	// announced size of one over the limit.
	Want, Got uint64
}

// EndCause is why a direction ended.
type EndCause uint8

// The causes of an end.
const (
	// CauseClosed: the last copy of the other end was closed or half-closed.
	CauseClosed EndCause = iota + 1
	// CauseReset: as closed, and the other end left input unread.
	CauseReset
	// CauseTruncated: the end came inside a frame.
	CauseTruncated
	// CauseBadFrame: bytes that cannot be a frame.
	CauseBadFrame
	// CauseOverLimit: a frame larger than the direction allows.
	CauseOverLimit
	// CauseEndpointClosed: the daemon closed the end.
	CauseEndpointClosed
	// CauseBrokenPipe: the other end does not read any more (outbox only).
	CauseBrokenPipe
	// CauseAbandoned: somebody holds the other end, and a policy has given up waiting
	// (inbox only).
	CauseAbandoned
)

// badBytes reports whether the end is where bytes can be no frame: no descriptor
// knows of it.
func (c EndCause) badBytes() bool { return c == CauseBadFrame || c == CauseOverLimit }

var causeNames = [...]string{
	CauseClosed: "closed", CauseReset: "reset", CauseTruncated: "truncated", CauseBadFrame: "bad frame",
	CauseOverLimit: "frame over limit", CauseEndpointClosed: "endpoint closed", CauseBrokenPipe: "broken pipe", CauseAbandoned: "abandoned",
}

// String returns the cause in words.
func (c EndCause) String() string {
	if int(c) < len(causeNames) && causeNames[c] != "" {
		return causeNames[c]
	}
	return fmt.Sprintf("cause %d", c)
}
