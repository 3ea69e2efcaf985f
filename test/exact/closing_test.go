package exact

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// prologue is the beginning of each child of P2. sys.argv[1] is a path: the
// lines that the child may write are in PATH.out; what it got it appends to
// PATH.got; when it did what a row waits for it says in PATH.time, taken just
// before.
const prologue = `
import os, signal, socket, sys, time
path = sys.argv[1]
lines = open(path + ".out", "rb").read().splitlines(True)
got = open(path + ".got", "ab", buffering=0)
def take(read):
    line = b""
    while not line.endswith(b"\n"):
        line += read(1)
    got.write(line)
def event(act):
    now = time.time_ns()
    act()
    open(path + ".new", "w").write(str(now))
    os.rename(path + ".new", path + ".time")
`

// A closing is a way in which a child ends one direction of a pipe and keeps
// the other.
type closing struct {
	name string
	// script is what the child does after the prologue. It takes one line first,
	// and at the end waits to be killed.
	script string
	// socket gives the child one at descriptor 3 instead of its standard streams.
	socket bool
	// sent says which direction ends: into the child, or out of it.
	sent  bool
	cause pipedv1.EndCause
	// in and out are how many messages go into the child and come out of it.
	in, out uint64
	// noticed says that the kernel tells only who sends: the time runs from then.
	noticed bool
	// held is a time in which the direction must not end, because the child still
	// has a copy of the end.
	held bool
}

var closings = []closing{
	{name: "stdout", cause: pipedv1.EndCause_END_CAUSE_CLOSED, in: 2, out: 1, script: `
take(lambda n: os.read(0, n))
os.write(1, lines[0])
event(lambda: os.close(1))
take(lambda n: os.read(0, n))
`},
	{name: "stdin", sent: true, cause: pipedv1.EndCause_END_CAUSE_BROKEN_PIPE, in: 1, out: 1, script: `
take(lambda n: os.read(0, n))
event(lambda: os.close(0))
os.write(1, lines[0])
`},
	{name: "shutdown_write", socket: true, cause: pipedv1.EndCause_END_CAUSE_CLOSED, in: 2, out: 1, script: `
s = socket.socket(fileno=3)
take(s.recv)
s.send(lines[0])
event(lambda: s.shutdown(socket.SHUT_WR))
take(s.recv)
`},
	{name: "shutdown_read", socket: true, sent: true, noticed: true, cause: pipedv1.EndCause_END_CAUSE_BROKEN_PIPE, in: 1, out: 1, script: `
s = socket.socket(fileno=3)
take(s.recv)
event(lambda: s.shutdown(socket.SHUT_RD))
s.send(lines[0])
`},
	{name: "dup", held: true, cause: pipedv1.EndCause_END_CAUSE_CLOSED, in: 2, out: 2, script: `
take(lambda n: os.read(0, n))
copy = os.dup(1)
os.write(1, lines[0])
os.close(1)
time.sleep(0.05)
os.write(copy, lines[1])
event(lambda: os.close(copy))
take(lambda n: os.read(0, n))
`},
	{name: "dev_stdout", held: true, cause: pipedv1.EndCause_END_CAUSE_CLOSED, in: 2, out: 2, script: `
take(lambda n: os.read(0, n))
os.write(1, lines[0])
again = os.open("/dev/stdout", os.O_WRONLY)
os.close(1)
time.sleep(0.05)
os.write(again, lines[1])
event(lambda: os.close(again))
take(lambda n: os.read(0, n))
`},
}

// at most this late an event of P2 is told, in the middle; on a busy machine a
// single one may come later.
const eventTime = 10 * time.Millisecond

