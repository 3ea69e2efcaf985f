//go:build linux

package client_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"
)

// recordingStart is when the recordings of these tests began.
var recordingStart = time.Date(2026, 11, 23, 3, 4, 5, 600_000_000, time.UTC)

func recordingHeader(framing string) client.RecordingHeader {
	return client.RecordingHeader{
		Version: 1, Start: recordingStart, Session: "calc", UID: "0199", Pipe: "stdio", End: 1, Kind: "stdio", Incarnation: 1,
		Directions: []client.RecordedDirection{client.RecordedIn, client.RecordedOut},
		FramingIn:  client.RecordedFraming{Name: framing, CarriageReturn: "strip"},
		FramingOut: client.RecordedFraming{Name: framing},
	}
}

func at(message, offset uint64) client.Position {
	return client.Position{Incarnation: 1, Message: message, Offset: offset}
}

// recordedEvents are events of every kind.
func recordedEvents() []client.RecordingEvent {
	in, out := client.RecordedIn, client.RecordedOut
	return []client.RecordingEvent{
		{Time: 0, Direction: in, Message: &client.Message{Position: at(1, 0), After: at(2, 0), Data: []byte("6*7"), TotalSize: 3}},
		{Time: 1500 * time.Microsecond, Direction: out, Gap: &client.GapError{From: at(1, 0), To: at(3, 1)}},
		{Time: 2 * time.Second, Direction: out, Message: &client.Message{Position: at(3, 1), After: at(3, 3), Data: []byte{0xff, 0}, TotalSize: 5, More: true}},
		{Time: 2 * time.Second, Direction: out, Message: &client.Message{Position: at(3, 3), After: at(4, 0), Data: []byte("\n\x00"), TotalSize: 5}},
		{Time: 3 * time.Second, Direction: out, Message: &client.Message{Position: at(4, 0), After: at(5, 0)}},
		{Time: 3 * time.Second, Direction: out, Message: &client.Message{Position: at(5, 0), After: at(5, 8), Data: []byte("ü<&>\u2028"), TotalSize: 8, Partial: true, Truncated: true, Stray: true}},
		{Time: time.Hour, Direction: out, End: &pipedv1.End{
			Cause: pipedv1.EndCause_END_CAUSE_BAD_FRAME, Position: &pipedv1.Position{Incarnation: 1, Message: 6}, Bytes: 99, Detail: "why",
		}},
		{Time: time.Hour + time.Microsecond, Stop: &client.RecordingStop{Reason: client.RecordingInterrupted, Detail: "enough"}},
	}
}

const recordedText = `{"piped_recording":1,"start":"2026-11-23T03:04:05.6Z","session":"calc","uid":"0199","pipe":"stdio","end":1,"kind":"stdio","incarnation":1,"directions":["in","out"],"framing_in":{"name":"line","carriage_return":"strip"},"framing_out":{"name":"line"}}
{"t":0.000000,"dir":"in","n":1,"text":"6*7"}
{"t":0.001500,"dir":"out","n":1,"gap":{"to":3,"to_offset":1}}
{"t":2.000000,"dir":"out","n":3,"offset":1,"base64":"/wA=","total":5,"more":true}
{"t":2.000000,"dir":"out","n":3,"offset":3,"text":"\n\u0000","total":5}
{"t":3.000000,"dir":"out","n":4,"text":""}
{"t":3.000000,"dir":"out","n":5,"text":"ü<&>\u2028","partial":true,"truncated":true,"stray":true}
{"t":3600.000000,"dir":"out","n":6,"end":{"cause":"bad_frame","bytes":99,"detail":"why"}}
{"t":3600.000001,"stop":{"reason":"interrupted","detail":"enough"}}
`

// writeRecording returns the recording of the events.
func writeRecording(t rapid.TB, header client.RecordingHeader, events ...client.RecordingEvent) string {
	t.Helper()
	var out bytes.Buffer
	w, err := client.NewRecordingWriter(&out, header)
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range events {
		if err := w.Write(event); err != nil {
			t.Fatalf("%+v: %v", event, err)
		}
	}
	return out.String()
}

