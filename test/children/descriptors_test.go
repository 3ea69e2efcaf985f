package children

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// The last words that the rows wait for.
var (
	inputGone   = word{"stdio", true, pipedv1.EndCause_END_CAUSE_BROKEN_PIPE}
	outputOver  = word{"stdio", false, pipedv1.EndCause_END_CAUSE_CLOSED}
	errorOver   = word{"stderr", false, pipedv1.EndCause_END_CAUSE_CLOSED}
	socketDeaf  = word{"pipe", true, pipedv1.EndCause_END_CAUSE_BROKEN_PIPE}
	socketQuiet = word{"pipe", false, pipedv1.EndCause_END_CAUSE_CLOSED}
)

// A deed is what a child does with its descriptors. The last thing that act does is
// what words say. How long they take from the answer of the child on is the figure of
// the row.
type deed struct {
	name  string
	act   func(p *puppet)
	words []word
	// then looks at what must go on.
	then func(p *puppet)
}

var deeds = []deed{
	{"closes its input", func(p *puppet) { p.tell("close 0") }, []word{inputGone}, func(p *puppet) { p.brings("stdio", 1) }},
	{"closes its output", func(p *puppet) { p.tell("close 1") }, []word{outputOver}, func(p *puppet) { p.takes("stdio", 0) }},
	{"closes a duplicate after its output", func(p *puppet) {
		p.tell("dup 1 9")
		p.tell("close 1")
		p.brings("stdio", 9)
		p.silent("the close of one of two")
		p.tell("close 9")
	}, []word{outputOver}, func(p *puppet) { p.takes("stdio", 0) }},
	{"opens its output again by its name", func(p *puppet) {
		p.tell("again 1 9")
		p.tell("close 1")
		p.brings("stdio", 9)
		p.silent("the close of one of two")
		p.tell("close 9")
	}, []word{outputOver}, func(p *puppet) { p.takes("stdio", 0) }},
	{"sends its errors where its output goes", func(p *puppet) { p.tell("dup 1 2") }, []word{errorOver}, func(p *puppet) {
		p.brings("stdio", 2)
		p.brings("stdio", 1)
	}},
	{"shuts a socket for writing", func(p *puppet) { p.tell("shutdown 3 %d", syscall.SHUT_WR) }, []word{socketQuiet}, func(p *puppet) { p.takes("pipe", 3) }},
	// The kernel tells nobody that a socket is not read any more: whoever sends is told.
	{"shuts a socket for reading", func(p *puppet) { p.tell("shutdown 3 %d", syscall.SHUT_RD); p.breaks("pipe") }, []word{socketDeaf},
		func(p *puppet) { p.brings("pipe", 3) }},
	{"shuts a socket", func(p *puppet) { p.tell("shutdown 3 %d", syscall.SHUT_RDWR) }, []word{socketQuiet}, func(p *puppet) {
		p.breaks("pipe")
		p.says(socketDeaf)
	}},
	{"closes a socket", func(p *puppet) { p.tell("close 3") }, []word{socketQuiet}, func(p *puppet) {
		p.breaks("pipe")
		p.says(socketDeaf)
		p.takes("stdio", 0)
	}},
}

func TestP2WhatAChildDoesWithItsDescriptorsIsTold(t *testing.T) {
	h := start(t, daemon.Options{})
	rounds := sized(5, 200)
	var mu sync.Mutex
	var all []time.Duration
	t.Run("deeds", func(t *testing.T) {
		for n, d := range deeds {
			t.Run(d.name, func(t *testing.T) {
				for round := range rounds {
					t.Run("", func(t *testing.T) {
						p := h.puppet(t, fmt.Sprintf("p2-%d-%d", n, round))
						d.act(p)
						began := time.Now()
						p.says(d.words...)
						took := time.Since(began)
						if d.then != nil {
							d.then(p)
							p.silent(d.name)
						}
						mu.Lock()
						defer mu.Unlock()
						all = append(all, took)
					})
				}
			})
		}
	})
	if t.Failed() || len(all) == 0 {
		return
	}
	slices.Sort(all)
	say("P2", "descriptors: deeds=%d told=%d p50_us=%d max_us=%d", len(deeds), len(all), all[len(all)/2].Microseconds(), all[len(all)-1].Microseconds())
}

func TestP3DescendantThatHoldsAPipeIsNamedAndHoldsUpNothingElse(t *testing.T) {
	h := start(t, daemon.Options{})
	rounds := sized(20, 500)
	var exits []time.Duration
	for round := range rounds {
		took, err := h.held(fmt.Sprintf("p3-%d", round))
		if err != nil {
			t.Fatal(err)
		}
		exits = append(exits, took)
	}
	slices.Sort(exits)
	say("P3", "held: children=%d named=%d exit_p50_us=%d exit_max_us=%d", rounds, rounds, exits[len(exits)/2].Microseconds(), exits[len(exits)-1].Microseconds())
}

// held starts a shell that leaves a descendant with its output behind, and returns
// how long its exit took to be told.
func (h *host) held(name string) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*patience)
	defer cancel()
	if _, err := h.c.Create(ctx, &pipedv1.CreateSessionRequest{Name: name,
		Process: &pipedv1.ProcessSpec{Args: []string{"/bin/sh", "-c", "sleep 1000 & echo $!; read go; exit 3"}}}); err != nil {
		return 0, err
	}
	r, err := h.c.Endpoint(client.Ref{Session: name}).NewReader(ctx, client.ReaderOptions{AutoAck: true})
	if err != nil {
		return 0, err
	}
	m, err := r.Next(ctx)
	if err != nil {
		return 0, err
	}
	var pid int
	if _, err := fmt.Sscan(string(m.Data), &pid); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := h.c.Endpoint(client.Ref{Session: name}).Send(ctx, []byte("go")); err != nil {
		return 0, err
	}
	exited, err := h.wait(ctx, name)
	took = time.Since(began)
	if err != nil || exited.GetExit().GetCode() != 3 {
		return 0, fmt.Errorf("exit %v, %w", exited.GetExit(), err)
	}
	s, err := h.c.Inspect(ctx, name)
	if err != nil {
		return 0, err
	}
	holders := s.GetPipes()[0].GetEndpoints()[1].GetHolders()
	if s.GetState() != pipedv1.Session_STATE_ACTIVE || len(holders) != 1 || int(holders[0].GetPid()) != pid {
		return 0, fmt.Errorf("session %v, held by %v; want active, by %d", s.GetState(), holders, pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, err
	}
	if _, err := r.Next(ctx); r.End().GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED {
		return 0, fmt.Errorf("when nobody holds it any more: %v, %w", r.End(), err)
	}
	return took, h.c.Delete(ctx, name, true)
}
