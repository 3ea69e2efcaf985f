package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

// Domain is the domain of every google.rpc.ErrorInfo of this server.
const Domain = "piped"

// A row of the error table: which error it is, and what clients get. The
// reason carries the meaning, the code only its class. Codes that gRPC itself
// produces (UNAVAILABLE, CANCELLED, DEADLINE_EXCEEDED, INTERNAL) never carry a
// meaning of pipes; RESOURCE_EXHAUSTED only that of a quota.
type row struct {
	err    error
	code   codes.Code
	reason string
}

// errorTable is searched from the top: what wraps two sentinels is listed under
// the more telling one first. docs/errors.md documents it, and a test compares
// the two.
var errorTable = []row{
	{pipe.ErrFraming, codes.InvalidArgument, "ARGUMENT"},
	{pipe.ErrMessage, codes.InvalidArgument, "MESSAGE_REFUSED"},
	{session.ErrArgument, codes.InvalidArgument, "ARGUMENT"},
	{session.ErrSessionNotFound, codes.NotFound, "SESSION_NOT_FOUND"},
	{session.ErrPipeNotFound, codes.NotFound, "PIPE_NOT_FOUND"},
	{session.ErrProcessNotFound, codes.NotFound, "PROCESS_NOT_FOUND"},
	{session.ErrIncarnation, codes.NotFound, "INCARNATION_NOT_FOUND"},
	{session.ErrNotRestartable, codes.FailedPrecondition, "NOT_RESTARTABLE"},
	{session.ErrRestarting, codes.Unavailable, "RESTARTING"},
	{session.ErrSessionExists, codes.AlreadyExists, "SESSION_EXISTS"},
	{session.ErrPipeExists, codes.AlreadyExists, "PIPE_EXISTS"},
	{session.ErrProcessExists, codes.AlreadyExists, "PROCESS_EXISTS"},
	{session.ErrRequestReused, codes.AlreadyExists, "REQUEST_ID_REUSED"},
	{session.ErrActive, codes.FailedPrecondition, "SESSION_ACTIVE"},
	{session.ErrNoTerminal, codes.FailedPrecondition, "NO_TERMINAL"},
	{pipe.ErrTerminalRaw, codes.FailedPrecondition, "TERMINAL_RAW"},
	{pipe.ErrTerminalLine, codes.FailedPrecondition, "TERMINAL_LINE"},
	{session.ErrExited, codes.FailedPrecondition, "PROCESS_EXITED"},
	{session.ErrSessionLease, codes.FailedPrecondition, "SESSION_LEASE"},
	{session.ErrBusyReader, codes.Aborted, "BUSY_READER"},
	{session.ErrBusyWriter, codes.Aborted, "BUSY_WRITER"},
	{session.ErrFenced, codes.Aborted, "FENCED"},
	{session.ErrSuperseded, codes.Aborted, "SUPERSEDED"},
	{session.ErrSealed, codes.FailedPrecondition, "ENDPOINT_SEALED"},
	{session.ErrUnreadBuffered, codes.FailedPrecondition, "UNREAD_BUFFERED"},
	{session.ErrUnsentBuffered, codes.FailedPrecondition, "UNSENT_BUFFERED"},
	{session.ErrDescriptors, codes.ResourceExhausted, "DESCRIPTOR_LIMIT"},
	{pipe.ErrNoSpace, codes.ResourceExhausted, "LOG_SPACE"},
	{session.ErrShutdown, codes.Unavailable, "SHUTTING_DOWN"},
	{session.ErrLost, codes.DataLoss, "SESSION_LOST"},
	{keeper.ErrUncertain, codes.Aborted, "START_UNCERTAIN"}, // of signals see signalError
	{keeper.ErrAway, codes.Unavailable, "KEEPER_AWAY"},
	{pipe.ErrWrongDirection, codes.FailedPrecondition, "WRONG_DIRECTION"},
	{pipe.ErrBrokenPipe, codes.FailedPrecondition, "BROKEN_PIPE"},
	{pipe.ErrClosed, codes.FailedPrecondition, "ENDPOINT_CLOSED"},
	{pipe.ErrPosition, codes.InvalidArgument, "POSITION_OUT_OF_RANGE"},
	{keeper.ErrNotFound, codes.FailedPrecondition, "PROGRAM_NOT_FOUND"},
	{keeper.ErrNotExecutable, codes.FailedPrecondition, "PROGRAM_NOT_EXECUTABLE"},
	{keeper.ErrDirectory, codes.FailedPrecondition, "DIRECTORY"},
	{keeper.ErrArguments, codes.InvalidArgument, "ARGUMENT"},
	{keeper.ErrInvalid, codes.InvalidArgument, "ARGUMENT"},
	{keeper.ErrCgroup, codes.FailedPrecondition, "CGROUP_UNAVAILABLE"},
	{keeper.ErrDescriptors, codes.ResourceExhausted, "DESCRIPTOR_LIMIT"},
	{keeper.ErrProcesses, codes.ResourceExhausted, "PROCESS_LIMIT"},
	{keeper.ErrMemory, codes.ResourceExhausted, "MEMORY_LIMIT"},
	{errDetached, codes.Aborted, "DETACHED"},
	{errProtocol, codes.InvalidArgument, "PROTOCOL"},
	{errUnsupported, codes.Unimplemented, "UNSUPPORTED"},
}

