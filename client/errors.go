package client

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errorDomain is the domain of every ErrorInfo that piped sends.
const errorDomain = "piped"

// Reason is the stable name of what went wrong. Each is an error of its own, so
// that errors.Is(err, client.ErrBrokenPipe) asks for it.
type Reason string

// Error returns the name.
func (r Reason) Error() string { return string(r) }

// The reasons that piped gives. docs/errors.md says what each one means.
const (
	ErrEndpointClosed       Reason = "ENDPOINT_CLOSED"
	ErrSessionNotFound      Reason = "SESSION_NOT_FOUND"
	ErrPipeNotFound         Reason = "PIPE_NOT_FOUND"
	ErrProcessNotFound      Reason = "PROCESS_NOT_FOUND"
	ErrIncarnationNotFound  Reason = "INCARNATION_NOT_FOUND"
	ErrSessionExists        Reason = "SESSION_EXISTS"
	ErrPipeExists           Reason = "PIPE_EXISTS"
	ErrProcessExists        Reason = "PROCESS_EXISTS"
	ErrRequestIDReused      Reason = "REQUEST_ID_REUSED"
	ErrNotRestartable       Reason = "NOT_RESTARTABLE"
	ErrRestarting           Reason = "RESTARTING"
	ErrWrongDirection       Reason = "WRONG_DIRECTION"
	ErrBrokenPipe           Reason = "BROKEN_PIPE"
	ErrEOF                  Reason = "EOF"
	ErrPeerReset            Reason = "PEER_RESET"
	ErrTruncatedFrame       Reason = "TRUNCATED_FRAME"
	ErrBadFrame             Reason = "BAD_FRAME"
	ErrFrameOverLimit       Reason = "FRAME_OVER_LIMIT"
	ErrMessageTooLong       Reason = "MESSAGE_TOO_LONG"
	ErrMessageRefused       Reason = "MESSAGE_REFUSED"
	ErrBusyReader           Reason = "BUSY_READER"
	ErrBusyWriter           Reason = "BUSY_WRITER"
	ErrFenced               Reason = "FENCED"
	ErrSuperseded           Reason = "SUPERSEDED"
	ErrSequenceGap          Reason = "SEQUENCE_GAP"
	ErrUnfinishedMessage    Reason = "UNFINISHED_MESSAGE"
	ErrUnreadBuffered       Reason = "UNREAD_BUFFERED"
	ErrUnsentBuffered       Reason = "UNSENT_BUFFERED"
	ErrEndpointSealed       Reason = "ENDPOINT_SEALED"
	ErrSessionActive        Reason = "SESSION_ACTIVE"
	ErrNoTerminal           Reason = "NO_TERMINAL"
	ErrTerminalRaw          Reason = "TERMINAL_RAW"
	ErrTerminalLine         Reason = "TERMINAL_LINE"
	ErrProcessExited        Reason = "PROCESS_EXITED"
	ErrSessionLease         Reason = "SESSION_LEASE"
	ErrProgramNotFound      Reason = "PROGRAM_NOT_FOUND"
	ErrProgramNotExecutable Reason = "PROGRAM_NOT_EXECUTABLE"
	ErrDirectory            Reason = "DIRECTORY"
	ErrSpawnFailed          Reason = "SPAWN_FAILED"
	ErrEnvironmentDenied    Reason = "ENVIRONMENT_DENIED"
	ErrDescriptorLimit      Reason = "DESCRIPTOR_LIMIT"
	ErrLogSpace             Reason = "LOG_SPACE"
	ErrProcessLimit         Reason = "PROCESS_LIMIT"
	ErrMemoryLimit          Reason = "MEMORY_LIMIT"
	ErrCgroupUnavailable    Reason = "CGROUP_UNAVAILABLE"
	ErrArgument             Reason = "ARGUMENT"
	ErrDetached             Reason = "DETACHED"
	ErrPositionOutOfRange   Reason = "POSITION_OUT_OF_RANGE"
	ErrUnsupported          Reason = "UNSUPPORTED"
	ErrProtocol             Reason = "PROTOCOL"
	ErrShuttingDown         Reason = "SHUTTING_DOWN"
	ErrSessionLost          Reason = "SESSION_LOST"
	ErrKeeperAway           Reason = "KEEPER_AWAY"
	ErrStartUncertain       Reason = "START_UNCERTAIN"
	ErrSignalUncertain      Reason = "SIGNAL_UNCERTAIN"
	ErrInternal             Reason = "INTERNAL"
)

