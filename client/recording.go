package client

import (
	"errors"
	"fmt"
	"io"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

const (
	// recordingVersion is the version of the format that is written, and the
	// highest that is read.
	recordingVersion = 1
	// maxRecordedData bounds the bytes of one event; longer messages are recorded
	// in parts. As text each byte may take six.
	maxRecordedData = 16 << 20
	// maxRecordingLine bounds what a RecordingReader holds of one line.
	maxRecordingLine = 8 * maxRecordedData
	// maxRecordedTime is so short that a time in seconds is exact as a float64, as
	// which most programs read it.
	maxRecordedTime = 100 * 365 * 24 * time.Hour
)

var (
	// ErrNotRecording says that a file does not begin as a recording does.
	ErrNotRecording = errors.New("not a recording")
	// ErrRecordingVersion says that a newer program made a recording.
	ErrRecordingVersion = errors.New("recording of a newer version")
	// ErrRecordingCut says that a recording stops before its last line: who made
	// it was killed, or a part of the file is missing.
	ErrRecordingCut = fmt.Errorf("recording was cut off: %w", io.ErrUnexpectedEOF)
)

// A RecordedDirection is a direction as its end of the pipe sees it.
type RecordedDirection string

const (
	// RecordedIn is what clients send into the end.
	RecordedIn RecordedDirection = "in"
	// RecordedOut is what comes out of it.
	RecordedOut RecordedDirection = "out"
)

// A RecordingHeader is the first line of a recording: what was recorded. The
// format is JSON Lines; docs/recording.md describes it.
type RecordingHeader struct {
	// Version of the format; a RecordingWriter sets it.
	Version int `json:"piped_recording"`
	// Start is when the recording began. The times of events count from here.
	Start time.Time `json:"start"`
	// Session is the name of the session, UID its unique id.
	Session string `json:"session"`
	UID     string `json:"uid,omitempty"`
	// Pipe is the name of the pipe, End the end: 1 or 2.
	Pipe string `json:"pipe"`
	End  int    `json:"end"`
	// Kind is the kind of the pipe: duplex, one_way or stdio.
	Kind string `json:"kind,omitempty"`
	// Incarnation of the pipe; it is that of all positions.
	Incarnation uint64 `json:"incarnation,omitempty"`
	// Directions are those that were recorded.
	Directions []RecordedDirection `json:"directions"`
	// FramingIn is how what is sent into the end is framed, FramingOut the same
	// for what comes out of it.
	FramingIn  RecordedFraming `json:"framing_in,omitzero"`
	FramingOut RecordedFraming `json:"framing_out,omitzero"`
}

// A RecordedFraming is a framing in a recording.
type RecordedFraming struct {
	// Name of the framing, as "line". In "raw" every byte is a message.
	Name string `json:"name"`
	// CarriageReturn is keep or strip, in "line".
	CarriageReturn string `json:"carriage_return,omitempty"`
}

// Raw says whether a direction was recorded in the framing "raw", in which how
// the bytes are cut into events means nothing.
func (h *RecordingHeader) Raw(direction RecordedDirection) bool {
	if direction == RecordedIn {
		return h.FramingIn.Name == rawFraming
	}
	return h.FramingOut.Name == rawFraming
}

// A RecordingEvent is one further line of a recording: what happened in a
// direction. One of Message, Gap, End and Stop is set.
type RecordingEvent struct {
	// Time since the start of the recording, kept to the microsecond.
	Time time.Duration
	// Direction is where it happened; empty for Stop.
	Direction RecordedDirection
	// Message is a message or a part of one. In a recording it has at most
	// 16 MiB of data.
	Message *Message
	// Gap says which messages were not recorded.
	Gap *GapError
	// End is the last word about the direction.
	End *pipedv1.End
	// Stop is the last event.
	Stop *RecordingStop
}

// A RecordingStop says why a recording has no more events. Without it the
// recording was cut off.
type RecordingStop struct {
	// Reason is why.
	Reason RecordingStopReason `json:"reason"`
	// Detail says more, for people.
	Detail string `json:"detail,omitempty"`
}

// RecordingStopReason is why a recording stopped.
type RecordingStopReason string

// The reasons to stop.
const (
	// RecordingEnded: all directions have ended.
	RecordingEnded RecordingStopReason = "ended"
	// RecordingRetained: only what was retained was asked for.
	RecordingRetained RecordingStopReason = "retained"
	// RecordingInterrupted: whoever recorded wanted no more.
	RecordingInterrupted RecordingStopReason = "interrupted"
	// RecordingFailed: an error; more may have happened.
	RecordingFailed RecordingStopReason = "failed"
)