func TestP2DirectionThatIsClosedIsToldAtOnceAndTheOtherGoesOn(t *testing.T) {
	r := newRow(t, "P2", "--ended-max", "10")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	w := watchEnds(ctx, r)
	rounds := sized(5, 100)
	var all []time.Duration
	for _, c := range closings {
		var took []time.Duration
		for i := range rounds {
			x := &closingRound{closing: c, r: r, w: w, name: fmt.Sprintf("%s-%d", strings.ReplaceAll(c.name, "_", "."), i)}
			late, err := x.run(ctx)
			if err != nil {
				t.Errorf("%s: %v", x.name, err)
				break
			}
			took = append(took, late)
		}
		slices.Sort(took)
		all = append(all, took...)
		r.note("%s=%d/%d", c.name, len(took), rounds)
		if p50 := quantile(took, 0.5); p50 > eventTime {
			t.Errorf("%s: half of the events came later than %v", c.name, p50)
		}
	}
	slices.Sort(all)
	worst := quantile(all, 1)
	r.note("event_p50_ms=%.2f event_worst_ms=%.2f", milliseconds(quantile(all, 0.5)), milliseconds(worst))
	if worst > sized(time.Second, 200*time.Millisecond) {
		t.Errorf("an event came after %v", worst)
	}
	stop()
	w.loop.Wait()
	r.finish()
}

// A closingRound is one child of P2.
type closingRound struct {
	closing
	r        *row
	w        *ends
	name     string
	pipe     string
	in, back *history
}

// run plays one child and returns how late its event was told.
func (x *closingRound) run(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := x.start(); err != nil {
		return 0, err
	}
	defer x.r.remove(x.name)
	e := x.r.c.Endpoint(client.Ref{Session: x.name, Pipe: x.pipe})
	rd, err := e.NewReader(ctx, client.ReaderOptions{})
	if err != nil {
		return 0, err
	}
	k := &talk{r: x.r}
	if err := x.write(ctx, e, 1); err != nil {
		return 0, err
	}
	acted, err := x.acted()
	if err != nil {
		return 0, err
	}
	if x.noticed {
		acted = time.Now()
		// It is refused, or accepted and then found not to be deliverable.
		if err := e.Send(ctx, []byte("into a closed door")); err != nil && !errors.Is(err, client.ErrBrokenPipe) {
			return 0, err
		}
	}
	told, end, err := x.w.await(x.name, x.pipe, x.sent)
	if err != nil {
		return 0, fmt.Errorf("%w: %v", err, x.r.inspect(x.name))
	}
	if end.GetLast().GetCause() != x.cause {
		return 0, fmt.Errorf("the end is %v, want %v", end, x.cause)
	}
	// The other direction goes on.
	if !x.sent {
		if err := x.write(ctx, e, 2); err != nil {
			return 0, fmt.Errorf("the other direction: %w", err)
		}
		if err := k.receive(ctx, rd, 1<<60); err != nil || rd.End().GetCause() != x.cause {
			return 0, fmt.Errorf("received to %v, %w", rd.End(), err)
		}
	} else if err := k.receive(ctx, rd, x.out); err != nil {
		return 0, fmt.Errorf("the other direction: %w", err)
	}
	x.back.got = k.back
	return told.Sub(acted), errors.Join(rd.Close(ctx), x.judge())
}

func (x *closingRound) start() error {
	x.pipe = "stdio"
	if x.socket {
		x.pipe = "pipe"
	}
	x.in = newHistory(x.name, x.pipe, "in", byChild)
	x.back = newHistory(x.name, x.pipe, "out", byClient)
	x.in.complete, x.back.complete = true, true
	var out []byte
	for n := range x.out {
		msg := stamp{session: x.name, pipe: x.pipe, direction: "out", writer: "child", number: n + 1}.message(64)
		out = append(append(out, msg...), '\n')
		x.back.writer("child").sent, x.back.writer("child").acked = n+1, n+1
	}
	if err := os.WriteFile(x.r.path(x.name+".out"), out, 0o600); err != nil {
		return err
	}
	spec := &pipedv1.ProcessSpec{Args: []string{"python3", "-Sc", prologue + x.script + "signal.pause()\n", x.r.path(x.name)}}
	req := &pipedv1.CreateSessionRequest{Name: x.name, Process: spec}
	if x.socket {
		req.Pipes = []*pipedv1.PipeSpec{{Name: "pipe"}}
		spec.Inherits = []*pipedv1.Inherit{{Pipe: "pipe", End: 2, Fd: 3, HandOver: true}}
	}
	x.r.create(req)
	return nil
}

