package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/protobuf/testing/protocmp"
)

func TestEnvironmentTakesValuesFromTheFlagOrFromHere(t *testing.T) {
	lookup := func(key string) (string, bool) {
		value, found := map[string]string{"HERE": "a=b", "BLANK": ""}[key]
		return value, found
	}
	got, err := environment([]string{"K=V", "EMPTY=", "HERE", "BLANK", "EQ=x=y"}, lookup)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"K=V", "EMPTY=", "HERE=a=b", "BLANK=", "EQ=x=y"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, arg := range []string{"", "=V", "ABSENT"} {
		if got, err := environment([]string{arg}, lookup); !isUsage(err) {
			t.Errorf("%q: got %q, %v; want wrong use", arg, got, err)
		}
	}
}

func TestFDFlagMakesAPipeAndHandsItsFarEndOver(t *testing.T) {
	pipe, inherit, err := parseFD("ctl:3:mp")
	if err != nil {
		t.Fatal(err)
	}
	framing := &pipedv1.Framing{Name: "mp"}
	wantPipe := &pipedv1.PipeSpec{Name: "ctl", Kind: pipedv1.Pipe_KIND_DUPLEX, FramingIn: framing, FramingOut: framing}
	wantInherit := &pipedv1.Inherit{Pipe: "ctl", End: 2, Fd: 3, HandOver: true}
	if diff := cmp.Diff(wantPipe, pipe, protocmp.Transform()); diff != "" {
		t.Errorf("pipe (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wantInherit, inherit, protocmp.Transform()); diff != "" {
		t.Errorf("inherit (-want +got):\n%s", diff)
	}
	for _, text := range []string{"", "ctl", "ctl:3", "ctl:3:mp:x", ":3:mp", "ctl:2:mp", "ctl:x:mp", "ctl:3:pm", "ctl:-1:mp", "ctl:99999999999:mp"} {
		if _, _, err := parseFD(text); !isUsage(err) {
			t.Errorf("%q: got %v, want wrong use", text, err)
		}
	}
}

func TestInheritFlagKeepsTheDaemonsCopy(t *testing.T) {
	got, err := parseInherit("pipe:2:5")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&pipedv1.Inherit{Pipe: "pipe", End: 2, Fd: 5}, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, text := range []string{"", "pipe:2", "pipe:3:3", "pipe:0:3", "Pipe:1:3", "pipe:1:-1", "pipe:1:3:line"} {
		if _, err := parseInherit(text); !isUsage(err) {
			t.Errorf("%q: got %v, want wrong use", text, err)
		}
	}
}

func isUsage(err error) bool {
	coded, ok := errors.AsType[*codedError](err)
	return ok && coded.code == exitUsage
}

func TestCommandTextCanBeTypedInAgain(t *testing.T) {
	got := commandText([]string{"sh", "-c", "echo 'a b'", "", "x=1", "bell\a"})
	if want := `sh -c 'echo '\''a b'\''' '' x=1 "bell\a"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := shorten(strings.Repeat("ü", 10), 5); got != "üüüü…" {
		t.Errorf("got %s", got)
	}
}
