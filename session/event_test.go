package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/keepertest"
	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

func watch(t *testing.T, reg *session.Registry, o session.WatchOptions) *session.Watcher {
	t.Helper()
	w, err := reg.Watch(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// hear waits for what a watcher tells next.
func hear(t *testing.T, w *session.Watcher) session.News {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		changed := w.Changed()
		news, found, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if found {
			return news
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatal("nothing is told")
		}
	}
}

// hearAll returns all that is told by a watcher that stops.
func hearAll(t *testing.T, w *session.Watcher) (all []session.News) {
	t.Helper()
	for {
		news, found, err := w.Next(t.Context())
		switch {
		case errors.Is(err, io.EOF):
			return all
		case err != nil || !found:
			t.Fatalf("it neither tells nor stops: %v", err)
		}
		all = append(all, news)
	}
}

var eventNames = map[session.EventType]string{
	session.EventSessionCreated: "created", session.EventSessionEnded: "ended", session.EventSessionDeleted: "deleted",
	session.EventPipeCreated: "pipe", session.EventProcessStarted: "started", session.EventProcessExited: "exited",
	session.EventDirectionEnded: "direction", session.EventLeaseAcquired: "acquired", session.EventLeaseReleased: "released",
	session.EventLeaseLost: "lost",
}

// describe puts news into words.
func describe(n session.News) string {
	switch {
	case n.Snapshot != nil:
		return "snapshot " + n.Snapshot.Name
	case n.SnapshotEnd:
		return "snapshot end"
	}
	e := n.Event
	parts := []string{eventNames[e.Type], e.Session}
	if e.Process != nil {
		parts = append(parts, e.Process.Name)
	}
	if e.Pipe != "" {
		parts = append(parts, e.Pipe)
	}
	if e.End != 0 {
		parts = append(parts, fmt.Sprint(e.End))
	}
	if f := e.Final; f != nil {
		parts = append(parts, fmt.Sprintf("sent=%t %v", f.Sent, f.Last.Cause))
	}
	if l := e.Lease; l != nil {
		parts = append(parts, fmt.Sprintf("%d %s %d", l.Role, l.Holder, l.Epoch))
	}
	if e.Detail != "" {
		parts = append(parts, "("+e.Detail+")")
	}
	return strings.Join(parts, " ")
}

func wantHeard(t *testing.T, w *session.Watcher, want ...string) {
	t.Helper()
	for _, one := range want {
		if got := describe(hear(t, w)); got != one {
			t.Fatalf("got %q, want %q", got, one)
		}
	}
}

func TestWatcherIsToldWhatHappensToASession(t *testing.T) {
	reg := newRegistry(t, nil)
	w := watch(t, reg, session.WatchOptions{})
	wantHeard(t, w, "snapshot end")
	s := create(t, reg, session.Spec{Name: "s", Labels: map[string]string{"k": "v"}, Process: &session.ProcessSpec{Args: []string{"cat"}}})
	created := hear(t, w).Event
	if created.UID != s.UID() || created.Labels["k"] != "v" || created.Time.IsZero() {
		t.Errorf("got %+v", created)
	}
	started := hear(t, w).Event
	if started.Type != session.EventProcessStarted || !started.Process.Running || started.Process.Args[0] != "cat" {
		t.Errorf("got %+v", started)
	}
	if _, err := s.CreatePipe(t.Context(), "", session.PipeSpec{Name: "more"}); err != nil {
		t.Fatal(err)
	}
	wantHeard(t, w, "pipe s more")
	e, err := s.Endpoint("stdio", 1)
	if err != nil {
		t.Fatal(err)
	}
	a := writer(t, e, session.WriterOptions{ID: "a"})
	b := writer(t, e, session.WriterOptions{ID: "b", Claim: session.Claim{Steal: true}})
	if err := b.Send(t.Context(), session.Outgoing{Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	a.Cut()
	b.Close()
	if err := second(e, session.WriterOptions{ID: "c", Claim: session.Claim{Call: true}}); err != nil {
		t.Fatal(err) // a unary call is no event
	}
	wantHeard(t, w, "acquired s stdio 1 1 a 1", "lost s stdio 1 1 a 1 (b)", "acquired s stdio 1 1 b 2", "released s stdio 1 1 b 2")
	if err := e.Close(session.CloseOptions{SendOnly: true}); err != nil {
		t.Fatal(err)
	}
	rest := []string{describe(hear(t, w)), describe(hear(t, w)), describe(hear(t, w)), describe(hear(t, w))}
	slices.Sort(rest)
	want := []string{"direction s stderr 1 sent=false closed", "direction s stdio 1 sent=false closed", "direction s stdio 1 sent=true closed", "exited s cat"}
	if diff := cmp.Diff(want, rest); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// The pipe of its own keeps the session going until it is deleted.
	if err := reg.Delete(t.Context(), "s", true); err != nil {
		t.Fatal(err)
	}
	rest = nil
	for len(rest) < 6 {
		rest = append(rest, describe(hear(t, w)))
	}
	ended := slices.Index(rest, "ended s")
	if ended < 0 || rest[5] != "deleted s" {
		t.Errorf("got %q", rest)
	}
	slices.Sort(rest)
	want = []string{"deleted s", "direction s more 1 sent=false endpoint closed", "direction s more 1 sent=true closed",
		"direction s more 2 sent=false endpoint closed", "direction s more 2 sent=true closed", "ended s"}
	if diff := cmp.Diff(want, rest); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, found, err := w.Next(t.Context()); found || err != nil {
		t.Errorf("there is more: %v", err)
	}
}

func TestSessionThatEndsByItselfIsToldSoonAndOnce(t *testing.T) {
	reg := newRegistry(t, func(c *session.Config) { c.EndedMax = 0 })
	w := watch(t, reg, session.WatchOptions{})
	create(t, reg, session.Spec{Name: "s", Process: &session.ProcessSpec{Args: []string{"true"}}})
	counts := make(map[string]int)
	for counts["deleted"] == 0 {
		if n := hear(t, w); n.Event != nil {
			counts[eventNames[n.Event.Type]]++
		}
	}
	// What was sent ends too: nobody reads it any more.
	want := map[string]int{"created": 1, "started": 1, "exited": 1, "direction": 3, "ended": 1, "deleted": 1}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSessionWhoseEndsAreClosedIsToldToHaveEnded(t *testing.T) {
	reg := newRegistry(t, nil)
	s := create(t, reg, session.Spec{Name: "s", Pipes: []session.PipeSpec{{}}})
	w := watch(t, reg, session.WatchOptions{})
	wantHeard(t, w, "snapshot s", "snapshot end")
	e, err := s.Endpoint("", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(session.CloseOptions{}); err != nil {
		t.Fatal(err)
	}
	for got := ""; got != "ended s"; got = describe(hear(t, w)) {
		if got != "" && !strings.HasPrefix(got, "direction s pipe 1") {
			t.Fatalf("got %q", got)
		}
	}
}

// Pipes come into being while watchers are cut and come back by their tokens: each hears of each pipe once.
func TestResumedWatcherHearsEveryEventOnce(t *testing.T) {
	reg := newRegistry(t, func(c *session.Config) { c.EventsRetained = 5000 })
	s := create(t, reg, session.Spec{Name: "s", Pipes: []session.PipeSpec{{Name: "first"}}})
	start := watch(t, reg, session.WatchOptions{})
	wantHeard(t, start, "snapshot s", "snapshot end")
	const pipes, watchers = 100, 4
	var want []string
	for i := range pipes {
		want = append(want, fmt.Sprintf("pipe s p%d", i))
	}
	var wg sync.WaitGroup
	for i := range watchers {
		wg.Go(func() {
			var heard []string
			for token := start.Token(); len(heard) < pipes; {
				w := watch(t, reg, session.WatchOptions{Token: token})
				for range 1 + (len(heard)+i)%7 {
					if len(heard) == pipes {
						break
					}
					news := hear(t, w)
					heard = append(heard, describe(news))
					token = news.Token
				}
			}
			if diff := cmp.Diff(want, heard); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for i := range pipes {
		if _, err := s.CreatePipe(t.Context(), "", session.PipeSpec{Name: fmt.Sprintf("p%d", i), Kind: pipe.OneWay}); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

func TestWatcherThatIsTooSlowGetsASnapshot(t *testing.T) {
	reg := newRegistry(t, func(c *session.Config) { c.EventsRetained = 3 })
	w := watch(t, reg, session.WatchOptions{})
	wantHeard(t, w, "snapshot end")
	s := create(t, reg, session.Spec{Name: "s", Pipes: []session.PipeSpec{{}}})
	wantHeard(t, w, "created s")
	token := w.Token()
	more := func(name string) {
		t.Helper()
		if _, err := s.CreatePipe(t.Context(), "", session.PipeSpec{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "b", "c"} {
		more(name)
	}
	wantHeard(t, watch(t, reg, session.WatchOptions{Token: token}), "pipe s a", "pipe s b", "pipe s c")
	more("d")
	wantHeard(t, w, "snapshot s")
	if w.Token() != "" {
		t.Error("there is a token inside a snapshot")
	}
	wantHeard(t, w, "snapshot end")
	more("e")
	wantHeard(t, w, "pipe s e")
	wantHeard(t, watch(t, reg, session.WatchOptions{Token: token}), "snapshot s", "snapshot end")
}

func TestWatcherStopsAtNow(t *testing.T) {
	reg := newRegistry(t, nil)
	none := hearAll(t, watch(t, reg, session.WatchOptions{StopAtNow: true, Retained: true}))
	if len(none) != 0 {
		t.Errorf("got %v", none)
	}
	create(t, reg, session.Spec{Name: "s", Pipes: []session.PipeSpec{{}}})
	w := watch(t, reg, session.WatchOptions{StopAtNow: true})
	retained := watch(t, reg, session.WatchOptions{StopAtNow: true, Retained: true})
	create(t, reg, session.Spec{Name: "later", Pipes: []session.PipeSpec{{}}})
	for name, tc := range map[string]struct {
		w    *session.Watcher
		want []string
	}{
		"snapshot": {w, []string{"snapshot s", "snapshot end"}},
		"retained": {retained, []string{"created s"}},
	} {
		var got []string
		for _, n := range hearAll(t, tc.w) {
			got = append(got, describe(n))
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got := hearAll(t, watch(t, reg, session.WatchOptions{StopAtNow: true, Token: w.Token()})); len(got) != 1 || describe(got[0]) != "created later" {
		t.Errorf("behind a token: %v", got)
	}
}

func TestWatcherHearsOnlyOfTheSessionsItAskedFor(t *testing.T) {
	reg := newRegistry(t, nil)
	labels := map[string]string{"k": "v", "l": "w"}
	ended := watch(t, reg, session.WatchOptions{Filter: session.Filter{State: session.Ended}})
	active := watch(t, reg, session.WatchOptions{Filter: session.Filter{State: session.Active}})
	some := watch(t, reg, session.WatchOptions{Filter: session.Filter{Prefix: "a", Labels: map[string]string{"k": "v"}}})
	for _, w := range []*session.Watcher{ended, active, some} {
		wantHeard(t, w, "snapshot end")
	}
	s := create(t, reg, session.Spec{Name: "a1", Labels: labels, Pipes: []session.PipeSpec{{}}})
	create(t, reg, session.Spec{Name: "a2", Pipes: []session.PipeSpec{{}}})
	create(t, reg, session.Spec{Name: "b", Labels: labels, Pipes: []session.PipeSpec{{}}})
	if err := reg.Delete(t.Context(), "b", true); err != nil {
		t.Fatal(err)
	}
	e, err := s.Endpoint("", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(session.CloseOptions{}); err != nil {
		t.Fatal(err)
	}
	wantHeard(t, some, "created a1")
	if got := describe(hear(t, some)); !strings.HasPrefix(got, "direction a1 pipe 1") {
		t.Errorf("got %q", got)
	}
	wantHeard(t, ended, "ended b")
	for got := ""; got != "deleted b"; got = describe(hear(t, ended)) {
		if strings.HasPrefix(got, "ended") || strings.Contains(got, "a1") {
			t.Fatalf("got %q", got)
		}
	}
	for n := hear(t, active); ; n = hear(t, active) {
		if got := describe(n); got == "ended b" {
			break
		} else if got == "deleted b" {
			t.Fatal("it was told of a deletion, and not that the session left its state")
		}
	}
	wantHeard(t, watch(t, reg, session.WatchOptions{Filter: session.Filter{Prefix: "a", Labels: labels}}), "snapshot a1", "snapshot end")
	waitFor(t, "the end of a1", func() bool { return s.State() == session.Ended })
	wantHeard(t, watch(t, reg, session.WatchOptions{Filter: session.Filter{State: session.Ended}}), "snapshot a1", "snapshot end")
	wantHeard(t, watch(t, reg, session.WatchOptions{Filter: session.Filter{State: session.Active}}), "snapshot a2", "snapshot end")
}

func TestTokensOfOthersAreRefusedOrBeginAnew(t *testing.T) {
	reg, other := newRegistry(t, nil), newRegistry(t, nil)
	create(t, reg, session.Spec{Name: "s", Pipes: []session.PipeSpec{{}}})
	foreign := watch(t, other, session.WatchOptions{Retained: true}).Token()
	wantHeard(t, watch(t, reg, session.WatchOptions{Token: foreign}), "snapshot s", "snapshot end")
	w := watch(t, reg, session.WatchOptions{Retained: true})
	early := w.Token()
	wantHeard(t, w, "created s")
	for _, bad := range []string{"x", "!", foreign + "AA", foreign[1:], strings.ToLower(foreign) + "=", w.Token()[:21] + "Z"} {
		if _, err := reg.Watch(session.WatchOptions{Token: bad}); !errors.Is(err, session.ErrArgument) {
			t.Errorf("token %q: %v", bad, err)
		}
	}
	if early == w.Token() {
		t.Error("two places have one token")
	}
}

func TestWatcherIsToldThatTheDaemonEnds(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	link := keepertest.Start(t)
	reg, _, err := session.New(session.DefaultConfig(), link, &keeper.Estate{}, log)
	if err != nil {
		t.Fatal(err)
	}
	create(t, reg, session.Spec{Name: "s", Process: &session.ProcessSpec{Args: []string{"cat"}}})
	w := watch(t, reg, session.WatchOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- reg.Close(ctx) }()
	var told []string
	for {
		changed := w.Changed()
		news, found, err := w.Next(t.Context())
		if err != nil {
			if !errors.Is(err, session.ErrShutdown) {
				t.Error(err)
			}
			break
		}
		if found {
			told = append(told, describe(news))
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("the watcher is not released")
		}
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if !slices.Contains(told, "exited s cat") {
		t.Errorf("told %q", told)
	}
}