// readRecording reads until an error.
func readRecording(text string) (client.RecordingHeader, []client.RecordingEvent, error) {
	r, err := client.NewRecordingReader(strings.NewReader(text))
	if err != nil {
		return client.RecordingHeader{}, nil, err
	}
	var events []client.RecordingEvent
	for {
		event, err := r.Next()
		if err != nil {
			return r.Header(), events, err
		}
		events = append(events, event)
	}
}

func TestRecordingIsTheDocumentedText(t *testing.T) {
	if diff := cmp.Diff(recordedText, writeRecording(t, recordingHeader("line"), recordedEvents()...)); diff != "" {
		t.Error(diff)
	}
}

func TestRecordingIsReadAsItWasWritten(t *testing.T) {
	header, events, err := readRecording(recordedText)
	if !errors.Is(err, io.EOF) || errors.Is(err, client.ErrRecordingCut) {
		t.Errorf("got %v, want EOF", err)
	}
	if diff := cmp.Diff(recordingHeader("line"), header); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(recordedEvents(), events, protocmp.Transform(), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

func TestRecordingKeepsAnyBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		framing := rapid.SampledFrom([]string{"mp", "raw"}).Draw(t, "framing")
		data := rapid.SliceOf(rapid.OneOf(rapid.Byte(), rapid.ByteRange('a', 'z'))).Draw(t, "data")
		m := client.Message{Position: at(rapid.Uint64Range(1, math.MaxUint32).Draw(t, "n"), 0), Data: data, TotalSize: uint64(len(data))}
		m.After = at(m.Position.Message+1, 0)
		if framing == "raw" {
			m.After = at(m.Position.Message+uint64(len(data)), 0)
		}
		event := client.RecordingEvent{Direction: client.RecordedOut, Message: &m}
		event.Time = time.Duration(rapid.Int64Range(0, int64(99*365*24*time.Hour/time.Microsecond)).Draw(t, "µs")) * time.Microsecond
		_, events, err := readRecording(writeRecording(t, recordingHeader(framing), event))
		if diff := cmp.Diff([]client.RecordingEvent{event}, events, cmpopts.EquateEmpty()); diff != "" || !errors.Is(err, client.ErrRecordingCut) {
			t.Errorf("%v: %s", err, diff)
		}
	})
}

func TestRecordingReaderSaysWhatIsWrong(t *testing.T) {
	header, events, _ := strings.Cut(recordedText, "\n")
	first, _, _ := strings.Cut(events, "\n")
	for name, tt := range map[string]struct {
		text string
		want error
		says string
	}{
		"empty":                {"", client.ErrNotRecording, "empty"},
		"text":                 {"hello\n", client.ErrNotRecording, "line 1"},
		"other JSON":           {`{"a":1}`, client.ErrNotRecording, "line 1"},
		"version 0":            {`{"piped_recording":0}` + "\n", client.ErrNotRecording, "line 1"},
		"a header that is odd": {`{"piped_recording":1,"session":7}` + "\n", client.ErrNotRecording, "session"},
		"newer":                {`{"piped_recording":2,"session":7}` + "\n", client.ErrRecordingVersion, "version 2"},
		"cut in the header":    {header, client.ErrRecordingCut, "line 1"},
		"no events":            {header + "\n", client.ErrRecordingCut, "line 1"},
		"no stop":              {header + "\n" + first + "\n", client.ErrRecordingCut, "line 2"},
		"cut in a line":        {recordedText[:len(recordedText)-5], client.ErrRecordingCut, "inside line 9"},
		"cut before a newline": {strings.TrimSuffix(recordedText, "\n"), client.ErrRecordingCut, "inside line 9"},
		"not JSON":             {header + "\n" + first[1:] + "\n", nil, "line 2"},
		"not UTF-8":            {header + "\n" + `{"dir":"in","n":1,"text":"` + "\xff\"}\n", nil, "line 2 is not UTF-8"},
		"no direction":         {header + "\n" + `{"t":0,"n":1,"text":""}` + "\n", nil, "line 2: direction"},
		"no number":            {header + "\n" + `{"t":0,"dir":"in","text":""}` + "\n", nil, "line 2: the number"},
		"both kinds of data":   {header + "\n" + `{"dir":"in","n":1,"text":"","base64":""}` + "\n", nil, "line 2: both"},
		"base64":               {header + "\n" + `{"dir":"in","n":1,"base64":"?"}` + "\n", nil, "line 2"},
		"time":                 {header + "\n" + `{"t":-1,"dir":"in","n":1,"text":""}` + "\n", nil, "line 2: time"},
		"a time that is text":  {header + "\n" + `{"t":"1","dir":"in","n":1,"text":""}` + "\n", nil, "line 2: time"},
		"more after the stop":  {recordedText + recordedText, nil, "line 10 comes after"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := readRecording(tt.text)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %v, %q", err, tt.want, tt.says)
			}
			if tt.want == nil && errors.Is(err, io.EOF) {
				t.Errorf("got %v, which looks like the end", err)
			}
		})
	}
}

