package main

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestDetachKeysAreWhatATerminalSends(t *testing.T) {
	for text, want := range map[string]string{
		"ctrl-p,ctrl-q": "\x10\x11", "ctrl-a,d": "\x01d", "CTRL-A": "\x01", "ctrl-]": "\x1d", "~,.": "~.",
	} {
		var keys detachKeys
		if err := keys.Set(text); err != nil || string(keys.sent) != want || keys.String() != text {
			t.Errorf("%q: got %q (%v), %v; want %q", text, keys.sent, &keys, err, want)
		}
	}
	keys := defaultDetachKeys()
	for _, text := range []string{"", "ctrl-", "ctrl-p,", "ctrl-1", "ctrl-@", "alt-x", "ü", " ", "ctrl-j", "ctrl-m", "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q"} {
		if err := keys.Set(text); err == nil {
			t.Errorf("%q was taken as %q", text, keys.sent)
		}
	}
	if string(keys.sent) != "\x10\x11" {
		t.Errorf("a refused value left %q", keys.sent)
	}
}

func TestKeysAreFoundHoweverTheInputIsCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Two letters, so that beginnings of the keys come often.
		letters := rapid.SliceOfN(rapid.SampledFrom([]byte("ab")), 0, 40)
		keys := rapid.SliceOfN(rapid.SampledFrom([]byte("ab")), 1, 4).Draw(t, "keys")
		typed := letters.Draw(t, "typed")
		s := keyScanner{keys: keys}
		var got []byte
		found := false
		for left := typed; len(left) > 0 && !found; {
			n := rapid.IntRange(1, len(left)).Draw(t, "cut")
			var input []byte
			input, found = s.scan(left[:n])
			got = append(got, input...)
			left = left[n:]
		}
		if !found {
			got = append(got, s.rest()...)
		}
		want, _, wantFound := bytes.Cut(typed, keys)
		if found != wantFound || !bytes.Equal(got, want) {
			t.Fatalf("got %q, %v; want %q, %v", got, found, want, wantFound)
		}
	})
}

func TestWithoutKeysEverythingIsInput(t *testing.T) {
	var s keyScanner
	if got, found := s.scan([]byte("\x10\x11")); found || string(got) != "\x10\x11" || len(s.rest()) != 0 {
		t.Errorf("got %q, %v", got, found)
	}
}
