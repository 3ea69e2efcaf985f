package session_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

func TestWhatIsNotAcknowledgedGoesToTheNextConsumer(t *testing.T) {
	one, two := barePipe(t, newRegistry(t, nil), "mp")
	send(t, one, "a", "b", "c")
	first := openReader(t, two, session.ReaderOptions{ID: "x"})
	a := receive(t, first).Batch
	if err := first.Ack(a.Next); err != nil {
		t.Fatal(err)
	}
	b := receive(t, first).Batch
	if _, err := two.OpenReader(t.Context(), session.ReaderOptions{ID: "y"}); !errors.Is(err, session.ErrBusyReader) {
		t.Errorf("a second consumer: %v", err)
	}
	first.Close()
	second := openReader(t, two, session.ReaderOptions{ID: "y"})
	if got := receive(t, second).Batch; string(got.Data) != "b" || got.First != b.First {
		t.Errorf("got %q at %v, want b again", got.Data, got.First)
	}
	if err := first.Ack(b.Next); !errors.Is(err, session.ErrSuperseded) {
		t.Errorf("a reader that is closed still acknowledges: %v", err)
	}
	third := openReader(t, two, session.ReaderOptions{ID: "y"})
	<-second.Lost()
	if _, err := second.Next(nil, pipe.Limits{}); !errors.Is(err, session.ErrSuperseded) {
		t.Errorf("an older stream reads on: %v", err)
	}
	if err := second.Ack(b.Next); !errors.Is(err, session.ErrSuperseded) {
		t.Errorf("an older stream still acknowledges: %v", err)
	}
	second.Close()
	if got := receive(t, third).Batch; string(got.Data) != "b" {
		t.Errorf("got %q, want b once more", got.Data)
	}
}

func TestReadersStartWhereTheyAskFor(t *testing.T) {
	reg := newRegistry(t, nil)
	one, two := barePipe(t, reg, "mp")
	send(t, one, "a", "b", "c", "d")
	c := openReader(t, two, session.ReaderOptions{})
	for range 4 {
		receive(t, c)
	}
	if err := c.Ack(pipe.Position{Message: 2}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	for _, tc := range []struct {
		name  string
		o     session.ReaderOptions
		want  string
		start pipe.Position
		err   error
	}{
		{"observer", session.ReaderOptions{Observe: true}, "a", pipe.Position{Message: 1}, nil},
		{"observer, unacked", session.ReaderOptions{Observe: true, Start: session.StartUnacked}, "b", pipe.Position{Message: 2}, nil},
		{"observer, oldest", session.ReaderOptions{Observe: true, Start: session.StartOldest}, "a", pipe.Position{Message: 1}, nil},
		{"observer, position", session.ReaderOptions{Observe: true, Start: session.StartPosition, Position: pipe.Position{Message: 3}}, "c",
			pipe.Position{Message: 3}, nil},
		{"observer, now", session.ReaderOptions{Observe: true, Start: session.StartNow}, "", pipe.Position{Message: 5}, nil},
		{"observer, what does not exist", session.ReaderOptions{Observe: true, Start: session.StartPosition, Position: pipe.Position{Message: 6}}, "",
			pipe.Position{}, pipe.ErrPosition},
		{"no message number", session.ReaderOptions{Observe: true, Start: session.StartPosition}, "", pipe.Position{}, session.ErrArgument},
		{"consumer", session.ReaderOptions{}, "b", pipe.Position{Message: 2}, nil},
		{"consumer, oldest", session.ReaderOptions{Start: session.StartOldest}, "", pipe.Position{}, session.ErrArgument},
		{"consumer, now", session.ReaderOptions{Start: session.StartNow}, "", pipe.Position{}, session.ErrArgument},
		{"consumer, acknowledged", session.ReaderOptions{Start: session.StartPosition, Position: pipe.Position{Message: 1}}, "",
			pipe.Position{}, session.ErrArgument},
		{"consumer, what does not exist", session.ReaderOptions{Start: session.StartPosition, Position: pipe.Position{Message: 6}}, "",
			pipe.Position{}, pipe.ErrPosition},
		{"consumer, position", session.ReaderOptions{Start: session.StartPosition, Position: pipe.Position{Message: 4}}, "d",
			pipe.Position{Message: 4}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := two.OpenReader(t.Context(), tc.o)
			if !errors.Is(err, tc.err) {
				t.Fatalf("got %v, want %v", err, tc.err)
			}
			if err != nil {
				return // that it holds no right shows in the next case
			}
			defer r.Close()
			if diff := cmp.Diff(tc.start, r.Position()); diff != "" {
				t.Error(diff)
			}
			ev, err := r.Next(nil, pipe.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if ev.Batch != nil {
				got = string(ev.Batch.Data)
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if err := r.Ack(r.Position()); tc.o.Observe != errors.Is(err, session.ErrArgument) {
				t.Errorf("acknowledging: %v", err)
			}
		})
	}
}

func TestObserverOfWhatIsSentSeesItAlsoAfterItWasReceived(t *testing.T) {
	one, two := barePipe(t, newRegistry(t, nil), "mp")
	sent := openReader(t, one, session.ReaderOptions{Observe: true, Sent: true})
	send(t, one, "a", "b")
	c := openReader(t, two, session.ReaderOptions{})
	for range 2 {
		if err := c.Ack(receive(t, c).Batch.Next); err != nil {
			t.Fatal(err)
		}
	}
	late := openReader(t, one, session.ReaderOptions{Observe: true, Sent: true, Start: session.StartPosition, Position: pipe.Position{Message: 2}})
	for _, want := range []struct {
		r       *session.Reader
		text    string
		message uint64
	}{{sent, "a", 1}, {sent, "b", 2}, {late, "b", 2}} {
		if got := receive(t, want.r).Batch; string(got.Data) != want.text || got.First.Message != want.message {
			t.Errorf("got %q at %v, want %q at %d", got.Data, got.First, want.text, want.message)
		}
	}
	if at := sent.Arrived(); at != (pipe.Position{Message: 3}) {
		t.Errorf("the next to come is %v", at)
	}
	if err := one.Close(session.CloseOptions{SendOnly: true}); err != nil {
		t.Fatal(err)
	}
	if end := receive(t, sent).End; end == nil || end.Cause != pipe.CauseClosed || end.Position != (pipe.Position{Message: 3}) {
		t.Errorf("end %+v", end)
	}
	if !sent.AtEnd() {
		t.Error("the end was read, and something is left")
	}
	for name, o := range map[string]session.ReaderOptions{
		"consuming":      {Sent: true},
		"unacknowledged": {Sent: true, Observe: true, Start: session.StartUnacked},
	} {
		if _, err := one.OpenReader(t.Context(), o); !errors.Is(err, session.ErrArgument) {
			t.Errorf("%s what is sent: %v", name, err)
		}
	}
}
