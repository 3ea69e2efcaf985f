//go:build linux

package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

const (
	saysLost  = "pipectl: note: the connection to the daemon is lost; trying again\n"
	saysAgain = "pipectl: note: connected again\n"
	lostBoth  = "pipectl: hint: the daemon and its keeper were killed together; "
)

// A screen is what a command has written so far.
type screen struct {
	mu    sync.Mutex
	shown bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.String()
}

// A background is a command that goes on while the daemon goes.
type background struct {
	t           *testing.T
	out, errOut screen
	exited      chan exitCode
}

// inBackground runs pipectl until the test ends; its stdin stays open.
func inBackground(t *testing.T, addr string, args ...string) *background {
	t.Helper()
	b := &background{t: t, exited: make(chan exitCode, 1)}
	in, typing := io.Pipe()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	t.Cleanup(func() {
		_ = typing.Close()
		cancel()
		<-ended
	})
	go func() {
		defer close(ended)
		b.exited <- run(ctx, append([]string{"--addr", addr}, args...), in, &b.out, &b.errOut)
	}()
	return b
}

// says waits until a stream has a text.
func (b *background) says(s *screen, text string) {
	b.t.Helper()
	if !pollUntil(func() bool { return strings.Contains(s.String(), text) }) {
		b.t.Fatalf("%q never came in %q; stderr: %q", text, b.out.String(), b.errOut.String())
	}
}

// newTalker starts a program that says hello, and a bare pipe.
func newTalker(t *testing.T) (addr string, kill func()) {
	t.Helper()
	addr, kill = newDaemon(t)
	c, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for _, req := range []*pipedv1.CreateSessionRequest{
		{Name: "cat", Process: &pipedv1.ProcessSpec{Args: []string{"sh", "-c", "echo hello; exec cat"}}},
		{Name: "q", Pipes: []*pipedv1.PipeSpec{{}}},
	} {
		if _, err := c.Create(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	return addr, kill
}

func TestWhoFollowsIsToldThatTheDaemonIsGoneAndGoesOnWithTheNext(t *testing.T) {
	addr, kill := newTalker(t)
	file := filepath.Join(t.TempDir(), "recording")
	following := map[string]*background{
		"tail":   inBackground(t, addr, "tail", "cat", "--follow"),
		"events": inBackground(t, addr, "events", "--follow"),
		"record": inBackground(t, addr, "record", "cat", "-o", file),
	}
	following["tail"].says(&following["tail"].out, "hello\n")
	following["events"].says(&following["events"].out, "session created")
	contains := func(text string) func() bool {
		return func() bool {
			recording, _ := os.ReadFile(file)
			return bytes.Contains(recording, []byte(text))
		}
	}
	eventually(t, contains(`"hello"`))
	kill()
	for _, b := range following {
		b.says(&b.errOut, saysLost)
	}
	daemonAt(t, addr)
	for _, b := range following {
		b.says(&b.errOut, saysLost+saysAgain)
	}
	var errOut screen
	if code := run(t.Context(), []string{"--addr", addr, "pipe", "--name", "next"}, nil, io.Discard, &errOut); code != exitOK {
		t.Errorf("pipe exits with %d: %s", code, errOut.String())
	}
	following["events"].says(&following["events"].out, "next")
	// The session was lost with both who kept it.
	for _, name := range []string{"tail", "record"} {
		b := following[name]
		if code := <-b.exited; code != exitError || !strings.Contains(b.errOut.String(), lostBoth) {
			t.Errorf("%s exits with %d: %s", name, code, b.errOut.String())
		}
	}
	eventually(t, contains(`{"reason":"failed","detail":"session lost`))
}

func TestWhoIsWaitedForGivesUpSomeTimeAfterTheDaemonIsGone(t *testing.T) {
	t.Parallel()
	addr, kill := newTalker(t)
	waiting := []struct {
		*background
		code exitCode
		told string
	}{
		{inBackground(t, addr, "recv", "cat", "-n", "2"), exitError, "hint: the daemon is gone"},
		{inBackground(t, addr, "recv", "q:2", "--timeout", "1s"), exitTimeout, "timeout: got 0 of 1"},
		{inBackground(t, addr, "attach", "q"), exitError, "hint: the daemon is gone"},
	}
	waiting[0].says(&waiting[0].out, "hello\n")
	c, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		q, err := c.Get(t.Context(), "q")
		if err != nil {
			t.Fatal(err)
		}
		ends := q.GetPipes()[0].GetEndpoints()
		return ends[0].GetInbox().GetLease() != nil && ends[1].GetInbox().GetLease() != nil
	})
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	kill()
	for _, b := range waiting {
		if code := <-b.exited; code != b.code {
			t.Errorf("exit code %d, want %d: %s", code, b.code, b.errOut.String())
		}
		if said := b.errOut.String(); !strings.Contains(said, saysLost) || !strings.Contains(said, b.told) {
			t.Errorf("stderr says %q, want %q", said, b.told)
		}
	}
}
