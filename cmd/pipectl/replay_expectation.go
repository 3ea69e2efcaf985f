package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/piped-dev/piped/client"
)

// excerptSize is how many bytes of each side are shown of a difference.
const excerptSize = 40

// An expectation compares what comes out of an end with a recording, in pieces
// that need not have been cut at the same places.
type expectation struct {
	recording *recordingFile
	events    *client.RecordingReader
	r         *client.Reader
	raw       bool

	// want is what was recorded and got what came, as far as it is not compared.
	want, got side
	// compared counts the bytes of the message, or in raw all bytes.
	compared uint64
}

// side is the rest of a message.
type side struct {
	client.Message
	// last says that nothing of the message follows.
	last bool
}

func (s *side) take(m client.Message, raw bool) {
	s.Message, s.last = m, !raw && !m.More
}

// errNoMore says that the recording has no more to compare with.
var errNoMore = errors.New("no more is recorded")

// newExpectation becomes the consumer of the end. run must follow.
func newExpectation(ctx context.Context, e *client.Endpoint, recording *recordingFile) (*expectation, error) {
	events, err := recording.events()
	if err != nil {
		return nil, err
	}
	r, err := e.NewReader(ctx, client.ReaderOptions{ReconnectFor: comeBackFor})
	if err != nil {
		return nil, err
	}
	header := events.Header()
	if header.Raw(client.RecordedOut) != r.Raw() {
		err := fmt.Errorf("%s was recorded with framing %q, and only one of it and %v is raw", recording.name, header.FramingOut.Name, e.Ref())
		return nil, firstError(err, r.Close(ctx))
	}
	return &expectation{recording: recording, events: events, r: r, raw: r.Raw()}, nil
}

// run compares until the recording has no more. What was equal is acknowledged.
func (x *expectation) run(ctx context.Context) error {
	err := x.compare(ctx)
	if errors.Is(err, errNoMore) {
		err = nil
	}
	return firstError(err, x.r.Close(ctx))
}

func (x *expectation) compare(ctx context.Context) error {
	for {
		if err := x.fill(ctx); err != nil {
			return err
		}
		n := min(len(x.want.Data), len(x.got.Data))
		switch {
		case len(x.want.Data) == 0 && len(x.got.Data) == 0:
			if x.want.Partial != x.got.Partial || x.want.Truncated != x.got.Truncated {
				return x.differs("how it ends")
			}
			if err := x.r.Ack(x.got.After); err != nil {
				return err
			}
			x.want, x.got, x.compared = side{}, side{}, 0
			continue
		case n == 0, !bytes.Equal(x.want.Data[:n], x.got.Data[:n]):
			for n > 0 && x.want.Data[0] == x.got.Data[0] {
				x.advance(1)
			}
			return x.differs(fmt.Sprintf("byte %d", x.compared+1))
		}
		x.advance(n)
		if x.raw && len(x.got.Data) == 0 {
			if err := x.r.Ack(x.got.After); err != nil {
				return err
			}
		}
	}
}

func (x *expectation) advance(n int) {
	x.want.Data, x.got.Data = x.want.Data[n:], x.got.Data[n:]
	x.compared += uint64(n)
}

// fill brings bytes to both sides, except where a message is over.
func (x *expectation) fill(ctx context.Context) error {
	for len(x.want.Data) == 0 && !x.want.last {
		event, err := x.next()
		if err != nil {
			return err
		}
		if event.End != nil {
			return x.end(ctx)
		}
		if event.Message != nil {
			x.want.take(*event.Message, x.raw)
		}
	}
	for len(x.got.Data) == 0 && !x.got.last {
		m, err := x.r.NextPart(ctx)
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the end came (%s), and the recording goes on with %s", endText(x.r.End()), x.want.text())
		}
		if err != nil {
			return err
		}
		x.got.take(m, x.raw)
	}
	return nil
}

// next returns the next event of what came out.
func (x *expectation) next() (client.RecordingEvent, error) {
	for {
		event, err := x.events.Next()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, client.ErrRecordingCut):
			return event, errNoMore
		case err != nil || event.Direction == client.RecordedOut:
			return event, err
		}
	}
}

// end expects the end.
func (x *expectation) end(ctx context.Context) error {
	if len(x.got.Data) == 0 {
		m, err := x.r.NextPart(ctx)
		if errors.Is(err, io.EOF) {
			return errNoMore
		}
		if err != nil {
			return err
		}
		x.got.take(m, x.raw)
	}
	return fmt.Errorf("the recording ends, and there came %s", x.got.text())
}

// differs says what is different at the place that was reached.
func (x *expectation) differs(where string) error {
	if !x.raw {
		where = fmt.Sprintf("message %d, %s", x.want.Position.Message, where)
	}
	return fmt.Errorf("what came differs from the recording in %s: %s instead of %s", where, x.got.text(), x.want.text())
}

// text shows the rest of a side.
func (s *side) text() string {
	data, more := s.Data, !s.last
	if len(data) > excerptSize {
		data, more = data[:excerptSize], true
	}
	text := strconv.Quote(string(data))
	switch {
	case more:
		text += "…"
	case s.Truncated:
		text += " (cut off)"
	case s.Partial:
		text += " (without a newline)"
	}
	return text
}
