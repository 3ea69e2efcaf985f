package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/piped-dev/piped/client"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
)

// exitCode is what pipectl exits with.
type exitCode int

const (
	exitOK            exitCode = 0
	exitError         exitCode = 1
	exitUsage         exitCode = 2
	exitEnded         exitCode = 3
	exitTimeout       exitCode = 124
	exitFailed        exitCode = 125
	exitNotExecutable exitCode = 126
	exitNotFound      exitCode = 127
)

// A codedError is an exit code and, unless it is only a program's own code, an
// error to be told.
type codedError struct {
	code exitCode
	err  error
}

func (e *codedError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e *codedError) Unwrap() error { return e.err }

// usageError says that the command line is wrong, and what would be right.
func usageError(format string, args ...any) error {
	return &codedError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// timeoutError says that a --timeout ran out, and what was the case then.
func timeoutError(format string, args ...any) error {
	return &codedError{code: exitTimeout, err: fmt.Errorf("timeout: "+format, args...)}
}

// hints say the next step after an error, by its reason.
var hints = map[client.Reason]string{
	client.ErrSessionNotFound:      "pipectl ls shows the sessions",
	client.ErrIncarnationNotFound:  "pipectl inspect NAME shows the incarnations that are kept",
	client.ErrRestarting:           "pipectl inspect NAME shows when it is there again; pipectl restart NAME does it now",
	client.ErrNotRestartable:       "start it anew with pipectl start",
	client.ErrPipeNotFound:         "pipectl inspect NAME shows the pipes of a session",
	client.ErrProcessNotFound:      "pipectl inspect NAME shows the processes of a session",
	client.ErrSessionExists:        "pipectl rm NAME removes an ended session, rm --force any",
	client.ErrPipeExists:           "choose another name for the pipe",
	client.ErrProcessExists:        "choose another name with --as",
	client.ErrBusyReader:           "one consumer at a time: pipectl tail looks without consuming, --steal takes it from the other client",
	client.ErrBusyWriter:           "one writer at a time: pipectl attach --observe looks on, --steal takes it from the other client",
	client.ErrFenced:               "it was taken over or has ended: pipectl inspect names who has it; --steal takes it back",
	client.ErrUnreadBuffered:       "receive what is there first: pipectl recv",
	client.ErrEndpointClosed:       "pipectl inspect NAME shows which ends are open, and which of their directions have ended",
	client.ErrWrongDirection:       "this end only sends or only receives: pipectl inspect NAME shows the kind of the pipe",
	client.ErrSessionActive:        "end it first with pipectl stop, or remove it with rm --force",
	client.ErrProcessExited:        "pipectl wait NAME shows how it ended",
	client.ErrSessionLease:         "its creator was gone for too long, or is somebody else: pipectl inspect NAME shows it; create it anew",
	client.ErrProgramNotFound:      "give the path of the program, or its folder with --env PATH=FOLDER",
	client.ErrProgramNotExecutable: "chmod +x makes a file executable; a script needs a first line with its interpreter",
	client.ErrDirectory:            "--dir names the working directory of the program",
	client.ErrEnvironmentDenied:    "leave it out of --env; the configuration of the daemon denies it",
	client.ErrMessageRefused:       "the framing of this pipe cannot carry it: pipectl inspect NAME shows the framing",
	client.ErrDescriptorLimit:      "remove sessions with pipectl rm, or start piped with a higher limit of open files (ulimit -n)",
	client.ErrUnfinishedMessage:    "part of a message was sent: go on with it through the API, or pipectl close the endpoint",
	client.ErrBrokenPipe:           "nobody reads the other end any more: pipectl inspect NAME shows how it ended",
	client.ErrSessionLost:          "what it had is gone, and its processes were killed; pipectl doctor says what survives here",
	client.ErrKeeperAway:           "nothing was changed: try again; pipectl doctor says how the keeper is",
	client.ErrSignalUncertain:      "pipectl inspect NAME shows whether it did anything; send it again if twice does no harm",
	client.ErrStartUncertain:       "the program may have run for a moment; start it again if twice does no harm",
	client.ErrCgroupUnavailable:    "pipectl doctor says what there is; the keeper's unit needs Delegate=yes",
	client.ErrEndpointSealed:       "its other end was handed over to a process; make a pipe of its own with pipectl pipe",
}

// hint returns the next step after an error, or nothing.
func hint(err error) string {
	if reason, ok := errors.AsType[client.Reason](err); ok {
		return expiryText(err) + lossText(err) + hints[reason]
	}
	switch {
	case errors.Is(err, client.ErrNotTrusted):
		return "remove that directory if it is yours, or name another socket with --addr"
	case errors.Is(err, client.ErrRefused), isNoServer(err) && errors.Is(err, fs.ErrPermission):
		return "a daemon serves its own user and root: become that user, or start a daemon of your own with piped"
	case isNoServer(err):
		return "start one with piped, or let pipectl --spawn start it; --addr or " + client.AddressVariable + " names its socket"
	case isGone(err):
		return "the daemon is gone: when one runs again, pipectl ls shows what is still there"
	default:
		return ""
	}
}

// isGone says whether the daemon has stopped answering.
func isGone(err error) bool {
	known, ok := errors.AsType[*client.Error](err)
	return ok && known.Reason == "" && known.Code == codes.Unavailable
}

// expiryText says until when another client has what was refused, if that is
// known: a client that is not connected has it for so long.
func expiryText(err error) string {
	known, ok := errors.AsType[*client.Error](err)
	if !ok {
		return ""
	}
	until, err := time.Parse(time.RFC3339, known.Metadata["expires"])
	if err != nil {
		return ""
	}
	return "it has that until " + until.Format(time.RFC3339) + "; "
}

// losses say why a session was lost.
var losses = map[string]string{
	"LOST_BOTH":    "the daemon and its keeper were killed together",
	"LOST_MEMORY":  "its logs were in the memory of a daemon that was killed",
	"LOST_REBOOT":  "the machine was started anew",
	"LOST_CORRUPT": "what was kept of it does not fit together, and the daemon's log says more",
}

// lossText says why a session was lost, if it was.
func lossText(err error) string {
	known, ok := errors.AsType[*client.Error](err)
	if !ok || known.Reason != client.ErrSessionLost {
		return ""
	}
	if text := losses[known.Metadata["why"]]; text != "" {
		return text + "; "
	}
	return ""
}

func isBadAddress(err error) bool {
	_, ok := errors.AsType[*client.AddressError](err)
	return ok
}

func isNoServer(err error) bool {
	_, ok := errors.AsType[*client.NoServerError](err)
	return ok
}

// report tells an error and returns the exit code.
func (f *factory) report(cmd *cobra.Command, err error) exitCode {
	if err == nil {
		return exitOK
	}
	code := f.code(cmd, err)
	coded, ok := errors.AsType[*codedError](err)
	if ok && coded.err == nil {
		return code
	}
	f.tell("error", err.Error())
	switch text := hint(err); {
	case text != "":
		f.tell("hint", text)
	case isBadAddress(err): // it says itself what would be right
	case code == exitUsage, !f.ran:
		f.tell("hint", cmd.CommandPath()+" --help")
	}
	return code
}

// code returns the exit code of an error. What run itself fails at is told apart
// from what its program exits with, as timeout and env do.
func (f *factory) code(cmd *cobra.Command, err error) exitCode {
	coded, isCoded := errors.AsType[*codedError](err)
	isRun := cmd.Name() == "run"
	switch {
	case isCoded && (coded.code != exitUsage || !isRun):
		return coded.code
	case isRun && errors.Is(err, client.ErrProgramNotFound):
		return exitNotFound
	case isRun && errors.Is(err, client.ErrProgramNotExecutable):
		return exitNotExecutable
	case isRun:
		return exitFailed
	case !f.ran, isBadAddress(err), errors.Is(err, client.ErrArgument):
		return exitUsage
	default:
		return exitError
	}
}

// tell writes one line to stderr: everything but data.
func (f *factory) tell(kind, text string) {
	text = strings.ReplaceAll(strings.TrimSpace(text), "\n", ": ")
	_, _ = fmt.Fprintf(f.errOut, "pipectl: %s: %s\n", kind, text)
}
