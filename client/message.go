package client

import pipedv1 "github.com/piped-dev/piped/gen/piped/v1"

// A Message is one message that was received, or a part of one, or in the
// framing "raw" a run of bytes whose cuts mean nothing.
type Message struct {
	// Position is where Data begins: the number of the message, and an offset
	// other than 0 when an earlier part was received before.
	Position Position
	// After is the position behind it, for Ack.
	After Position
	// Data is the payload. It belongs to the caller.
	Data []byte
	// TotalSize is the size of the whole message; 0 where it is not known.
	TotalSize uint64
	// More says that the message goes on in the next one received.
	More bool
	// Partial says that it is a line whose newline never came.
	Partial bool
	// Truncated says that the end of the direction cut it off.
	Truncated bool
	// Stray says that its bytes could not be a frame and are as they came.
	Stray bool
}

// unpacked walks through the messages of one batch.
type unpacked struct {
	batch *pipedv1.Batch
	raw   bool
	// at is the position of the next message, index its number in the batch, and
	// start where it begins in the data.
	at           Position
	index, start int
}

// empty says whether all messages were taken.
func (u *unpacked) empty() bool { return u.batch == nil }

// next takes the next message; there must be one.
func (u *unpacked) next() Message {
	sizes, data := u.batch.GetSizes(), u.batch.GetData()
	end, last := len(data), true
	if u.index < len(sizes) {
		end, last = min(u.start+int(sizes[u.index]), len(data)), u.index == len(sizes)-1
	}
	// The full slice expression keeps an append of the caller out of its
	// neighbour.
	m := Message{Position: u.at, Data: data[u.start:end:end]}
	if last {
		m.More, m.Partial, m.Truncated, m.Stray = u.batch.GetMore(), u.batch.GetPartial(), u.batch.GetTruncated(), u.batch.GetStray()
	}
	m.TotalSize = uint64(len(m.Data))
	if m.More || m.Position.Offset > 0 {
		m.TotalSize = u.batch.GetTotalSize()
	}
	m.After = u.at.after(len(m.Data), u.raw, m.More)
	u.at, u.index, u.start = m.After, u.index+1, end
	if last {
		u.batch = nil
	}
	return m
}