// write sends message n.
func (x *closingRound) write(ctx context.Context, e *client.Endpoint, n uint64) error {
	book := x.in.writer("w")
	book.sent = n
	if err := e.Send(ctx, stamp{session: x.name, pipe: x.pipe, direction: "in", writer: "w", number: n}.message(64)); err != nil {
		return err
	}
	book.acked = n
	return nil
}

// acted waits until the child has acted, and returns when that was.
func (x *closingRound) acted() (time.Time, error) {
	var text []byte
	if !await(func() bool {
		var err error
		text, err = os.ReadFile(x.r.path(x.name + ".time"))
		return err == nil
	}) {
		return time.Time{}, errors.New("the child did not act")
	}
	ns, err := strconv.ParseInt(string(text), 10, 64)
	return time.Unix(0, ns), err
}

// judge waits until the child has all it was sent, and adds both directions.
func (x *closingRound) judge() error {
	want := x.closing.in
	await(func() bool {
		data, err := os.ReadFile(x.r.path(x.name + ".got"))
		x.in.got = cut(data, "line")
		return err != nil || uint64(len(x.in.got)) >= want
	})
	x.r.judge(x.in, x.back)
	if uint64(len(x.in.got)) != want {
		return fmt.Errorf("the child got %d messages, want %d", len(x.in.got), want)
	}
	return nil
}

// ends are what the daemon tells about directions that end.
type ends struct {
	loop sync.WaitGroup

	mu   sync.Mutex
	told map[string]toldEnd
	err  error
}

type toldEnd struct {
	at    time.Time
	final *pipedv1.Final
}

// watchEnds follows the events of a row's daemon until ctx ends.
func watchEnds(ctx context.Context, r *row) *ends {
	r.t.Helper()
	stream, err := r.dial(r.d.Addr).sessions.WatchSessions(ctx, &pipedv1.WatchSessionsRequest{HeartbeatInterval: durationpb.New(time.Second)})
	if err != nil {
		r.t.Fatal(err)
	}
	w := &ends{told: map[string]toldEnd{}}
	w.loop.Go(func() {
		for {
			resp, err := stream.Recv()
			now := time.Now()
			w.mu.Lock()
			if e := resp.GetEvent(); e.GetType() == pipedv1.SessionEvent_TYPE_DIRECTION_ENDED && e.GetEnd() == 1 {
				key := endKey(e.GetSession(), e.GetPipe(), e.GetFinal().GetSent())
				if _, again := w.told[key]; again {
					w.err = errors.Join(w.err, fmt.Errorf("%s ended twice", key))
				}
				w.told[key] = toldEnd{now, e.GetFinal()}
			}
			if err != nil {
				w.err = errors.Join(w.err, err)
				w.mu.Unlock()
				return
			}
			w.mu.Unlock()
		}
	})
	return w
}

func endKey(session, pipe string, sent bool) string {
	return fmt.Sprint(session, "/", pipe, " sent=", sent)
}

// await waits until the end of a direction of a session's pipe was told.
func (w *ends) await(session, pipe string, sent bool) (time.Time, *pipedv1.Final, error) {
	var told toldEnd
	var err error
	await(func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		told, err = w.told[endKey(session, pipe, sent)], w.err
		return told.final != nil || err != nil
	})
	if told.final == nil {
		return time.Time{}, nil, fmt.Errorf("the end of %s, sent %v, was not told: %w", session, sent, err)
	}
	return told.at, told.final, nil
}
