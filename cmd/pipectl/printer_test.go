package main

import (
	"bufio"
	"strings"
	"testing"

	"github.com/piped-dev/piped/client"
)

func TestTerminalGetsControlCharactersEscaped(t *testing.T) {
	for text, want := range map[string]string{
		"plain\ttext":        "plain\ttext\n",
		"\x1b[31mred":        `\x1b[31mred` + "\n",
		"bell\a, del\x7f":    `bell\x07, del\x7f` + "\n",
		"one\ntwo":           "one\ntwo\n",
		"c1 \u009b":          `c1 \u009b` + "\n",
		"turned \u202e":      `turned \u202e` + "\n",
		"ünïcode":            "ünïcode\n",
		"not utf-8 \xff\xc3": `not utf-8 \xff\xc3` + "\n",
	} {
		// However it is cut into parts, the same comes out.
		for cut := range len(text) {
			var out strings.Builder
			p := &printer{out: bufio.NewWriter(&out), end: "\n", escape: true}
			for _, m := range []client.Message{{Data: []byte(text[:cut]), More: true}, {Data: []byte(text[cut:])}} {
				if err := p.message(m); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.flush(); err != nil {
				t.Fatal(err)
			}
			if out.String() != want {
				t.Errorf("%q cut at %d: got %q, want %q", text, cut, out.String(), want)
			}
		}
	}
}
