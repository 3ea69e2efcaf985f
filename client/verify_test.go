//go:build linux

package client_test

import (
	"errors"
	"io"
	"testing"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestVerifyComparesTheLastWordsWithWhatWasSeen(t *testing.T) {
	c := dial(t)
	for _, test := range []struct {
		name     string
		program  []string
		read     int
		open     bool // what is sent does not end by itself
		complete bool
	}{
		{name: "everything", program: []string{"cat"}, read: 3, complete: true},
		{name: "one message is left", program: []string{"cat"}, read: 2},
		{name: "the process leaves input", program: []string{"sh", "-c", "read line"}, open: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: test.program}})
			e := c.Endpoint(client.Ref{Session: session})
			w := newWriter(t, e, client.WriterOptions{})
			for _, msg := range []string{"a", "b", "c"} {
				// A process that has exited takes nothing more.
				if err := w.Send(t.Context(), []byte(msg)); err != nil && !errors.Is(err, client.ErrBrokenPipe) {
					t.Fatal(err)
				}
			}
			_ = w.Close(t.Context())
			if !test.open {
				if err := e.CloseSend(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			r := newReader(t, e, client.ReaderOptions{})
			for range test.read {
				next(t, r)
			}
			if test.complete {
				if _, err := r.Next(t.Context()); !errors.Is(err, io.EOF) {
					t.Errorf("got %v, want EOF", err)
				}
			}
			var process *pipedv1.Process
			if err := until(t.Context(), func() bool {
				var err error
				if process, err = c.Wait(t.Context(), session, "", client.Forever); err != nil {
					t.Fatal(err)
				}
				// Directions may end a little after the process.
				return len(process.GetFinals()) >= 2
			}); err != nil {
				t.Fatal(err)
			}
			err := client.Verify(process, r, w)
			if test.complete && err != nil || !test.complete && !errors.Is(err, client.ErrIncomplete) {
				t.Errorf("got %v, want complete %v", err, test.complete)
			}
			_ = r.Close(t.Context())
		})
	}
}

func TestVerifyRightAfterTheExitWaitsForTheLastWords(t *testing.T) {
	c := dial(t)
	f := &pipedv1.Framing{Name: "line"}
	for range 20 {
		session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
			Args: []string{"sh", "-c", "read a; echo $a"}, StdioPipe: &pipedv1.PipeSpec{FramingIn: f, FramingOut: f},
		}})
		e := c.Endpoint(client.Ref{Session: session})
		w := newWriter(t, e, client.WriterOptions{})
		r := newReader(t, e, client.ReaderOptions{})
		if err := w.Send(t.Context(), []byte("hi")); err != nil {
			t.Fatal(err)
		}
		next(t, r)
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Wait(t.Context(), session, "", client.Forever); err != nil {
			t.Fatal(err)
		}
		if err := c.Verify(t.Context(), session, "", r, w); err != nil {
			t.Errorf("Verify: %v", err)
		}
		_ = w.Close(t.Context())
		_ = r.Close(t.Context())
	}
}

func TestVerifyIsNotFooledByTheEndOfAnotherPipe(t *testing.T) {
	c := dial(t)
	session := create(t, c, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
		// A descendant holds the output, and nobody holds stderr.
		Args: []string{"sh", "-c", "sleep 60 2>/dev/null & exit 0"},
	}})
	r := newReader(t, c.Endpoint(client.Ref{Session: session}), client.ReaderOptions{})
	var process *pipedv1.Process
	if err := until(t.Context(), func() bool {
		var err error
		if process, err = c.Wait(t.Context(), session, "", client.Forever); err != nil {
			t.Fatal(err)
		}
		return len(process.GetFinals()) > 0
	}); err != nil {
		t.Fatal(err)
	}
	if err := client.Verify(process, r); !errors.Is(err, client.ErrIncomplete) {
		t.Errorf("got %v, want ErrIncomplete: the direction has not ended", err)
	}
	_ = r.Close(t.Context())
}
