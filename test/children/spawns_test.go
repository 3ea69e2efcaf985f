package children

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// spawners is how many clients start processes at a time. There is one spawner, so
// that more wait for it only.
const spawners = 4

// A tally is what many starts came to.
type tally struct {
	exits, killed, missed atomic.Int64
}

// round starts a child that exits with a code of its own, or one that stays until
// it is signalled, and compares how it ended. It goes through a whole session, as
// clients do it.
func (h *host) round(i int, t *tally) error {
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*patience)
	defer cancel()
	r := rand.New(rand.NewPCG(2, uint64(i)))
	code, signal := r.IntN(200), r.IntN(4) == 0
	s := script{half: -1, code: code}
	process := h.plays(s.args()...)
	if signal {
		process = h.plays("wait")
	}
	session, err := h.create(ctx, quiet(process))
	if err != nil {
		return err
	}
	if !signal && i%8 == 0 { // a signal that may come too late must not reach anybody else
		switch err := h.c.Signal(ctx, session, "", "CONT"); {
		case errors.Is(err, client.ErrProcessExited):
			t.missed.Add(1)
		case err != nil:
			return err
		}
	}
	if signal {
		code = 0
		if err := h.c.Signal(ctx, session, "", "USR1"); err != nil {
			return err
		}
	}
	exited, err := h.wait(ctx, session)
	if err != nil {
		return err
	}
	exit := exited.GetExit()
	if int(exit.GetCode()) != code || (exit.GetSignal() == "USR1") != signal || !signal && exit.GetSignalNumber() != 0 {
		return fmt.Errorf("exit %v, want code %d, signal %v", exit, code, signal)
	}
	t.exits.Add(1)
	if signal {
		t.killed.Add(1)
	}
	return h.c.Delete(ctx, session, true)
}

// bystanders are processes that nobody signals: whoever of them ends has had a
// signal that was for somebody else.
func (h *host) bystanders(n int) {
	h.t.Helper()
	ctx, cancel := patient(h.t)
	defer cancel()
	if _, err := h.c.Create(ctx, &pipedv1.CreateSessionRequest{Name: "bystanders", Pipes: []*pipedv1.PipeSpec{framed("", "line")}}); err != nil {
		h.t.Fatal(err)
	}
	for range n {
		if _, err := h.c.Start(ctx, &pipedv1.StartProcessRequest{Session: "bystanders", Process: quiet(h.plays("wait"))}); err != nil {
			h.t.Fatal(err)
		}
	}
}

// hit returns how many bystanders have ended.
func (h *host) hit() (n int) {
	h.t.Helper()
	ctx, cancel := patient(h.t)
	defer cancel()
	s, err := h.c.Get(ctx, "bystanders")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, p := range s.GetProcesses() {
		if p.GetState() != pipedv1.Process_STATE_RUNNING {
			n++
		}
	}
	return n
}

// number is how many starts there are.
func number(t *testing.T) int {
	t.Helper()
	text := os.Getenv("SPAWNS")
	if text == "" {
		return sized(10_000, 100_000)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("SPAWNS=%q: want a number of starts, from 1", text)
	}
	return n
}

func TestS1ManyStartsLeaveNothing(t *testing.T) {
	h := start(t, daemon.Options{})
	n := number(t)
	const others = 20
	h.bystanders(others)
	var all tally
	memory := func() [3]int64 {
		return [3]int64{resident(t, h.PID()), resident(t, h.KeeperPID()), resident(t, h.pid("spawner"))}
	}
	// What the first starts make and the daemon keeps: also the sessions that are
	// remembered after they were deleted, and the events.
	warm := min(max(n/10, 200), 2000)
	if err := inParallel(spawners, warm, func(i int) error { return h.round(i, &all) }); err != nil {
		t.Fatal(err)
	}
	before, keeper, front := h.use(), h.KeeperPID(), h.PID()
	first, began := memory(), time.Now()
	const steps = 5
	for step := range steps {
		if err := inParallel(spawners, n/steps, func(i int) error { return h.round(step*n+i, &all) }); err != nil {
			t.Fatal(err)
		}
		m := memory()
		say("S1", "starts=%d front_kib=%d keeper_kib=%d spawner_kib=%d", (step+1)*(n/steps), m[0]>>10, m[1]>>10, m[2]>>10)
	}
	took := time.Since(began)
	h.wantNoMore(before)
	last, wrong := memory(), h.hit()
	grown := last[0] + last[1] + last[2] - first[0] - first[1] - first[2]
	say("S1", "starts: starts=%d signalled=%d too_late=%d wrong_signals=%d zombies=%d grown_kib=%d seconds=%.1f per_second=%.0f",
		n, all.killed.Load(), all.missed.Load(), wrong, len(h.Children())-others, grown>>10, took.Seconds(), float64(n)/took.Seconds())
	if wrong > 0 {
		t.Errorf("%d of %d processes that nobody signalled have ended", wrong, others)
	}
	if h.KeeperPID() != keeper || h.PID() != front {
		t.Error("the daemon or the keeper has been started again")
	}
	if grown > 32<<20 {
		t.Errorf("the three processes grew by %d KiB in %d starts: %v, then %v", grown>>10, n, first, last)
	}
}
