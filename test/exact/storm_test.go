package exact

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A storm is clients that talk with children under full load, and go on whatever
// is killed under them.
type storm struct {
	row      *row
	stop     chan struct{}
	stopping sync.Once
	// length is how many messages one session carries before the next takes over.
	length uint64
	// size returns the size of a message.
	size func(n uint64) int
	// lasts is how long a session may take.
	lasts   time.Duration
	workers sync.WaitGroup

	mu sync.Mutex
	// kills are when something was killed, on the wall clock.
	kills  []int64
	pauses []time.Duration
	// sessions have ended; of their children that many have told how they ended.
	sessions, right, unknown int
	// lost counts the sessions that were lost, by the reason.
	lost map[string]int
	// mayLose says that both the daemon and its keeper are killed.
	mayLose atomic.Bool
}

// newStorm begins as many talks. end ends them.
func (r *row) newStorm(talks int) *storm {
	r.t.Helper()
	return r.newStormWith(talks, func(*storm) {})
}

// newStormWith is newStorm with changes to what it does.
func (r *row) newStormWith(talks int, change func(x *storm)) *storm {
	r.t.Helper()
	x := &storm{row: r, stop: make(chan struct{}), length: 4000, lasts: 4 * patience, lost: make(map[string]int)}
	x.size = func(n uint64) int {
		if n%200 == 0 {
			return 30_000
		}
		return 100
	}
	change(x)
	ctx, cancel := r.ctx()
	defer cancel()
	for i := range talks {
		c, err := client.Dial(ctx, r.d.Addr)
		if err != nil {
			r.t.Fatalf("dial: %v", err)
		}
		x.workers.Go(func() {
			defer func() { _ = c.Close() }()
			for n := 0; !x.ended() && !r.t.Failed(); n++ {
				k := r.newTalk(fmt.Sprintf("storm-%d-%d", i, n), []string{"mp", "line"}[(i+n)%2])
				req := k.request()
				if (i+n)/2%2 == 1 {
					req = k.overSocket()
				}
				if err := x.session(c, k, req); err != nil {
					r.t.Errorf("%s: %v", k.name, err)
				}
			}
		})
	}
	r.t.Cleanup(x.leave)
	return x
}

func (x *storm) ended() bool {
	select {
	case <-x.stop:
		return true
	default:
		return false
	}
}

// leave waits until nobody talks any more. It may be called again.
func (x *storm) leave() {
	x.stopping.Do(func() { close(x.stop) })
	x.workers.Wait()
}

// session is the whole life of one session of a storm.
func (x *storm) session(c *client.Client, k *talk, req *pipedv1.CreateSessionRequest) error {
	ctx, cancel := context.WithTimeout(x.row.t.Context(), x.lasts)
	defer cancel()
	var s *pipedv1.Session
	err := unrefused(ctx, func() (err error) { s, err = c.Create(ctx, req); return err })
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	x.row.created()
	err = x.talk(ctx, c, k)
	if err == nil {
		err = x.exit(ctx, c, k)
	}
	if why := whyLost(err); why != "" {
		if !x.mayLose.Load() {
			x.row.t.Errorf("%s: %v", k.name, err)
		}
		x.mu.Lock()
		x.lost[why]++
		x.mu.Unlock()
		return errors.Join(x.row.discard(s), k.judge(false))
	}
	x.measure(k)
	return errors.Join(err, x.row.discard(s), k.judge(err == nil))
}

// refused says that nothing was done, because what was needed for it died, or was
// scarce, in the middle.
func refused(err error) bool {
	return errors.Is(err, client.ErrSpawnFailed) || errors.Is(err, client.ErrStartUncertain) || errors.Is(err, client.ErrDescriptorLimit) ||
		errors.Is(err, client.ErrMemoryLimit) || errors.Is(err, client.ErrLogSpace) || errors.Is(err, client.ErrKeeperAway)
}

// unrefused does something until it is not refused.
func unrefused(ctx context.Context, f func() error) error {
	err := f()
	for ; refused(err) && ctx.Err() == nil; err = f() {
		pause(ctx, 10*time.Millisecond)
	}
	return err
}