// ErrUnavailable matches errors that mean: no connection to the daemon, or it
// was lost during the call.
var ErrUnavailable = errors.New("daemon unavailable")

// ErrRefused says that somebody listens at an address and ended the connection
// at once: a daemon serves its own user and root alone.
var ErrRefused = errors.New("it ended the connection at once")

// ErrClosed is returned by calls on a Writer or Reader after its own Close.
var ErrClosed = errors.New("already closed")

// An Error is what the daemon, or the connection to it, answered instead of a
// result. errors.Is matches it with its Reason, with ErrUnavailable, and with
// the context errors where a context ended the call.
type Error struct {
	// Code is the coarse class.
	Code codes.Code
	// Reason is the stable name; empty for errors that the gRPC library made.
	Reason Reason
	// Message is for people.
	Message string
	// Metadata are the facts that belong to the reason, by name.
	Metadata map[string]string
}

// Error returns the message.
func (e *Error) Error() string {
	if e.Message != "" {
		return e.Message
	}
	if e.Reason != "" {
		return string(e.Reason)
	}
	return e.Code.String()
}

// Unwrap returns the Reason, and what the code stands for in Go.
func (e *Error) Unwrap() []error {
	var errs []error
	if e.Reason != "" {
		errs = append(errs, e.Reason)
	}
	switch e.Code {
	case codes.Canceled:
		errs = append(errs, context.Canceled)
	case codes.DeadlineExceeded:
		errs = append(errs, context.DeadlineExceeded)
	case codes.Unavailable:
		errs = append(errs, ErrUnavailable)
	}
	return errs
}

// GRPCStatus lets status.FromError and status.Code see the code.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

// fromRPC turns what an RPC returned into an *Error; nil stays nil.
func fromRPC(err error) error {
	if err == nil {
		return nil
	}
	if known, ok := errors.AsType[*Error](err); ok {
		return known
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	e := &Error{Code: s.Code(), Message: s.Message()}
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			e.Reason = Reason(info.GetReason())
			e.Metadata = info.GetMetadata()
		}
	}
	return e
}

// A GapError says that messages will not come on this stream: they were dropped
// by policy or had gone before the reader started. The next call goes on at To.
type GapError struct {
	// From is the first position that is missing.
	From Position
	// To is where the stream goes on.
	To Position
}

// Error says what is missing.
func (e *GapError) Error() string {
	return fmt.Sprintf("messages %v up to %v were dropped", e.From, e.To)
}

// ErrIncomplete matches every *IncompleteError.
var ErrIncomplete = errors.New("incomplete")

// An IncompleteError says that a direction ended or goes on elsewhere than where
// its reader or writer stands: something is missing. errors.Is matches it with
// ErrIncomplete.
type IncompleteError struct {
	// Have is the position up to which everything is there.
	Have Position
	// Want is the position up to which it should be.
	Want Position
	// Detail says more, for people; it may be empty.
	Detail string
}

// Error says what is missing.
func (e *IncompleteError) Error() string {
	text := fmt.Sprintf("incomplete: everything up to %v is there, it should be up to %v", e.Have, e.Want)
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// Is says whether target is ErrIncomplete.
func (e *IncompleteError) Is(target error) bool { return target == ErrIncomplete }

// fencedBy is the metadata of FENCED that names the new holder of a lease.
const fencedBy = "by"

// expired says that a lease has ended and nobody took it.
func expired(err error) bool {
	e, ok := errors.AsType[*Error](fromRPC(err))
	return ok && e.Reason == ErrFenced && e.Metadata[fencedBy] == ""
}
