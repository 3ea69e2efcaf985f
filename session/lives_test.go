package session_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

func TestAnotherLifeOfAHolderFencesTheFirst(t *testing.T) {
	one, two := barePipe(t, newRegistry(t, nil), "mp")
	claim := session.Claim{Duration: time.Hour}
	for name, open := range map[string]func(c session.Claim) (lease func() (session.Token, *session.Lease), cut func(), err error){
		"writer": func(c session.Claim) (func() (session.Token, *session.Lease), func(), error) {
			w, err := one.OpenWriter(session.WriterOptions{ID: "a", Claim: c})
			if err != nil {
				return nil, nil, err
			}
			return w.Lease, w.Cut, nil
		},
		"consumer": func(c session.Claim) (func() (session.Token, *session.Lease), func(), error) {
			r, err := two.OpenReader(t.Context(), session.ReaderOptions{ID: "a", Claim: c})
			if err != nil {
				return nil, nil, err
			}
			return r.Lease, r.Cut, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			lease, cut, err := open(claim)
			if err != nil {
				t.Fatal(err)
			}
			first, _ := lease()
			cut()
			proved := claim
			proved.Token = first[:]
			lease, cut, err = open(proved) // the same life comes back
			if err != nil {
				t.Fatal(err)
			}
			if again, l := lease(); again != first || l.Epoch != 1 {
				t.Errorf("the same life got %+v", l)
			}
			cut()
			lease, cut, err = open(claim)
			if err != nil {
				t.Fatal(err)
			}
			if other, l := lease(); other == first || l.Epoch != 2 || l.Holder != "a" {
				t.Errorf("another life got %+v", l)
			}
			cut()
			_, _, err = open(proved)
			wantFenced(t, err, "a", 2)
		})
	}
}

func TestLeaseThatAnotherLifeAcquiresFencesTheFirst(t *testing.T) {
	one, _ := barePipe(t, newRegistry(t, nil), "mp")
	w := writer(t, one, session.WriterOptions{ID: "a", Claim: session.Claim{Duration: time.Hour}})
	old, _ := w.Lease()
	w.Cut()
	req := session.LeaseRequest{Role: session.RoleWriter, Holder: "a"}
	token, lease := acquire(t, one, req)
	if token == old || lease.Epoch != 2 {
		t.Errorf("another life got %+v", lease)
	}
	_, err := one.OpenWriter(session.WriterOptions{ID: "a", Claim: session.Claim{Token: old[:]}})
	wantFenced(t, err, "a", 2)
	if again, lease := acquire(t, one, req); again != token || lease.Epoch != 2 {
		t.Errorf("repeated, it gave %+v", lease)
	}
	// Whoever has the name shares what was acquired, and the epoch tells of it.
	w = writer(t, one, session.WriterOptions{ID: "a"})
	if shared, l := w.Lease(); shared != token || l.Epoch != 3 {
		t.Errorf("a stream got %+v", l)
	}
	w.Close()
}

