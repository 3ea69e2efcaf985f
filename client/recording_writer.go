package client

import (
	"bytes"
	"encoding/json"
	"io"
	"sync"
	"time"
)

// A RecordingWriter writes a recording. Its methods are safe for concurrent use.
type RecordingWriter struct {
	out io.Writer
	// start is when the recording began.
	start time.Time

	// mu guards everything below, and the order of the lines.
	mu   sync.Mutex
	line bytes.Buffer
	// err is what every Write returns from now on.
	err error
}

// NewRecordingWriter writes the header and returns a writer of events. Each line
// is one Write to out, which the caller closes. A header without a Start gets the
// present time.
func NewRecordingWriter(out io.Writer, header RecordingHeader) (*RecordingWriter, error) {
	header.Version = recordingVersion
	if header.Start.IsZero() {
		header.Start = time.Now()
	}
	w := &RecordingWriter{out: out, start: header.Start}
	// The monotonic clock goes on in w.start.
	header.Start = header.Start.Round(0)
	return w, w.writeLocked(header)
}

// Write writes an event with the time that it has. After a Stop it returns
// ErrClosed. When out has failed, it returns that error for ever, because out may
// end in half a line.
func (w *RecordingWriter) Write(event RecordingEvent) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.eventLocked(event)
}

// WriteNow is Write with the present time.
func (w *RecordingWriter) WriteNow(event RecordingEvent) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	event.Time = max(time.Since(w.start), 0)
	return w.eventLocked(event)
}

func (w *RecordingWriter) eventLocked(event RecordingEvent) error {
	if w.err != nil {
		return w.err
	}
	line, err := event.line()
	if err != nil {
		return err
	}
	if err := w.writeLocked(line); err != nil {
		return err
	}
	if event.Stop != nil {
		w.err = ErrClosed
	}
	return nil
}

func (w *RecordingWriter) writeLocked(value any) error {
	w.line.Reset()
	encoder := json.NewEncoder(&w.line)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return err
	}
	n, err := w.out.Write(w.line.Bytes())
	if err == nil && n < w.line.Len() {
		err = io.ErrShortWrite
	}
	w.err = err
	return err
}
