package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/piped-dev/piped/client"
)

// A replayer sends what was recorded as sent.
type replayer struct {
	endpoint  *client.Endpoint
	recording *recordingFile
	opts      *replayOptions

	events *client.RecordingReader
	w      *client.Writer
	start  time.Time
}

func newReplayer(e *client.Endpoint, recording *recordingFile, opts *replayOptions) *replayer {
	return &replayer{endpoint: e, recording: recording, opts: opts}
}

// run returns when the daemon has everything.
func (r *replayer) run(ctx context.Context, contents *recordingContents) error {
	if !contents.sent {
		return nil
	}
	var err error
	if r.events, err = r.recording.events(); err != nil {
		return err
	}
	if r.w, err = r.endpoint.NewWriter(ctx, client.WriterOptions{ReconnectFor: comeBackFor}); err != nil {
		return err
	}
	header := r.events.Header()
	if header.Raw(client.RecordedIn) != r.w.Raw() {
		err := fmt.Errorf("%s was recorded with framing %q, and only one of it and %v is raw",
			r.recording.name, header.FramingIn.Name, r.endpoint.Ref())
		return firstError(err, r.w.Close(ctx))
	}
	r.start = time.Now()
	closing, err := r.send(ctx)
	if err := firstError(err, r.w.Close(ctx)); err != nil || !closing {
		return err
	}
	return r.endpoint.CloseSend(ctx)
}

// send sends all messages, and says whether the direction is to be closed.
func (r *replayer) send(ctx context.Context) (closing bool, err error) {
	for {
		event, err := r.next()
		if errors.Is(err, io.EOF) || errors.Is(err, client.ErrRecordingCut) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if err := r.wait(ctx, event.Time); err != nil {
			return false, err
		}
		switch {
		case event.End != nil:
			return closes(event.End) && !r.opts.keepOpen, nil
		case event.Message != nil:
			if err := r.message(ctx, event.Message); err != nil {
				return false, err
			}
		}
	}
}

// next returns the next event of what was sent.
func (r *replayer) next() (client.RecordingEvent, error) {
	for {
		event, err := r.events.Next()
		if err != nil || event.Direction == client.RecordedIn {
			return event, err
		}
	}
}

// wait waits until something is due that was recorded at a time.
func (r *replayer) wait(ctx context.Context, recorded time.Duration) error {
	left := time.Until(r.start.Add(r.opts.speed.due(recorded)))
	if left <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// message sends a message; one that was recorded in parts is sent without waiting
// between them.
func (r *replayer) message(ctx context.Context, m *client.Message) error {
	switch {
	case r.w.Raw() || !m.More && m.Position.Offset == 0:
		return r.w.Send(ctx, m.Data)
	case m.Position.Offset > 0:
		return fmt.Errorf("%s: the beginning of message %d is missing", r.recording.name, m.Position.Message)
	}
	size := int64(m.TotalSize)
	if size == 0 {
		size = client.UnknownSize
	}
	return r.w.SendReader(ctx, &recordedParts{r: r, m: m, rest: m.Data}, size)
}

// recordedParts reads a message that was recorded in parts.
type recordedParts struct {
	r *replayer
	// m is the part whose rest is to be read.
	m    *client.Message
	rest []byte
}

// Read reads the next bytes, and the next part when one is over.
func (p *recordedParts) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if !p.m.More {
			return 0, io.EOF
		}
		event, err := p.r.next()
		if err != nil || event.Message == nil || event.Message.Position != p.m.After {
			return 0, fmt.Errorf("%s: message %d goes on at %v, and that part is missing", p.r.recording.name, p.m.Position.Message, p.m.After)
		}
		p.m, p.rest = event.Message, event.Message.Data
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}
