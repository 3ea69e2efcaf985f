package client_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/piped-dev/piped/client"
	"pgregory.net/rapid"
)

func TestParseRefReadsSessionPipeAndEnd(t *testing.T) {
	for text, want := range map[string]client.Ref{
		"calc":           {Session: "calc"},
		"calc:1":         {Session: "calc", End: 1},
		"calc:2":         {Session: "calc", End: 2},
		"calc/ctl":       {Session: "calc", Pipe: "ctl"},
		"calc/ctl:2":     {Session: "calc", Pipe: "ctl", End: 2},
		"a.b_c-9/x.y:1":  {Session: "a.b_c-9", Pipe: "x.y", End: 1},
		"0195f7d2-8a3c":  {Session: "0195f7d2-8a3c"},
		"s/reader.stdio": {Session: "s", Pipe: "reader.stdio"},
		"calc~2":         {Session: "calc", Incarnation: 2},
		"calc/ctl~12:2":  {Session: "calc", Pipe: "ctl", Incarnation: 12, End: 2},
	} {
		t.Run(text, func(t *testing.T) {
			got, err := client.ParseRef(text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got.String() != text {
				t.Errorf("String() = %q, want %q", got.String(), text)
			}
		})
	}
}

func TestParseRefSaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"":                      "session name is missing",
		":1":                    "session name is missing",
		"s/":                    "pipe name is missing",
		"s/:2":                  "pipe name is missing",
		"s:3":                   "must be 1 or 2",
		"s:":                    "must be 1 or 2",
		"s:01":                  "must be 1 or 2",
		"s:1:2":                 "must be 1 or 2",
		"s~":                    "a number from 1 on",
		"s~0":                   "a number from 1 on",
		"s/p~x:1":               "a number from 1 on",
		"s~01":                  "a number from 1 on",
		"s~1/p":                 "a number from 1 on",
		"S":                     "must be 1 to 63",
		"s/Pipe":                "must be 1 to 63",
		"-s":                    "must be 1 to 63",
		"a b":                   "must be 1 to 63",
		"s/p/q":                 "must be 1 to 63",
		strings.Repeat("a", 64): "must be 1 to 63",
	} {
		t.Run(text, func(t *testing.T) {
			_, err := client.ParseRef(text)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want an error with %q", err, want)
			}
		})
	}
}

func TestParseRefReturnsWhatStringWrote(t *testing.T) {
	name := rapid.StringMatching(`[a-z0-9][a-z0-9._-]{0,62}`)
	rapid.Check(t, func(t *rapid.T) {
		ref := client.Ref{Session: name.Draw(t, "session"), End: rapid.IntRange(0, 2).Draw(t, "end")}
		if rapid.Bool().Draw(t, "has pipe") {
			ref.Pipe = name.Draw(t, "pipe")
		}
		ref.Incarnation = rapid.Uint64Range(0, 300).Draw(t, "incarnation")
		got, err := client.ParseRef(ref.String())
		if err != nil || got != ref {
			t.Fatalf("%q: got %+v, %v; want %+v", ref.String(), got, err, ref)
		}
	})
}