// talk sends and receives until the session is full or the storm ends.
func (x *storm) talk(ctx context.Context, c *client.Client, k *talk) error {
	e := c.Endpoint(k.ref())
	var rd *client.Reader
	err := unrefused(ctx, func() (err error) { rd, err = e.NewReader(ctx, client.ReaderOptions{ConsumerID: "c"}); return err })
	if err != nil {
		return fmt.Errorf("open the reader: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var both sync.WaitGroup
	var received error
	both.Go(func() {
		if received = k.receive(ctx, rd, 1<<60); received != nil {
			cancel(received)
		}
	})
	sent := unrefused(ctx, func() error { return x.send(ctx, e, k) })
	if sent == nil {
		if sent = unrefused(ctx, func() error { return e.CloseSend(ctx) }); sent != nil {
			sent = fmt.Errorf("close: %w", sent)
		}
	}
	if sent != nil {
		cancel(sent)
	}
	both.Wait()
	switch cause := context.Cause(ctx); {
	case sent == nil && received == nil:
		return rd.Close(ctx)
	case cause != nil:
		return fmt.Errorf("sent up to %d, received up to %v: %w", k.in.writer(writerID).sent, rd.Position(), cause)
	default:
		return errors.Join(sent, received)
	}
}

const writerID = "w"

// send goes on behind what was accepted, with a writer of its own.
func (x *storm) send(ctx context.Context, e *client.Endpoint, k *talk) (err error) {
	w, err := e.NewWriter(ctx, client.WriterOptions{ID: writerID})
	if err != nil {
		return fmt.Errorf("open the writer: %w", err)
	}
	defer func() {
		if err != nil {
			_ = w.Close(ctx)
		}
	}()
	book := k.in.writer(writerID)
	for n := w.Next().Message; n <= x.length && !x.ended(); n++ {
		book.sent = max(book.sent, n)
		if err := w.Send(ctx, k.message(w.ID(), n, x.size(n))); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		if n%flushEvery != 0 {
			continue
		}
		if err := w.Flush(ctx); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
		book.acked = n
	}
	if err := w.Close(ctx); err != nil {
		return fmt.Errorf("close the writer: %w", err)
	}
	book.acked = book.sent
	return nil
}

// exit looks how the child has ended, which got all of its input.
func (x *storm) exit(ctx context.Context, c *client.Client, k *talk) error {
	p, err := c.Wait(ctx, k.name, "", patience)
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sessions++
	switch {
	case p.GetExit().GetUnknown():
		x.unknown++
	case p.GetExit() == nil || p.GetExit().GetSignal() != "" || p.GetExit().GetCode() != 0:
		return fmt.Errorf("it ended with %v, want 0", p)
	default:
		x.right++
	}
	return nil
}

// struck notes that something is being killed.
func (x *storm) struck() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.kills = append(x.kills, time.Now().UnixNano())
}

// measure finds the pauses of a talk: from each kill until a message came back
// that was sent after it.
func (x *storm) measure(k *talk) {
	x.mu.Lock()
	kills := x.kills
	x.mu.Unlock()
	var pauses []time.Duration
	for _, o := range k.back {
		if len(kills) == 0 {
			break
		}
		if o.at < kills[0] {
			continue
		}
		s, err := readStamp(o.body)
		if err != nil {
			continue
		}
		for len(kills) > 0 && kills[0] < s.at {
			// Before the first message there was no talk to be disturbed.
			if first, err := readStamp(k.back[0].body); err == nil && kills[0] > first.at {
				pauses = append(pauses, time.Duration(o.at-kills[0]))
			}
			kills = kills[1:]
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.pauses = append(x.pauses, pauses...)
}

// end ends the storm and adds what it has seen to the line.
func (x *storm) end() {
	x.row.t.Helper()
	x.leave()
	slices.Sort(x.pauses)
	most := time.Duration(0)
	if n := len(x.pauses); n > 0 {
		most = x.pauses[n-1]
	}
	x.row.note("talks=%d exits_right=%d unknown=%d wrong=0 lost_sessions=%s pauses=%d pause_p50/p99/max_ms=%d/%d/%d",
		x.sessions, x.right, x.unknown, x.lossText(), len(x.pauses), quantile(x.pauses, 0.5).Milliseconds(), quantile(x.pauses, 0.99).Milliseconds(), most.Milliseconds())
	if x.sessions == 0 {
		x.row.t.Error("no talk came to its end")
	}
}

func (x *storm) lossText() string {
	if len(x.lost) == 0 {
		return "0"
	}
	var all []string
	for why, n := range x.lost {
		all = append(all, fmt.Sprintf("%s:%d", why, n))
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

// killAtRandom kills the daemon for so long, on average at that interval, and
// returns how often: at any moment of its life, also before it serves.
func (x *storm) killAtRandom(d, interval time.Duration) (kills int) {
	ctx, cancel := context.WithTimeout(x.row.t.Context(), d)
	defer cancel()
	for last := 0; ctx.Err() == nil && !x.row.wrong(); {
		pause(ctx, time.Duration(rand.ExpFloat64()*float64(interval)))
		// One that is dead already cannot be killed.
		if pid := x.row.d.PID(); ctx.Err() == nil && pid != last {
			x.struck()
			if x.row.d.Kill(syscall.SIGKILL) != 0 {
				kills++
			}
			last = pid
		}
	}
	return kills
}
