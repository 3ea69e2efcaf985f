package main

import "testing"

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
