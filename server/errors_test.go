package server

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

// answer is what a client gets, but for the text.
type answer struct {
	Code     codes.Code
	Reason   string
	Metadata map[string]string
}

func answerTo(t *testing.T, err error) answer {
	t.Helper()
	st, ok := status.FromError(err)
	if !ok {
		t.Fatalf("%v is no status", err)
	}
	a := answer{Code: st.Code()}
	for _, detail := range st.Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if !ok || a.Reason != "" || info.GetDomain() != Domain {
			t.Fatalf("detail %v: want one ErrorInfo of the domain %q", detail, Domain)
		}
		a.Reason, a.Metadata = info.GetReason(), info.GetMetadata()
	}
	return a
}

func spawnError(step string, err error) error {
	return &keeper.SpawnError{Step: step, Path: "/bin/x", Err: err}
}

// endAt is an end as a unary Read meets it, with the metadata it makes.
func endAt(cause pipe.EndCause, first bool) (map[string]string, error) {
	end := &pipe.End{Cause: cause, Position: pipe.Position{Message: 4, Offset: 2}, Bytes: 30, Want: 9, Got: 2, Detail: "more"}
	return map[string]string{
		"cause": cause.String(), "message": "4", "offset": "2", "bytes": "30", "want": "9", "got": "2"}, endError(end, first)
}

// A provocation is an error as handlers meet it, answered, and what clients are to get.
type provocation struct {
	name string
	got  error
	want answer
}

