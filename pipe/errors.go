package pipe

import (
	"errors"
	"fmt"
)

// Errors of endpoints. They are matched with errors.Is.
var (
	// ErrClosed: the daemon's copy of the end is closed or closing.
	ErrClosed = errors.New("endpoint is closed")
	// ErrWrongDirection: the end cannot send, or cannot receive.
	ErrWrongDirection = errors.New("endpoint does not work in this direction")
	// ErrBrokenPipe: nobody holds the reading side any more.
	ErrBrokenPipe = errors.New("broken pipe: the other end does not read any more")
	// ErrPosition: a position that is not retained or does not exist yet.
	ErrPosition = errors.New("position out of range")
	// ErrFraming: an unknown framing, or options it does not have.
	ErrFraming = errors.New("unknown framing")
	// ErrMessage: a payload that the framing cannot carry.
	ErrMessage = errors.New("message does not fit the framing")
	// ErrNoSpace: the kernel refuses memory, a descriptor or a mapping for the log.
	ErrNoSpace = errors.New("no space for the log")
	// ErrCorrupt: what was kept of a direction cannot be what was written there.
	ErrCorrupt = errors.New("corrupt")
	// ErrVersion: what was kept was written by a newer version of this program.
	ErrVersion = errors.New("unknown version")
	// ErrNoRoom: the log is full; wait for a change and try again.
	ErrNoRoom = errors.New("log is full")
)

// A TooLongError refuses a message because of its size.
type TooLongError struct{ Size, Max uint64 }

// Error says both sizes.
func (e *TooLongError) Error() string {
	return fmt.Sprintf("message of %d bytes is longer than %d", e.Size, e.Max)
}

// An UnfinishedError refuses a new message while another one has only parts.
type UnfinishedError struct {
	// Number of the message in its direction, payload bytes that are there,
	// and its whole size (0 where the framing does not say).
	Number, Have, Total uint64
}

// Error says what is missing.
func (e *UnfinishedError) Error() string {
	if e.Total == 0 {
		return fmt.Sprintf("message %d is unfinished: go on at offset %d or close", e.Number, e.Have)
	}
	return fmt.Sprintf("message %d is unfinished: go on at offset %d of %d or close", e.Number, e.Have, e.Total)
}

// A frameError is what a framing says about bytes that it cannot cut.
type frameError struct {
	cause  EndCause
	want   uint64
	detail string
}

func (e *frameError) Error() string { return e.detail }
