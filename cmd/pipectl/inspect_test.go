package main

import (
	"strings"
	"testing"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestFinalTextSaysHowFarADirectionCame(t *testing.T) {
	closed := &pipedv1.End{Cause: pipedv1.EndCause_END_CAUSE_CLOSED, Position: &pipedv1.Position{Message: 3}, Bytes: 9}
	for want, final := range map[string]*pipedv1.Final{
		"received from stdio:1: 2 messages, 9 bytes; closed":                     {Pipe: "stdio", End: 1, Last: closed},
		"sent into stdio:1: 2 messages, 9 bytes; closed; all of it was read":     {Pipe: "stdio", End: 1, Sent: true, Last: closed, AllRead: new(true)},
		"sent into stdio:1: 2 messages, 9 bytes; closed; not all of it was read": {Pipe: "stdio", End: 1, Sent: true, Last: closed, AllRead: new(false)},
		"sent into stdio:1: 2 messages, 9 bytes; closed":                         {Pipe: "stdio", End: 1, Sent: true, Last: closed},
		"received from ctl:2: 0 messages, 0 bytes; session lost":                 {Pipe: "ctl", End: 2, Last: &pipedv1.End{Cause: pipedv1.EndCause_END_CAUSE_SESSION_LOST}},
	} {
		if got := finalText(final); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestUsageTextSaysTimeAndMemory(t *testing.T) {
	for want, used := range map[string]*pipedv1.ProcessUsage{
		"cpu 0.12s user 0.03s system, peak 34 MiB": {UserTime: durationpb.New(123 * time.Millisecond), SystemTime: durationpb.New(25 * time.Millisecond),
			PeakMemoryBytes: 34<<20 + 5000},
		"cpu 3600.00s user 0.00s system, peak 9.0 GiB": {UserTime: durationpb.New(time.Hour), PeakMemoryBytes: 9 << 30},
		"cpu 0.00s user 0.00s system, peak 900 B":      {PeakMemoryBytes: 900},
	} {
		if got := usageText(used); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	exited := &pipedv1.Process{Name: "p", State: pipedv1.Process_STATE_EXITED, Exit: &pipedv1.Exit{Usage: &pipedv1.ProcessUsage{PeakMemoryBytes: 5 << 20}}}
	if text := sessionText(&pipedv1.Session{Processes: []*pipedv1.Process{exited}}); !strings.Contains(text, "\n  cpu 0.00s user 0.00s system, peak 5.0 MiB\n") {
		t.Errorf("the session shows no usage:\n%s", text)
	}
	exited.Exit.Usage = nil
	if text := sessionText(&pipedv1.Session{Processes: []*pipedv1.Process{exited}}); strings.Contains(text, "cpu") {
		t.Errorf("the session shows a usage that nobody knows:\n%s", text)
	}
}

func TestLeaseTextNamesTheHolderAndUntilWhen(t *testing.T) {
	lease := &pipedv1.Lease{Holder: "me\x1b"}
	if got, want := leaseText(lease), `client me\x1b, while connected`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	lease.ExpireTime = timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC))
	if got, want := leaseText(lease), `client me\x1b, until 2026-01-02T03:04:05Z`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