// provocations has every reason that there is.
func provocations() []provocation {
	var all []provocation
	add := func(name string, got error, code codes.Code, reason string, metadata map[string]string) {
		all = append(all, provocation{name, got, answer{code, reason, metadata}})
	}
	// Handlers meet sentinels wrapped, with a sentence.
	for _, s := range []struct {
		err    error
		code   codes.Code
		reason string
	}{
		{pipe.ErrFraming, codes.InvalidArgument, "ARGUMENT"},
		{session.ErrArgument, codes.InvalidArgument, "ARGUMENT"},
		{pipe.ErrMessage, codes.InvalidArgument, "MESSAGE_REFUSED"},
		{pipe.ErrPosition, codes.InvalidArgument, "POSITION_OUT_OF_RANGE"},
		{session.ErrSessionNotFound, codes.NotFound, "SESSION_NOT_FOUND"},
		{session.ErrPipeNotFound, codes.NotFound, "PIPE_NOT_FOUND"},
		{session.ErrProcessNotFound, codes.NotFound, "PROCESS_NOT_FOUND"},
		{session.ErrIncarnation, codes.NotFound, "INCARNATION_NOT_FOUND"},
		{session.ErrNotRestartable, codes.FailedPrecondition, "NOT_RESTARTABLE"},
		{session.ErrSessionExists, codes.AlreadyExists, "SESSION_EXISTS"},
		{session.ErrPipeExists, codes.AlreadyExists, "PIPE_EXISTS"},
		{session.ErrProcessExists, codes.AlreadyExists, "PROCESS_EXISTS"},
		{session.ErrRequestReused, codes.AlreadyExists, "REQUEST_ID_REUSED"},
		{session.ErrActive, codes.FailedPrecondition, "SESSION_ACTIVE"},
		{session.ErrNoTerminal, codes.FailedPrecondition, "NO_TERMINAL"},
		{pipe.ErrTerminalRaw, codes.FailedPrecondition, "TERMINAL_RAW"},
		{pipe.ErrTerminalLine, codes.FailedPrecondition, "TERMINAL_LINE"},
		{session.ErrExited, codes.FailedPrecondition, "PROCESS_EXITED"},
		{session.ErrSuperseded, codes.Aborted, "SUPERSEDED"},
		{session.ErrSealed, codes.FailedPrecondition, "ENDPOINT_SEALED"},
		{session.ErrUnreadBuffered, codes.FailedPrecondition, "UNREAD_BUFFERED"},
		{session.ErrUnsentBuffered, codes.FailedPrecondition, "UNSENT_BUFFERED"},
		{session.ErrDescriptors, codes.ResourceExhausted, "DESCRIPTOR_LIMIT"},
		{pipe.ErrNoSpace, codes.ResourceExhausted, "LOG_SPACE"},
		{session.ErrShutdown, codes.Unavailable, "SHUTTING_DOWN"},
		{keeper.ErrAway, codes.Unavailable, "KEEPER_AWAY"},
		{keeper.ErrUncertain, codes.Aborted, "START_UNCERTAIN"},
		{pipe.ErrWrongDirection, codes.FailedPrecondition, "WRONG_DIRECTION"},
		{pipe.ErrBrokenPipe, codes.FailedPrecondition, "BROKEN_PIPE"},
		{pipe.ErrClosed, codes.FailedPrecondition, "ENDPOINT_CLOSED"},
		{errDetached, codes.Aborted, "DETACHED"},
		{errProtocol, codes.InvalidArgument, "PROTOCOL"},
		{errUnsupported, codes.Unimplemented, "UNSUPPORTED"},
	} {
		add(s.err.Error(), statusError(fmt.Errorf("%w: and more", s.err)), s.code, s.reason, nil)
	}
	for _, s := range []struct {
		step   string
		err    error
		code   codes.Code
		reason string
	}{
		{"lookup", keeper.ErrNotFound, codes.FailedPrecondition, "PROGRAM_NOT_FOUND"},
		{"exec", keeper.ErrNotExecutable, codes.FailedPrecondition, "PROGRAM_NOT_EXECUTABLE"},
		{"chdir", keeper.ErrDirectory, codes.FailedPrecondition, "DIRECTORY"},
		{"exec", keeper.ErrArguments, codes.InvalidArgument, "ARGUMENT"},
		{"check", keeper.ErrInvalid, codes.InvalidArgument, "ARGUMENT"},
		{"fork", keeper.ErrDescriptors, codes.ResourceExhausted, "DESCRIPTOR_LIMIT"},
		{"fork", keeper.ErrProcesses, codes.ResourceExhausted, "PROCESS_LIMIT"},
		{"fork", keeper.ErrMemory, codes.ResourceExhausted, "MEMORY_LIMIT"},
	} {
		add(s.err.Error(), statusError(spawnError(s.step, fmt.Errorf("%w: and more", s.err))), s.code, s.reason, nil)
	}
	add("a spawn error of no kind", statusError(spawnError("fork", errors.New("odd"))),
		codes.FailedPrecondition, "SPAWN_FAILED", map[string]string{"step": "fork"})
	add("an invalid call of the system", statusError(&fs.PathError{Op: "open", Path: "x", Err: fs.ErrInvalid}), codes.InvalidArgument, "ARGUMENT", nil)
	add("a start that nobody can tell of, and no keeper", statusError(errors.Join(keeper.ErrUncertain, keeper.ErrAway)), codes.Aborted, "START_UNCERTAIN", nil)
	add("a signal that nobody can tell of", signalError(fmt.Errorf("more: %w", keeper.ErrUncertain)), codes.Aborted, "SIGNAL_UNCERTAIN", nil)
	add("a signal to nobody", signalError(session.ErrExited), codes.FailedPrecondition, "PROCESS_EXITED", nil)
	add("a denied variable", statusError(fmt.Errorf("more: %w", &session.EnvironmentError{Name: "A_B", Pattern: "A_*"})),
		codes.PermissionDenied, "ENVIRONMENT_DENIED", map[string]string{"name": "A_B", "pattern": "A_*"})
	add("a controller that is missing", statusError(fmt.Errorf("more: %w", &keeper.CgroupError{Controller: "cpu", Why: "none"})),
		codes.FailedPrecondition, "CGROUP_UNAVAILABLE", map[string]string{"controller": "cpu"})
	add("a process between two starts", statusError(&session.RestartingError{Process: "p", Ref: "s/stdio:1", Next: time.Unix(1, 0)}), codes.Unavailable,
		"RESTARTING", map[string]string{"process": "p", "next": "1970-01-01T00:00:01Z"})
	add("a lost session", statusError(fmt.Errorf("more: %w", &session.LostError{Name: "s", Why: session.LostBoth})),
		codes.DataLoss, "SESSION_LOST", map[string]string{"why": "LOST_BOTH"})
	add("a session whose creator was lost", statusError(fmt.Errorf("more: %w", &session.CreatorError{Session: "s", Fault: session.LeaseOver, Ended: time.Unix(1e9, 0)})),
		codes.FailedPrecondition, "SESSION_LEASE", map[string]string{"why": "OVER", "ended": "2001-09-09T01:46:40Z"})
	add("another reader", statusError(&session.BusyError{Err: session.ErrBusyReader, Client: "pid 7 (cat)"}),
		codes.Aborted, "BUSY_READER", map[string]string{"client": "pid 7 (cat)", "expires": ""})
	add("another writer", statusError(&session.BusyError{Err: session.ErrBusyWriter, Client: "w", Expires: time.Unix(1e9, 5e8).In(time.FixedZone("x", 3600))}),
		codes.Aborted, "BUSY_WRITER", map[string]string{"client": "w", "expires": "2001-09-09T01:46:40.5Z"})
	add("a thief", statusError(fmt.Errorf("more: %w", &session.FencedError{By: "w", Epoch: 7})),
		codes.Aborted, "FENCED", map[string]string{"by": "w", "epoch": "7"})
	add("a lease that has ended", statusError(&session.FencedError{Epoch: 7}), codes.Aborted, "FENCED", map[string]string{"by": "", "epoch": "7"})
	add("too long for a reader", statusError(&pipe.TooLongError{Size: 9, Max: 8}),
		codes.FailedPrecondition, "MESSAGE_TOO_LONG", map[string]string{"size": "9", "max": "8"})
	add("too long for the pipe", sendError(&pipe.TooLongError{Size: 9, Max: 8}),
		codes.InvalidArgument, "FRAME_OVER_LIMIT", map[string]string{"size": "9", "limit": "8"})
	add("a message refused in Send", sendError(pipe.ErrMessage), codes.InvalidArgument, "MESSAGE_REFUSED", nil)
	add("unfinished", statusError(&pipe.UnfinishedError{Number: 3, Have: 4, Total: 5}),
		codes.FailedPrecondition, "UNFINISHED_MESSAGE", map[string]string{"number": "3", "have": "4", "total": "5"})
	add("a gap", statusError(&session.SequenceGapError{Expected: pipe.Position{Message: 3, Offset: 4}}),
		codes.FailedPrecondition, "SEQUENCE_GAP", map[string]string{"expected_message": "3", "expected_offset": "4"})
	add("a panic", (&Server{log: slog.New(slog.DiscardHandler)}).panicked("/x", "odd"), codes.Internal, "INTERNAL", nil)
	for _, e := range []struct {
		cause  pipe.EndCause
		first  bool
		code   codes.Code
		reason string
	}{
		{pipe.CauseClosed, true, codes.OutOfRange, "EOF"},
		{pipe.CauseReset, true, codes.Aborted, "PEER_RESET"},
		{pipe.CauseTruncated, true, codes.DataLoss, "TRUNCATED_FRAME"},
		{pipe.CauseBadFrame, true, codes.DataLoss, "BAD_FRAME"},
		{pipe.CauseOverLimit, true, codes.DataLoss, "FRAME_OVER_LIMIT"},
		{pipe.CauseEndpointClosed, true, codes.OutOfRange, "EOF"},
		{pipe.CauseReset, false, codes.OutOfRange, "EOF"},
		{pipe.CauseBadFrame, false, codes.OutOfRange, "EOF"},
	} {
		metadata, got := endAt(e.cause, e.first)
		add(fmt.Sprintf("end %v, first %t", e.cause, e.first), got, e.code, e.reason, metadata)
	}
	return all
}