func TestWritersThatSentNothingAreNotRemembered(t *testing.T) {
	one, _ := barePipe(t, newRegistry(t, nil), "mp")
	expected := func(id string) uint64 {
		w := writer(t, one, session.WriterOptions{ID: id})
		defer w.Close()
		return w.Expected().Message
	}
	w := writer(t, one, session.WriterOptions{ID: "named"})
	if err := w.Send(t.Context(), session.Outgoing{Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	writer(t, one, session.WriterOptions{ID: "claimed", Epoch: 7}).Close()
	for i := range 1024 {
		expected(fmt.Sprint("other", i))
	}
	if got := expected("named"); got != 2 {
		t.Errorf("the writer goes on at %d, want 2", got)
	}
	wantFenced(t, second(one, session.WriterOptions{ID: "claimed", Epoch: 6}), "claimed", 7)
	// Those that claimed something push the oldest out.
	for i := range 1023 {
		writer(t, one, session.WriterOptions{ID: fmt.Sprint("other", i), Epoch: 1}).Close()
	}
	if got := expected("named"); got != 1 {
		t.Errorf("after 1,024 others it goes on at %d, want 1", got)
	}
}

func TestReaderThatIsRefusedEndsNobody(t *testing.T) {
	one, two := barePipe(t, newRegistry(t, nil), "mp")
	w := writer(t, one, session.WriterOptions{})
	if err := w.Send(t.Context(), session.Outgoing{Data: []byte("aabbb"), Sizes: []uint32{2, 3}}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	r := openReader(t, two, session.ReaderOptions{ID: "a"})
	if err := r.Ack(receive(t, r).Batch.Next); err != nil {
		t.Fatal(err)
	}
	receive(t, r)
	token, lease := r.Lease()
	steal := session.Claim{Steal: true}
	for name, o := range map[string]session.ReaderOptions{
		"a start for observers":  {ID: "b", Start: session.StartOldest, Claim: steal},
		"now":                    {ID: "a", Start: session.StartNow},
		"no message number":      {ID: "b", Start: session.StartPosition, Claim: steal},
		"not arrived":            {ID: "a", Start: session.StartPosition, Position: pipe.Position{Message: 9}},
		"inside no such message": {ID: "a", Start: session.StartPosition, Position: pipe.Position{Message: 2, Offset: 7}},
		"acknowledged already":   {ID: "b", Start: session.StartPosition, Position: pipe.Position{Message: 1}, Claim: steal},
	} {
		if _, err := two.OpenReader(t.Context(), o); err == nil {
			t.Errorf("%s: it was admitted", name)
		}
		if err := r.Err(); err != nil {
			t.Fatalf("%s: the innocent consumer got %v", name, err)
		}
	}
	if same, l := r.Lease(); same != token || l.Epoch != lease.Epoch {
		t.Errorf("its lease is %+v, was %+v", l, lease)
	}
}

func TestEventsKeepFewArguments(t *testing.T) {
	reg := newRegistry(t, nil)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const sessions, size = 20, 7 * 120 << 10
	before := heap()
	for i := range sessions {
		args := slices.Concat([]string{"true"}, slices.Repeat([]string{""}, 7))
		for j := range args[1:] {
			args[1+j] = strings.Repeat("x", size/7)
		}
		s := create(t, reg, session.Spec{Name: fmt.Sprint("s", i), Process: &session.ProcessSpec{
			Args: args, Stdin: session.StdioNull, Stdout: session.StdioNull, Stderr: session.StdioNull}})
		if err := reg.Delete(t.Context(), s.Name(), true); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the arguments to be freed", func() bool { return heap() < before+sessions*size/4 })
}

func TestDirectionThatEndedIsToldUnreadOnceNobodyCanReadIt(t *testing.T) {
	no := false
	for name, tc := range map[string]struct {
		kill bool
		want *bool
	}{"while it may be read": {false, nil}, "when its reader is gone": {true, &no}} {
		for _, duplex := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, duplex %t", name, duplex), func(t *testing.T) {
				reg := newRegistry(t, nil)
				p := session.ProcessSpec{Args: []string{"sleep", "60"}, Stdout: session.StdioNull, Stderr: session.StdioNull}
				spec := session.Spec{Process: &p}
				if duplex {
					p.Stdin = session.StdioNull
					p.Inherits = []session.Inherit{{Pipe: "x", End: 2, FD: 3, HandOver: true}}
					spec.Pipes = []session.PipeSpec{{Name: "x"}}
				}
				s := create(t, reg, spec)
				e, err := s.Endpoint("", 1)
				if err != nil {
					t.Fatal(err)
				}
				w := writer(t, e, session.WriterOptions{})
				if err := w.Send(t.Context(), session.Outgoing{Data: []byte("x")}); err != nil {
					t.Fatal(err)
				}
				w.Close()
				told := watch(t, reg, session.WatchOptions{Retained: true})
				if tc.kill {
					proc, err := s.Process("")
					if err != nil {
						t.Fatal(err)
					}
					if err := proc.Signal(syscall.SIGKILL); err != nil {
						t.Fatal(err)
					}
				} else if err := e.Close(session.CloseOptions{SendOnly: true}); err != nil {
					t.Fatal(err)
				}
				for {
					ev := hear(t, told).Event
					if ev.Type != session.EventDirectionEnded || !ev.Final.Sent {
						continue
					}
					if diff := cmp.Diff(tc.want, ev.Final.AllRead); diff != "" {
						t.Errorf("all read (-want +got):\n%s", diff)
					}
					return
				}
			})
		}
	}
}

// A descendant may read what the process that has exited did not.
func TestExitIsNotToldWithInputUnreadThatADescendantMayRead(t *testing.T) {
	reg := newRegistry(t, nil)
	s := create(t, reg, session.Spec{Pipes: []session.PipeSpec{{Name: "x"}, {Name: "go"}}, Process: &session.ProcessSpec{
		Args:  []string{"sh", "-c", "read x <&4; cat <&4 & exit 0"}, // cat has descriptor 3 too
		Stdin: session.StdioNull, Stdout: session.StdioNull, Stderr: session.StdioNull,
		Inherits: []session.Inherit{{Pipe: "x", End: 2, FD: 3, HandOver: true}, {Pipe: "go", End: 2, FD: 4, HandOver: true}}}})
	for _, name := range []string{"x", "go"} {
		e, err := s.Endpoint(name, 1)
		if err != nil {
			t.Fatal(err)
		}
		w := writer(t, e, session.WriterOptions{})
		if err := w.Send(t.Context(), session.Outgoing{Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if name == "x" {
			if err := e.Close(session.CloseOptions{SendOnly: true}); err != nil {
				t.Fatal(err)
			}
			if _, err := e.WaitClosed(t.Context(), true, func(session.Pending) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	told := watch(t, reg, session.WatchOptions{Retained: true})
	ev := hear(t, told).Event
	for ev.Type != session.EventProcessExited {
		ev = hear(t, told).Event
	}
	if len(ev.Process.Finals) != 1 || ev.Process.Finals[0].AllRead != nil {
		t.Errorf("got the finals %+v", ev.Process.Finals)
	}
}

func TestRepeatedCloseLeavesNothingBehind(t *testing.T) {
	one, _ := barePipe(t, newRegistry(t, nil), "raw")
	w := writer(t, one, session.WriterOptions{})
	for range 5 {
		if err := w.Send(t.Context(), session.Outgoing{Data: make([]byte, 200<<10)}); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	before := runtime.NumGoroutine()
	for range 200 {
		if err := one.Close(session.CloseOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := runtime.NumGoroutine() - before; n > 10 {
		t.Errorf("%d goroutines more after 200 times", n)
	}
	if err := one.Close(session.CloseOptions{Discard: true}); err != nil {
		t.Fatal(err)
	}
}

func TestNothingIsToldAfterTheDeletion(t *testing.T) {
	reg := newRegistry(t, nil)
	one, two := barePipe(t, reg, "mp")
	name := reg.List(session.Filter{})[0].Name()
	told := watch(t, reg, session.WatchOptions{Retained: true})
	w := writer(t, one, session.WriterOptions{ID: "a"})
	r := openReader(t, two, session.ReaderOptions{ID: "b"})
	if err := reg.Delete(t.Context(), name, true); err != nil {
		t.Fatal(err)
	}
	w.Cut()
	r.Cut()
	var heard []string
	for {
		news, found, err := told.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !found {
			break
		}
		heard = append(heard, describe(news))
	}
	for _, want := range []string{"released " + name + " pipe 1 1 a 1 (the endpoint is closed)", "released " + name + " pipe 2 2 b 1 (the endpoint is closed)"} {
		if n := strings.Count(strings.Join(heard, "\n")+"\n", want+"\n"); n != 1 {
			t.Errorf("%q was told %d times: %q", want, n, heard)
		}
	}
	if heard[len(heard)-1] != "deleted "+name {
		t.Errorf("heard %q", heard)
	}
}
