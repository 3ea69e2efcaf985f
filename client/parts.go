package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// UnknownSize as the size given to SendReader means that the reader's end is the
// message's end. Framings that write the length first ("mp") refuse it for a message above
// the part size.
const UnknownSize = -1

// parts cuts what a reader brings into the parts of one message.
type parts struct {
	source *bufio.Reader
	size   int
	// have is where the next part begins, total the size of the message or
	// UnknownSize.
	have, total int64
}

func newParts(msg []byte, partSize int) *parts {
	return readParts(bytes.NewReader(msg), int64(len(msg)), partSize)
}

func readParts(r io.Reader, total int64, partSize int) *parts {
	if total >= 0 {
		r = io.LimitReader(r, total)
	}
	// One byte more than a part tells whether it is the last.
	return &parts{source: bufio.NewReaderSize(r, partSize+1), size: partSize, total: total}
}

// next returns the next part, valid until the next call, and whether more of the
// message follows.
func (p *parts) next() (part []byte, more bool, err error) {
	part, err = p.source.Peek(p.size + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	if len(part) > p.size {
		part, more = part[:p.size], true
	}
	if !more && p.total >= 0 && p.have+int64(len(part)) != p.total {
		return nil, false, fmt.Errorf("message of %d bytes ends after %d: %w", p.total, p.have+int64(len(part)), io.ErrUnexpectedEOF)
	}
	p.have += int64(len(part))
	return part, more, nil
}

// advance makes room for the part after the one that next returned.
func (p *parts) advance(n int) error {
	_, err := p.source.Discard(n)
	return err
}

// SendReader sends all of r as one message of size bytes, or up to its end with
// UnknownSize, and holds no more than two parts of it in memory. In the framing
// "raw" it sends bytes as they come. When r or ctx fails after a part was sent,
// the message stays unfinished: see Unfinished and Continue.
func (w *Writer) SendReader(ctx context.Context, r io.Reader, size int64) error {
	if w.raw {
		return w.copyFrom(ctx, r, size)
	}
	return w.sendParts(ctx, readParts(r, size, w.partSize))
}

// Continue sends the rest of an unfinished message: rest begins at the offset
// Unfinished().Have, and brings the missing bytes.
func (w *Writer) Continue(ctx context.Context, rest io.Reader) error {
	w.mu.Lock()
	unfinished := w.unfinished
	w.mu.Unlock()
	if unfinished == nil {
		return errors.New("no message is unfinished")
	}
	p := readParts(rest, UnknownSize, w.partSize)
	if total := int64(unfinished.GetTotal()); total > 0 {
		p = readParts(rest, total-int64(unfinished.GetHave()), w.partSize)
		p.total = total
	}
	p.have = int64(unfinished.GetHave())
	return w.sendParts(ctx, p)
}

// sendParts sends one message, each part a batch of its own, while other senders
// wait.
func (w *Writer) sendParts(ctx context.Context, p *parts) error {
	if err := w.lockWhen(ctx, func() bool { return !w.inParts }); err != nil {
		return err
	}
	if p.have == 0 {
		if err := w.finishedLocked(); err != nil {
			w.mu.Unlock()
			return err
		}
	}
	w.inParts = true
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.inParts = false
		w.changedLocked()
		w.mu.Unlock()
	}()
	for {
		part, more, err := p.next()
		if err != nil {
			return err
		}
		if err := w.sendPart(ctx, part, more, max(p.total, 0), uint64(p.have)); err != nil {
			return err
		}
		if !more {
			return nil
		}
		if err := p.advance(len(part)); err != nil {
			return err
		}
	}
}

// sendPart puts one part in line. have is how much of the message there is with
// this part.
func (w *Writer) sendPart(ctx context.Context, part []byte, more bool, total int64, have uint64) error {
	if err := w.lockWhen(ctx, func() bool { return w.pending.empty() && w.roomLocked(len(part)) }); err != nil {
		return err
	}
	defer w.mu.Unlock()
	w.appendLocked(part)
	w.unfinished = nil
	if more {
		w.next = w.pending.first.after(len(part), false, true)
		w.pending.end = w.next
		w.unfinished = &pipedv1.UnfinishedMessage{Have: have, Total: uint64(total)}
	}
	w.pending.part, w.pending.more = true, more
	if more || w.pending.first.Offset > 0 {
		w.pending.total = uint64(total)
	}
	return nil
}

// copyFrom sends bytes that have no frames as they come.
func (w *Writer) copyFrom(ctx context.Context, r io.Reader, size int64) error {
	if size >= 0 {
		r = io.LimitReader(r, size)
	}
	buf := make([]byte, 64<<10)
	var sent int64
	for {
		n, err := r.Read(buf)
		if sendErr := w.sendBytes(ctx, buf[:n]); sendErr != nil {
			return sendErr
		}
		sent += int64(n)
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF):
			return err
		case size >= 0 && sent != size:
			return fmt.Errorf("message of %d bytes ends after %d: %w", size, sent, io.ErrUnexpectedEOF)
		default:
			return nil
		}
	}
}