func TestErrorsBecomeCodeReasonAndMetadata(t *testing.T) {
	for _, p := range provocations() {
		t.Run(p.name, func(t *testing.T) {
			if diff := cmp.Diff(p.want, answerTo(t, p.got)); diff != "" {
				t.Errorf("%v (-want +got):\n%s", p.got, diff)
			}
		})
	}
}

func TestErrorsOfGRPCCarryNoReason(t *testing.T) {
	made := status.Error(codes.NotFound, "as it was")
	tests := []struct {
		name string
		err  error
		code codes.Code
	}{
		{"a cancelled context", fmt.Errorf("waiting: %w", context.Canceled), codes.Canceled},
		{"a deadline", fmt.Errorf("waiting: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		{"a status", made, codes.NotFound},
		{"something unknown", errors.New("odd"), codes.Unknown},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(answer{Code: test.code}, answerTo(t, statusError(test.err))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if err := statusError(nil); err != nil {
		t.Errorf("statusError(nil) = %v", err)
	}
}

// A key is a reason with its code; a few reasons have two.
type key struct {
	reason string
	code   codes.Code
}

// provoked returns the metadata keys, sorted, of all that is provoked.
func provoked(t *testing.T) map[key][]string {
	t.Helper()
	all := make(map[key][]string)
	for _, p := range provocations() {
		a := answerTo(t, p.got)
		all[key{a.Reason, a.Code}] = append([]string{}, slices.Sorted(maps.Keys(a.Metadata))...)
	}
	return all
}

var documentRow = regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| `([A-Z_]+)` \\|([^|]*)\\| ([^|]+) \\| ([^|]+) \\|$")

// documented returns the rows of docs/errors.md.
func documented(t *testing.T) map[key][]string {
	t.Helper()
	text, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[key][]string)
	for _, row := range documentRow.FindAllStringSubmatch(string(text), -1) {
		var code codes.Code
		if err := code.UnmarshalJSON([]byte(strconv.Quote(row[2]))); err != nil {
			t.Fatalf("%s: %v", row[1], err)
		}
		k := key{row[1], code}
		if _, ok := all[k]; ok {
			t.Errorf("%s %v is documented twice", k.reason, k.code)
		}
		metadata := strings.FieldsFunc(row[3], func(r rune) bool { return strings.ContainsRune(" `,", r) })
		slices.Sort(metadata)
		all[k] = metadata
	}
	if rows := strings.Count(string(text), "\n| `"); rows != len(all) {
		t.Errorf("%d rows of the document are understood, there are %d", len(all), rows)
	}
	return all
}

func TestDocumentHasEveryErrorAndNoOther(t *testing.T) {
	if diff := cmp.Diff(provoked(t), documented(t)); diff != "" {
		t.Errorf("docs/errors.md (-code +document):\n%s", diff)
	}
}

// The reasons are looked for in the source, so that a new one cannot be left out of the provocations and so of the document.
func TestEveryReasonInTheCodeIsProvoked(t *testing.T) {
	reasons := make(map[string]bool)
	for k := range provoked(t) {
		reasons[k.reason] = true
	}
	files, err := fs.Glob(os.DirFS("."), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	written := make(map[string]bool)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, reason := range reasonsIn(t, name) {
			written[reason] = true
		}
	}
	if diff := cmp.Diff(written, reasons); diff != "" {
		t.Errorf("reasons (-in the code +provoked):\n%s", diff)
	}
	for _, r := range slices.Concat(errorTable, slices.Collect(maps.Values(endReasons))) {
		if _, ok := provoked(t)[key{r.reason, r.code}]; !ok {
			t.Errorf("%s %v is not provoked", r.reason, r.code)
		}
	}
}

var reasonName = regexp.MustCompile(`^"[A-Z]+(_[A-Z]+)*"$`)

// reasonsIn returns the reasons that a file gives: strings of rows, and of calls of reasonError.
func reasonsIn(t *testing.T, name string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	add := func(list []ast.Expr) {
		for _, e := range list {
			if lit, ok := e.(*ast.BasicLit); ok && reasonName.MatchString(lit.Value) {
				found = append(found, strings.Trim(lit.Value, `"`))
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if len(n.Elts) == 3 && name == "errors.go" {
				add(n.Elts)
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && f.Name == "reasonError" {
				add(n.Args)
			}
		}
		return true
	})
	return found
}
