package client

import pipedv1 "github.com/piped-dev/piped/gen/piped/v1"

// A Message is one message that was received, or a part of one, or in the
// framing "raw" a run of bytes whose cuts mean nothing.
type Message struct {
	// Position is where Data begins: the number of the message, and an offset
	// other than 0 when an earlier part was received before.
	Position Position
	// After is the position behind it, for Ack: inside the message where it goes
	// on, or was truncated, and otherwise where the next one begins.
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
	// skipped is how much of the next message was skipped.
	skipped int
}

// end returns the position behind the batch.
func (u *unpacked) end() Position {
	n, size := len(u.batch.GetSizes()), len(u.batch.GetData())
	if u.raw || n <= 1 {
		return u.at.after(size, u.raw, u.unfinished())
	}
	end := Position{Incarnation: u.at.Incarnation, Message: u.at.Message + uint64(n)}
	if u.unfinished() {
		end.Message, end.Offset = end.Message-1, uint64(u.batch.GetSizes()[n-1])
	}
	return end
}

// unfinished says whether the batch ends inside its last message.
func (u *unpacked) unfinished() bool { return u.batch.GetMore() || u.batch.GetTruncated() }

// skipTo drops what lies below a position: a new stream begins with what is not
// acknowledged, and the application has had some of that.
func (u *unpacked) skipTo(to Position) {
	if u.at.Compare(to) < 0 && u.end().Compare(to) <= 0 {
		u.batch = nil
		return
	}
	for u.at.Compare(to) < 0 {
		rest := *u
		m := rest.next()
		if m.After.Compare(to) <= 0 {
			*u = rest
			continue
		}
		skip := to.Offset - u.at.Offset
		if u.raw {
			skip = to.Message - u.at.Message
		}
		u.skipped = int(min(skip, uint64(len(m.Data))))
		u.start += u.skipped
		u.at = to
	}
}

// cutAt drops what lies at or above a position. Of a message in parts it keeps
// the part that is there.
func (u *unpacked) cutAt(to Position) {
	switch n := len(u.batch.GetSizes()); {
	case u.at.Compare(to) >= 0:
		u.batch = nil
	case u.end().Compare(to) <= 0:
	case u.raw:
		u.batch = &pipedv1.Batch{First: u.batch.GetFirst(), Data: u.batch.GetData()[:to.Message-u.at.Message]}
	case n > 1:
		// The marks belong to the last message, which is one of those that go.
		sizes := u.batch.GetSizes()[:max(to.Message-u.at.Message, 1)]
		total := 0
		for _, size := range sizes {
			total += int(size)
		}
		u.batch = &pipedv1.Batch{First: u.batch.GetFirst(), Data: u.batch.GetData()[:total], Sizes: sizes}
	}
}

// empty says whether all messages were taken.
func (u *unpacked) empty() bool { return u.batch == nil }

// next takes the next message; there must be one.
func (u *unpacked) next() Message {
	sizes, data := u.batch.GetSizes(), u.batch.GetData()
	end, last := len(data), true
	if u.index < len(sizes) {
		end, last = min(u.start+int(sizes[u.index])-u.skipped, len(data)), u.index == len(sizes)-1
	}
	// The full slice expression keeps an append of the caller out of its
	// neighbour.
	m := Message{Position: u.at, Data: data[u.start:end:end]}
	if last {
		m.More, m.Partial, m.Truncated, m.Stray = u.batch.GetMore(), u.batch.GetPartial(), u.batch.GetTruncated(), u.batch.GetStray()
	}
	m.TotalSize = uint64(len(m.Data))
	if m.More || m.Truncated || m.Position.Offset > 0 {
		m.TotalSize = u.batch.GetTotalSize()
	}
	m.After = u.at.after(len(m.Data), u.raw, m.More || m.Truncated)
	u.at, u.index, u.start, u.skipped = m.After, u.index+1, end, 0
	if last {
		u.batch = nil
	}
	return m
}
