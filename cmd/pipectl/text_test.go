package main

import (
	"errors"
	"testing"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestExitThatNobodyKnowsIsNotAnExitWithZero(t *testing.T) {
	p := &pipedv1.Process{Name: "calc", State: pipedv1.Process_STATE_EXITED, Exit: &pipedv1.Exit{Status: &pipedv1.Exit_Unknown{Unknown: true}}}
	if got := exitText(p); got != "exit unknown" {
		t.Errorf("got %q", got)
	}
	coded, ok := errors.AsType[*codedError](exitOf(p))
	if !ok || coded.code != exitFailed || coded.err == nil {
		t.Errorf("got %v, want exit code 125 and why", coded)
	}
}

func TestTextOfOthersCannotActOnATerminal(t *testing.T) {
	for given, want := range map[string]string{
		"plain -x ünï":     "plain -x ünï",
		"a\x1b[2Jb":        `a\x1b[2Jb`,
		"two\nlines\t.":    `two\nlines\t.`,
		"\xff\u009b\u202e": `\xff\u009b\u202e`,
	} {
		if got := printable(given); got != want {
			t.Errorf("printable(%q) = %q, want %q", given, got, want)
		}
	}
}

func TestCountsHaveTheirPlural(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 messages", 1: "1 message", 2: "2 messages"} {
		if got := countText(n, "message"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
