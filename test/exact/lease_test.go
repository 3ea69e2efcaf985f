package exact

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// fighters is how many clients want the same lease.
const fighters = 16

func TestC5LeaseThatSixteenClientsStealFromEachOtherHasOneHolder(t *testing.T) {
	r := newRow(t, "C5")
	k := r.newTalk("fight", "line")
	r.create(k.request())
	f := &fight{row: r, k: k, until: time.Now().Add(sized(2*time.Second, time.Minute)), heads: map[uint64]head{}, fenced: map[string]int{}}
	ctx, stop := context.WithDeadline(t.Context(), f.until.Add(patience))
	defer stop()
	var all sync.WaitGroup
	for i := range fighters {
		all.Go(func() {
			if err := f.take(ctx, r.dial(r.d.Addr), fmt.Sprintf("w%d", i)); err != nil {
				t.Errorf("w%d: %v", i, err)
			}
		})
	}
	// A reader must keep up, so that nobody waits for room.
	rd := r.reading(k)
	all.Wait()
	rd.stopAfter(f.committed())
	if err := k.judge(true); err != nil {
		t.Fatal(err)
	}
	stale, twice := f.stale()
	r.note("clients=%d steals=%d fenced=%d refused_old_tokens=%d stale_writes_accepted=%d two_at_once=%d", fighters, len(f.heads), f.fenced["FENCED"], f.refused, stale, twice)
	if stale != 0 || twice != 0 {
		t.Errorf("%d messages of a holder that had lost the lease, %d epochs with two holders", stale, twice)
	}
	if len(f.heads) < 2*fighters || f.refused == 0 {
		t.Errorf("%d steals and %d old tokens refused: that was no fight", len(f.heads), f.refused)
	}
	for reason, n := range f.fenced {
		if reason != "FENCED" {
			t.Errorf("%d streams ended with %s instead of FENCED", n, reason)
		}
	}
	r.finish()
}

// A fight is the state of C5.
type fight struct {
	row *row
	k   *talk
	// until is when it is over.
	until time.Time

	mu sync.Mutex
	// heads are the leases that were got, by epoch.
	heads   map[uint64]head
	doubled int
	// fenced counts how the streams ended, refused the old tokens that were not
	// taken any more.
	fenced  map[string]int
	refused int
}

// A head is what a new holder found.
type head struct {
	holder string
	// messages is how many the endpoint had taken when the steal had returned.
	messages uint64
}

// take takes the lease, sends until somebody else has it, and does it again,
// until it is over.
func (f *fight) take(ctx context.Context, p peer, id string) error {
	ref := &pipedv1.EndpointRef{Session: f.k.name}
	f.mu.Lock()
	book := f.k.in.writer(id)
	f.mu.Unlock()
	for time.Now().Before(f.until) {
		s, err := p.send(ctx, &pipedv1.SendOpen{Endpoint: ref, WriterId: id, Steal: true})
		if reason, _ := reasonOf(err); reason == "FENCED" {
			continue // somebody was faster than the answer
		}
		if err != nil {
			return fmt.Errorf("steal: %w", err)
		}
		epoch, number := s.opened.GetLease().GetEpoch(), s.opened.GetExpected().GetMessage()
		if s.opened.GetLease().GetHolder() != id || len(s.opened.GetLeaseToken()) != 16 {
			return fmt.Errorf("opened with the lease %v, token of %d bytes", s.opened.GetLease(), len(s.opened.GetLeaseToken()))
		}
		if err := f.got(ctx, p, ref, epoch, id); err != nil {
			return err
		}
		// What the stream before did not learn, this one did.
		book.acked = max(book.acked, number-1)
		err = f.hold(s, book, id, epoch, number)
		s.cut()
		if err != nil {
			if err := f.lost(ctx, p, ref, id, s, err); err != nil {
				return err
			}
			// Else nobody has it long enough to send.
			pause(ctx, rand.N(100*time.Millisecond))
		}
	}
	return nil
}

// hold sends messages, each acknowledged, until the lease is lost or it is over.
func (f *fight) hold(s *sending, book *writing, id string, epoch, number uint64) error {
	for ; time.Now().Before(f.until); number++ {
		book.sent = max(book.sent, number)
		s.message(number, stamp{session: f.k.name, pipe: "stdio", direction: "in", writer: id, epoch: epoch, number: number}.message(64))
		if _, err := s.acked(number + 1); err != nil {
			return err
		}
		book.acked = max(book.acked, number)
	}
	return nil
}

// got notes who has an epoch, and how much was there when it began.
func (f *fight) got(ctx context.Context, p peer, ref *pipedv1.EndpointRef, epoch uint64, id string) error {
	resp, err := p.sessions.GetSession(ctx, &pipedv1.GetSessionRequest{Session: ref.GetSession()})
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, taken := f.heads[epoch]; taken {
		f.doubled++
	}
	f.heads[epoch] = head{id, resp.GetSession().GetPipes()[0].GetEndpoints()[0].GetOutbox().GetMessages()}
	return nil
}

// lost looks at how a stream ended, and tries the token that is worth nothing
// any more.
func (f *fight) lost(ctx context.Context, p peer, ref *pipedv1.EndpointRef, id string, s *sending, err error) error {
	reason, facts := reasonOf(err)
	f.mu.Lock()
	f.fenced[reason]++
	f.mu.Unlock()
	if reason == "FENCED" && (facts["by"] == "" || facts["epoch"] <= "0") {
		return fmt.Errorf("FENCED says %v, not by whom under which epoch", facts)
	}
	_, err = p.pipes.Write(ctx, &pipedv1.WriteRequest{Endpoint: ref, WriterId: id, LeaseToken: s.opened.GetLeaseToken(), Messages: [][]byte{[]byte("stale")}})
	if reason, _ := reasonOf(err); reason != "FENCED" {
		return fmt.Errorf("a Write with the old token: %s, want FENCED", reason)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused++
	return nil
}

// committed is how many messages the endpoint has taken.
func (f *fight) committed() uint64 { return f.row.endpoint(f.k.name, 1).GetOutbox().GetMessages() }

// stale counts the messages that were taken from a holder after another had the
// lease, and the epochs that two had.
func (f *fight) stale() (stale, twice int) {
	data, err := os.ReadFile(f.k.file())
	if err != nil {
		f.row.t.Fatal(err)
	}
	// What stands behind what a holder found may not be of an older epoch.
	found := slices.SortedFunc(maps.Keys(f.heads), func(a, b uint64) int { return cmp.Compare(f.heads[a].messages, f.heads[b].messages) })
	var newest uint64
	for i, line := range bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n")) {
		s, err := readStamp(line)
		if err != nil {
			continue // the checker has counted it
		}
		if f.heads[s.epoch].holder != s.writer {
			twice++
		}
		for len(found) > 0 && f.heads[found[0]].messages <= uint64(i) {
			newest, found = max(newest, found[0]), found[1:]
		}
		newest = max(newest, s.epoch)
		if s.epoch < newest {
			stale++
		}
	}
	return stale, twice + f.doubled
}
