package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// maxDetachKeys bounds a sequence that somebody has to remember.
const maxDetachKeys = 16

// A detachKeys is the flag --detach-keys: what a terminal sends for the keys that
// leave a session.
type detachKeys struct {
	text string
	sent []byte
}

// defaultDetachKeys are those of docker attach and podman attach.
func defaultDetachKeys() detachKeys {
	return detachKeys{text: "ctrl-p,ctrl-q", sent: []byte{'p' & 0x1f, 'q' & 0x1f}}
}

// String returns the sequence as it is given.
func (d *detachKeys) String() string { return d.text }

// Type names the value in help.
func (d *detachKeys) Type() string { return "KEYS" }

// Set takes keys with commas between them: a character, or ctrl- and one.
func (d *detachKeys) Set(text string) error {
	var sent []byte
	for name := range strings.SplitSeq(text, ",") {
		key, err := parseKey(name)
		if err != nil {
			return err
		}
		sent = append(sent, key)
	}
	if len(sent) > maxDetachKeys {
		return fmt.Errorf("they are %d keys, at most %d are allowed", len(sent), maxDetachKeys)
	}
	d.text, d.sent = text, sent
	return nil
}

// parseKey returns the byte that a terminal sends for a key.
func parseKey(name string) (byte, error) {
	key, isControl := strings.CutPrefix(strings.ToLower(name), "ctrl-")
	switch {
	case !isControl && len(name) == 1 && name[0] > ' ' && name[0] < 0x7f:
		return name[0], nil
	case !isControl || len(key) != 1 || !strings.Contains("abcdefghijklmnopqrstuvwxyz[\\]^_", key):
		return 0, fmt.Errorf("key %q is neither a character nor ctrl- and one of a-z [ \\ ] ^ _", name)
	case key == "j" || key == "m":
		return 0, errors.New("ctrl-j and ctrl-m are the Enter key: choose another")
	default:
		return key[0] & 0x1f, nil
	}
}

// A keyScanner finds the detach keys in what is typed. Without keys it finds
// nothing.
type keyScanner struct {
	keys []byte
	// held says how many of the keys were the last that came; they are input only
	// when the next one is another.
	held int
}

// scan returns what of data is input, and whether the last of the keys came; what
// was typed behind them is dropped.
func (s *keyScanner) scan(data []byte) (input []byte, found bool) {
	if len(s.keys) == 0 {
		return data, false
	}
	for _, b := range data {
		came := append(bytes.Clone(s.keys[:s.held]), b)
		s.held = len(came)
		for !bytes.HasPrefix(s.keys, came[len(came)-s.held:]) {
			s.held--
		}
		input = append(input, came[:len(came)-s.held]...)
		if s.held == len(s.keys) {
			s.held = 0
			return input, true
		}
	}
	return input, false
}

// rest returns the keys that were held back, for the end of the input.
func (s *keyScanner) rest() []byte {
	rest := s.keys[:s.held]
	s.held = 0
	return rest
}
