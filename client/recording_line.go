package client

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// recordedLine is an event as it is written.
type recordedLine struct {
	Time      recordedTime      `json:"t"`
	Direction RecordedDirection `json:"dir,omitempty"`
	Number    uint64            `json:"n,omitempty"`
	Offset    uint64            `json:"offset,omitempty"`
	Text      *string           `json:"text,omitempty"`
	Base64    []byte            `json:"base64,omitempty"`
	Total     uint64            `json:"total,omitempty"`
	More      bool              `json:"more,omitempty"`
	Partial   bool              `json:"partial,omitempty"`
	Truncated bool              `json:"truncated,omitempty"`
	Stray     bool              `json:"stray,omitempty"`
	Gap       *recordedGap      `json:"gap,omitempty"`
	End       *recordedEnd      `json:"end,omitempty"`
	Stop      *RecordingStop    `json:"stop,omitempty"`
}

// recordedGap is where a gap goes on; it begins at the position of its line.
type recordedGap struct {
	To       uint64 `json:"to"`
	ToOffset uint64 `json:"to_offset,omitempty"`
}

// recordedEnd is an end; its position is that of its line.
type recordedEnd struct {
	Cause  string `json:"cause"`
	Bytes  uint64 `json:"bytes"`
	Detail string `json:"detail,omitempty"`
}

// recordedTime is written as seconds with six digits behind the point.
type recordedTime time.Duration

// MarshalJSON writes seconds.
func (t recordedTime) MarshalJSON() ([]byte, error) {
	microseconds := time.Duration(t).Microseconds()
	return fmt.Appendf(nil, "%d.%06d", microseconds/1e6, microseconds%1e6), nil
}

// UnmarshalJSON reads seconds in any form.
func (t *recordedTime) UnmarshalJSON(text []byte) error {
	seconds, err := strconv.ParseFloat(string(text), 64)
	switch {
	case err != nil:
		return fmt.Errorf("time %s is not a number of seconds", text)
	case seconds < 0 || seconds > maxRecordedTime.Seconds():
		return fmt.Errorf("time %s is out of range", text)
	}
	*t = recordedTime(time.Duration(math.Round(seconds*1e6)) * time.Microsecond)
	return nil
}

// line returns the event as it is written.
func (e *RecordingEvent) line() (*recordedLine, error) {
	line := &recordedLine{Time: recordedTime(e.Time), Direction: e.Direction, Stop: e.Stop}
	kinds := 0
	if m := e.Message; m != nil {
		kinds++
		line.Number, line.Offset = m.Position.Message, m.Position.Offset
		line.More, line.Partial, line.Truncated, line.Stray = m.More, m.Partial, m.Truncated, m.Stray
		if m.More || m.Position.Offset > 0 || m.Truncated && m.TotalSize > uint64(len(m.Data)) {
			line.Total = m.TotalSize
		}
		if len(m.Data) > maxRecordedData {
			return nil, fmt.Errorf("%d bytes are too many for one event: at most %d", len(m.Data), maxRecordedData)
		}
		if utf8.Valid(m.Data) {
			text := string(m.Data)
			line.Text = &text
		} else {
			line.Base64 = m.Data
		}
	}
	if e.Gap != nil {
		kinds++
		line.Number, line.Offset = e.Gap.From.Message, e.Gap.From.Offset
		line.Gap = &recordedGap{To: e.Gap.To.Message, ToOffset: e.Gap.To.Offset}
	}
	if e.End != nil {
		kinds++
		line.Number, line.Offset = e.End.GetPosition().GetMessage(), e.End.GetPosition().GetOffset()
		line.End = &recordedEnd{Cause: causeText(e.End.GetCause()), Bytes: e.End.GetBytes(), Detail: e.End.GetDetail()}
	}
	if e.Stop != nil {
		kinds++
	}
	if kinds != 1 {
		return nil, fmt.Errorf("an event is one of message, gap, end and stop, not %d of them", kinds)
	}
	return line, line.check()
}

// check says what is wrong with an event.
func (l *recordedLine) check() error {
	switch {
	case l.Time < 0 || time.Duration(l.Time) > maxRecordedTime:
		return fmt.Errorf("time %v is out of range", time.Duration(l.Time))
	case l.Stop != nil:
		return nil
	case l.Direction != RecordedIn && l.Direction != RecordedOut:
		return fmt.Errorf("direction %q is neither %q nor %q", l.Direction, RecordedIn, RecordedOut)
	case l.Number == 0:
		return errors.New("the number is missing: the first message is 1")
	case l.Text != nil && l.Base64 != nil:
		return errors.New("both text and base64")
	default:
		return nil
	}
}

// event returns what the line says; nil for a kind that is not known here.
func (l *recordedLine) event(header *RecordingHeader) *RecordingEvent {
	event := &RecordingEvent{Time: time.Duration(l.Time), Direction: l.Direction}
	at := Position{Incarnation: header.Incarnation, Message: l.Number, Offset: l.Offset}
	switch {
	case l.Stop != nil:
		return &RecordingEvent{Time: event.Time, Stop: l.Stop}
	case l.Gap != nil:
		to := Position{Incarnation: header.Incarnation, Message: l.Gap.To, Offset: l.Gap.ToOffset}
		event.Gap = &GapError{From: at, To: to}
	case l.End != nil:
		event.End = &pipedv1.End{Cause: causeOf(l.End.Cause), Position: at.proto(), Bytes: l.End.Bytes, Detail: l.End.Detail}
	case l.Text != nil || l.Base64 != nil:
		m := &Message{Position: at, Data: l.Base64, More: l.More, Partial: l.Partial, Truncated: l.Truncated, Stray: l.Stray}
		if l.Text != nil {
			m.Data = []byte(*l.Text)
		}
		m.TotalSize = uint64(len(m.Data))
		if m.More || at.Offset > 0 || l.Total > 0 {
			m.TotalSize = l.Total
		}
		m.After = at.after(len(m.Data), header.Raw(l.Direction), m.More || m.Truncated)
		event.Message = m
	default:
		return nil
	}
	return event
}

// causePrefix begins the names of causes in the contract.
const causePrefix = "END_CAUSE_"

func causeText(cause pipedv1.EndCause) string {
	return strings.ToLower(strings.TrimPrefix(cause.String(), causePrefix))
}

func causeOf(text string) pipedv1.EndCause {
	return pipedv1.EndCause(pipedv1.EndCause_value[causePrefix+strings.ToUpper(text)])
}
