package client

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// A RecordingReader reads a recording. It is for one goroutine at a time.
type RecordingReader struct {
	in     *bufio.Reader
	header RecordingHeader
	// line is the number of the line that was read last.
	line    int
	stopped bool
	// err is what Next returns from now on.
	err error
}

// NewRecordingReader reads the header; its errors wrap ErrNotRecording,
// ErrRecordingVersion or ErrRecordingCut, or are those of in.
func NewRecordingReader(in io.Reader) (*RecordingReader, error) {
	r := &RecordingReader{in: bufio.NewReaderSize(in, 64<<10)}
	text, err := r.next()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it is empty", ErrNotRecording)
	}
	if err != nil && !errors.Is(err, ErrRecordingCut) {
		return nil, err
	}
	// The version comes first: nothing else need be as it is here.
	var version struct {
		Version *int `json:"piped_recording"`
	}
	switch jsonErr := json.Unmarshal(text, &version); {
	case jsonErr != nil || version.Version == nil || *version.Version < 1:
		return nil, fmt.Errorf(`%w: line 1 is not an object with "piped_recording"`, ErrNotRecording)
	case err != nil:
		return nil, err
	case *version.Version > recordingVersion:
		return nil, fmt.Errorf("%w: it has version %d, and this program reads up to %d", ErrRecordingVersion, *version.Version, recordingVersion)
	}
	if err := json.Unmarshal(text, &r.header); err != nil {
		return nil, fmt.Errorf("%w: line 1: %w", ErrNotRecording, err)
	}
	return r, nil
}

// Header returns the header.
func (r *RecordingReader) Header() RecordingHeader { return r.header }

// Next returns the next event. After the last, a Stop, it returns io.EOF; when
// the recording stops without it, or inside a line, an error that wraps
// ErrRecordingCut. Fields and kinds of events that are not known are ignored.
// After an error the same comes again.
func (r *RecordingReader) Next() (RecordingEvent, error) {
	for r.err == nil {
		event, err := r.event()
		if err != nil {
			r.err = err
		} else if event != nil {
			return *event, nil
		}
	}
	return RecordingEvent{}, r.err
}

// event reads one line; it returns nil for one that says nothing.
func (r *RecordingReader) event() (*RecordingEvent, error) {
	text, err := r.next()
	switch {
	case errors.Is(err, io.EOF) && !r.stopped:
		return nil, fmt.Errorf(`%w: line %d is the last, and it is no "stop"`, ErrRecordingCut, r.line)
	case err != nil:
		return nil, err
	case len(bytes.TrimSpace(text)) == 0:
		return nil, nil
	case r.stopped:
		return nil, fmt.Errorf(`recording line %d comes after the "stop"`, r.line)
	case !utf8.Valid(text):
		return nil, fmt.Errorf("recording line %d is not UTF-8", r.line)
	}
	var line recordedLine
	if err := json.Unmarshal(text, &line); err != nil {
		return nil, fmt.Errorf("recording line %d: %w", r.line, err)
	}
	event := line.event(&r.header)
	if event == nil {
		return nil, nil
	}
	if err := line.check(); err != nil {
		return nil, fmt.Errorf("recording line %d: %w", r.line, err)
	}
	r.stopped = event.Stop != nil
	return event, nil
}

// next returns the next line. A last line without its newline comes with
// ErrRecordingCut.
func (r *RecordingReader) next() ([]byte, error) {
	var line []byte
	for {
		piece, err := r.in.ReadSlice('\n')
		if len(line)+len(piece) > maxRecordingLine {
			return nil, fmt.Errorf("recording line %d is longer than %d bytes", r.line+1, maxRecordingLine)
		}
		line = append(line, piece...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil, io.EOF
		case errors.Is(err, io.EOF):
			r.line++
			return line, fmt.Errorf("%w inside line %d", ErrRecordingCut, r.line)
		case err != nil:
			return nil, err
		default:
			r.line++
			return line, nil
		}
	}
}
