package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A recordingFile is a recording that is read more than once, also at a time.
type recordingFile struct {
	name string
	file *os.File
	size int64
}

// openRecording opens a file. The caller closes it.
func openRecording(name string) (*recordingFile, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is read more than once, and must be a regular file", name)
	}
	if err != nil {
		return nil, firstError(err, file.Close())
	}
	return &recordingFile{name: name, file: file, size: info.Size()}, nil
}

func (r *recordingFile) close() error { return r.file.Close() }

// events returns a reader from the beginning.
func (r *recordingFile) events() (*client.RecordingReader, error) {
	reader, err := client.NewRecordingReader(io.NewSectionReader(r.file, 0, r.size))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.name, err)
	}
	return reader, nil
}

// recordingContents is what there is in a recording.
type recordingContents struct {
	// sent says that there is anything to send, a message or the end.
	sent bool
	// gapIn and gapOut are the first that is missing of each direction.
	gapIn, gapOut *client.GapError
	// broken is a message that was not sent as a whole.
	broken *client.Message
	// cut is set where the recording was cut off.
	cut error
}

// survey reads the whole recording.
func (r *recordingFile) survey() (*recordingContents, error) {
	events, err := r.events()
	if err != nil {
		return nil, err
	}
	contents := &recordingContents{}
	for {
		event, err := events.Next()
		switch {
		case errors.Is(err, client.ErrRecordingCut):
			contents.cut = err
			return contents, nil
		case errors.Is(err, io.EOF):
			return contents, nil
		case err != nil:
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
		contents.add(event)
	}
}

func (c *recordingContents) add(event client.RecordingEvent) {
	switch {
	case event.Direction == client.RecordedOut:
		if event.Gap != nil && c.gapOut == nil {
			c.gapOut = event.Gap
		}
	case event.Gap != nil:
		if c.gapIn == nil {
			c.gapIn = event.Gap
		}
	case event.Message != nil:
		c.sent = true
		if (event.Message.Partial || event.Message.Truncated || event.Message.Stray) && c.broken == nil {
			c.broken = event.Message
		}
	case event.End != nil:
		c.sent = c.sent || closes(event.End)
	}
}

// closes says whether a recorded end of what was sent is one that a client made.
func closes(end *pipedv1.End) bool {
	switch end.GetCause() {
	case pipedv1.EndCause_END_CAUSE_CLOSED, pipedv1.EndCause_END_CAUSE_ENDPOINT_CLOSED:
		return true
	default:
		return false
	}
}

// check says why a recording cannot be replayed.
func (c *recordingContents) check(opts *replayOptions) error {
	switch {
	case c.gapIn != nil:
		return fmt.Errorf("cannot send again what is missing: %w", c.gapIn)
	case c.broken != nil:
		return fmt.Errorf("cannot send message %v again, which was not whole", c.broken.Position)
	case opts.expect && c.gapOut != nil:
		return fmt.Errorf("cannot expect what is missing: %w", c.gapOut)
	case !opts.expect && !c.sent:
		return errors.New(`it has nothing to send: no messages in the direction "in"`)
	default:
		return nil
	}
}