func TestRecordingReaderIgnoresWhatItDoesNotKnow(t *testing.T) {
	text := strings.ReplaceAll(recordedText, `{"t"`, `{"new":{"text":[1]},"t"`)
	text = strings.Replace(text, "\n", "\n\n"+`{"t":1,"dir":"aside","mark":"a kind of event to come"}`+"\n", 1)
	_, events, err := readRecording(text)
	if diff := cmp.Diff(recordedEvents(), events, protocmp.Transform(), cmpopts.EquateEmpty()); diff != "" || !errors.Is(err, io.EOF) {
		t.Errorf("%v: %s", err, diff)
	}
}

func TestRecordingWriterRefusesWhatItCannotWrite(t *testing.T) {
	m := &client.Message{Position: at(1, 0)}
	for name, event := range map[string]client.RecordingEvent{
		"nothing":      {Direction: client.RecordedIn},
		"two kinds":    {Direction: client.RecordedIn, Message: m, Gap: &client.GapError{}},
		"no direction": {Message: m},
		"no number":    {Direction: client.RecordedIn, Message: &client.Message{}},
		"early":        {Direction: client.RecordedIn, Message: m, Time: -time.Second},
		"too large":    {Direction: client.RecordedIn, Message: &client.Message{Position: at(1, 0), Data: make([]byte, 16<<20+1)}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			w, err := client.NewRecordingWriter(&out, recordingHeader("line"))
			if err != nil {
				t.Fatal(err)
			}
			before := out.Len()
			if err := w.Write(event); err == nil || out.Len() != before {
				t.Errorf("got %v, and %d bytes", err, out.Len()-before)
			}
			if err := w.Write(client.RecordingEvent{Stop: &client.RecordingStop{Reason: client.RecordingEnded}}); err != nil {
				t.Error(err)
			}
			if err := w.Write(recordedEvents()[0]); !errors.Is(err, client.ErrClosed) {
				t.Errorf("after the stop: got %v, want ErrClosed", err)
			}
		})
	}
}

// halfWriter takes so many bytes, then fails once, then takes everything.
type halfWriter struct{ room int }

var errFull = errors.New("full")

func (w *halfWriter) Write(b []byte) (int, error) {
	if w.room >= 0 && len(b) > w.room {
		n := w.room
		w.room = -1
		return n, errFull
	}
	w.room -= len(b)
	return len(b), nil
}

func TestRecordingWriterStopsAtHalfALine(t *testing.T) {
	w, err := client.NewRecordingWriter(&halfWriter{room: len(recordedText) / 2}, recordingHeader("line"))
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range recordedEvents() {
		err = w.Write(event)
	}
	if !errors.Is(err, errFull) {
		t.Errorf("got %v, want the first error again", err)
	}
}

func FuzzRecordingReader(f *testing.F) {
	// Short ones: long ones would be made shorter for most of the time.
	for line := range strings.Lines(recordedText) {
		f.Add(`{"piped_recording":1}` + "\n" + line)
		f.Add(`{"piped_recording":1,"framing_out":{"name":"raw"}}` + "\n" + line)
	}
	f.Add(`{"piped_recording":2}`)
	f.Fuzz(func(t *testing.T, text string) {
		header, events, err := readRecording(text)
		if err == nil {
			t.Fatal("no error at the end")
		}
		if header.Version == 0 {
			return
		}
		// What was understood is written and read as the same.
		_, again, _ := readRecording(writeRecording(t, header, events...))
		if diff := cmp.Diff(events, again, protocmp.Transform(), cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	})
}