// Errors of this package.
var (
	// errDetached: a consumer ended its requests before the end.
	errDetached = errors.New("detached: the client ended its requests before the end; what it did not acknowledge is kept")
	// errProtocol: requests in an order that the contract does not have.
	errProtocol = errors.New("protocol")
	// errUnsupported: something that this version does not offer.
	errUnsupported = errors.New("unsupported")
)

// endReasons are what a unary Read answers at the end of a direction: the cause
// once, plain EOF from then on.
var endReasons = map[pipe.EndCause]row{
	pipe.CauseClosed:         {nil, codes.OutOfRange, "EOF"},
	pipe.CauseReset:          {nil, codes.Aborted, "PEER_RESET"},
	pipe.CauseTruncated:      {nil, codes.DataLoss, "TRUNCATED_FRAME"},
	pipe.CauseBadFrame:       {nil, codes.DataLoss, "BAD_FRAME"},
	pipe.CauseOverLimit:      {nil, codes.DataLoss, "FRAME_OVER_LIMIT"},
	pipe.CauseEndpointClosed: {nil, codes.OutOfRange, "EOF"},
}

// statusError makes what a client gets out of an error. A status stays as it
// is; the ends of contexts become gRPC's own codes.
func statusError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	var (
		long       *pipe.TooLongError
		unfinished *pipe.UnfinishedError
		gap        *session.SequenceGapError
		busy       *session.BusyError
		fenced     *session.FencedError
		lost       *session.LostError
		restarting *session.RestartingError
		denied     *session.EnvironmentError
		group      *keeper.CgroupError
		lease      *session.CreatorError
	)
	switch {
	case errors.As(err, &long):
		return reasonError(codes.FailedPrecondition, "MESSAGE_TOO_LONG", err, map[string]string{
			"size": strconv.FormatUint(long.Size, 10), "max": strconv.FormatUint(long.Max, 10)})
	case errors.As(err, &unfinished):
		return reasonError(codes.FailedPrecondition, "UNFINISHED_MESSAGE", err, map[string]string{
			"number": strconv.FormatUint(unfinished.Number, 10), "have": strconv.FormatUint(unfinished.Have, 10),
			"total": strconv.FormatUint(unfinished.Total, 10)})
	case errors.As(err, &denied):
		return reasonError(codes.PermissionDenied, "ENVIRONMENT_DENIED", err, map[string]string{"name": denied.Name, "pattern": denied.Pattern})
	case errors.As(err, &gap):
		return reasonError(codes.FailedPrecondition, "SEQUENCE_GAP", err, map[string]string{
			"expected_message": strconv.FormatUint(gap.Expected.Message, 10), "expected_offset": strconv.FormatUint(gap.Expected.Offset, 10)})
	}
	for _, r := range errorTable {
		if errors.Is(err, r.err) {
			var meta map[string]string
			switch {
			case errors.As(err, &busy):
				meta = map[string]string{"client": busy.Client, "expires": expiry(busy.Expires)}
			case errors.As(err, &fenced):
				meta = map[string]string{"by": fenced.By, "epoch": strconv.FormatUint(fenced.Epoch, 10)}
			case errors.As(err, &group):
				meta = map[string]string{"controller": group.Controller}
			case errors.As(err, &restarting):
				meta = map[string]string{"process": restarting.Process, "next": expiry(restarting.Next)}
			case errors.As(err, &lost):
				meta = map[string]string{"why": lost.Why}
			case errors.As(err, &lease):
				meta = map[string]string{"why": string(lease.Fault), "ended": expiry(lease.Ended)}
			}
			return reasonError(r.code, r.reason, err, meta)
		}
	}
	if spawn, ok := errors.AsType[*keeper.SpawnError](err); ok {
		return reasonError(codes.FailedPrecondition, "SPAWN_FAILED", err, map[string]string{"step": spawn.Step})
	}
	if errors.Is(err, os.ErrInvalid) {
		return reasonError(codes.InvalidArgument, "ARGUMENT", err, nil)
	}
	return status.Error(codes.Unknown, err.Error())
}

// signalError is statusError for a signal, which may have been sent.
func signalError(err error) error {
	if errors.Is(err, keeper.ErrUncertain) {
		return reasonError(codes.Aborted, "SIGNAL_UNCERTAIN", err, nil)
	}
	return statusError(err)
}

// expiry is a time in metadata; empty where there is none.
func expiry(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// endError is what a unary Read answers at the end.
func endError(end *pipe.End, first bool) error {
	r := endReasons[end.Cause]
	if !first {
		r = endReasons[pipe.CauseClosed]
	}
	text := fmt.Sprintf("%v at position %v", end.Cause, end.Position)
	if end.Detail != "" {
		text += ": " + end.Detail
	}
	return reasonError(r.code, r.reason, errors.New(text), map[string]string{
		"cause": end.Cause.String(), "message": strconv.FormatUint(end.Position.Message, 10),
		"offset": strconv.FormatUint(end.Position.Offset, 10), "bytes": strconv.FormatUint(end.Bytes, 10),
		"want": strconv.FormatUint(end.Want, 10), "got": strconv.FormatUint(end.Got, 10)})
}

func reasonError(code codes.Code, reason string, err error, meta map[string]string) error {
	st, derr := status.New(code, err.Error()).WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: Domain, Metadata: meta})
	if derr != nil {
		return status.Error(code, err.Error())
	}
	return st.Err()
}
