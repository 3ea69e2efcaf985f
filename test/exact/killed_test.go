package exact

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func init() { actors["killed"] = playKilled }

func TestC1ClientsThatAreKilledAgainAndAgainLoseNothing(t *testing.T) {
	clients, kills := sized(8, 64), sized(12, 1000)
	// Small logs, so that all of them together are far below the bound.
	r := newRow(t, "C1", "--log-size", "256KiB")
	x := &killing{row: r, program: program(t)}
	var all sync.WaitGroup
	// As many at a time as the machine starts quickly.
	room := make(chan struct{}, 8)
	for i := range clients {
		k := r.newTalk(fmt.Sprintf("killed-%d", i), []string{"mp", "line"}[i%2])
		r.create(k.request())
		all.Go(func() {
			if err := x.run(k, kills, uint64(i), room); err != nil {
				t.Errorf("%s: %v", k.name, err)
			}
		})
	}
	all.Wait()
	r.note("clients=%d kills=%d reconnects=%d", clients, x.kills.Load(), x.connects.Load()-int64(clients))
	if want := int64(clients * kills); x.kills.Load() != want || x.connects.Load()-int64(clients) < want {
		t.Errorf("%d kills and %d connections, want %d kills", x.kills.Load(), x.connects.Load(), want)
	}
	r.finish()
}

// killing is the state of C1.
type killing struct {
	row             *row
	program         string
	kills, connects atomic.Int64
}

// A killedRole is what a client of C1 has to do. It comes over standard input,
// as JSON.
type killedRole struct {
	Addr, Session string
	// Last is the message after which it may end by itself; 0 means never.
	Last uint64
}

func (x *killing) sent(k *talk) string     { return x.row.path(k.name + ".sent") }
func (x *killing) received(k *talk) string { return x.row.path(k.name + ".received") }

// run kills one client after another, lets a last one send what is agreed to be
// the end, and judges.
func (x *killing) run(k *talk, kills int, seed uint64, room chan struct{}) error {
	random := rand.New(rand.NewPCG(seed, 1))
	for range kills {
		room <- struct{}{}
		err := x.life(k, time.Duration(random.IntN(12_000))*time.Microsecond)
		<-room
		if err != nil {
			return err
		}
	}
	// The last life sends some more and ends in order.
	c, err := x.start(k, 1)
	if err != nil {
		return err
	}
	if err := c.Wait(); err != nil {
		return fmt.Errorf("the last life: %w", err)
	}
	if err := x.history(k); err != nil {
		return err
	}
	ctx, cancel := x.row.ctx()
	defer cancel()
	if err := k.finish(ctx); err != nil {
		return err
	}
	if err := k.judge(true); err != nil {
		return err
	}
	return errors.Join(os.Remove(k.file()), os.Remove(x.sent(k)), os.Remove(x.received(k)))
}

// start starts a client and returns once its streams are open.
func (x *killing) start(k *talk, last uint64) (*exec.Cmd, error) {
	c := exec.CommandContext(x.row.t.Context(), x.program)
	c.Env = append(os.Environ(), actorVariable+"=killed", "GORACE=atexit_sleep_ms=0")
	c.Dir = x.row.d.Dir
	c.Stderr = os.Stderr
	role, err := json.Marshal(killedRole{Addr: x.row.d.Addr, Session: k.name, Last: last})
	if err != nil {
		return nil, err
	}
	c.Stdin = bytes.NewReader(role)
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	ready := make([]byte, 1)
	if _, err := io.ReadFull(out, ready); err != nil {
		return nil, fmt.Errorf("the client does not begin: %w", errors.Join(err, c.Wait()))
	}
	x.connects.Add(1)
	return c, nil
}

// life starts a client and kills it after a while.
func (x *killing) life(k *talk, after time.Duration) error {
	c, err := x.start(k, 0)
	if err != nil {
		return err
	}
	pause(x.row.t.Context(), after)
	if err := c.Process.Kill(); err != nil {
		return err
	}
	if err := c.Wait(); err == nil || c.ProcessState.Exited() {
		return fmt.Errorf("it ended before it was killed: %w", err)
	}
	x.kills.Add(1)
	return nil
}

// history reads what the clients have written down.
func (x *killing) history(k *talk) error {
	sent, err := openProgress(x.sent(k))
	if err != nil {
		return err
	}
	defer sent.close()
	book := k.in.writer("w")
	for _, line := range sent.lines {
		n, err := strconv.ParseUint(string(line[1:]), 10, 64)
		switch {
		case err != nil:
			return err
		case line[0] == 's':
			book.sent = max(book.sent, n)
		case line[0] == 'a':
			book.acked = max(book.acked, n)
		}
	}
	received, err := openProgress(x.received(k))
	if err != nil {
		return err
	}
	defer received.close()
	for _, line := range received.lines {
		o, err := readObservation(line)
		if err != nil {
			return err
		}
		k.back = append(k.back, o)
	}
	return nil
}

// writeObservation and readObservation are a line of a file.
func writeObservation(o observation) []byte {
	return append(fmt.Appendf(nil, "%d %d ", o.position, o.at), o.body...)
}

func readObservation(line []byte) (observation, error) {
	f := bytes.SplitN(line, []byte(" "), 3)
	if len(f) != 3 {
		return observation{}, fmt.Errorf("line %q", line)
	}
	position, err1 := strconv.ParseUint(string(f[0]), 10, 64)
	at, err2 := strconv.ParseInt(string(f[1]), 10, 64)
	return observation{position: position, at: at, body: f[2]}, errors.Join(err1, err2)
}

// playKilled is a client of C1: it goes on where the one before it was killed.
func playKilled() error {
	var role killedRole
	if err := json.NewDecoder(os.Stdin).Decode(&role); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := client.Dial(ctx, role.Addr)
	if err != nil {
		return err
	}
	life := &life{role: role, name: role.Session}
	return errors.Join(life.live(ctx, c.Endpoint(client.Ref{Session: role.Session})), c.Close())
}

// A life is that of one client of C1.
type life struct {
	role           killedRole
	name           string
	sent, received *progress
	w              *client.Writer
	rd             *client.Reader
	// last is the message after which it ends.
	last uint64
}

func (l *life) live(ctx context.Context, e *client.Endpoint) (err error) {
	if l.sent, err = openProgress(l.name + ".sent"); err != nil {
		return err
	}
	if l.received, err = openProgress(l.name + ".received"); err != nil {
		return err
	}
	if l.w, err = e.NewWriter(ctx, client.WriterOptions{ID: "w"}); err != nil {
		return fmt.Errorf("open the writer: %w", err)
	}
	// What is written down was received; nobody must send it again.
	next := uint64(1)
	if n := len(l.received.lines); n > 0 {
		o, err := readObservation(l.received.lines[n-1])
		if err != nil {
			return err
		}
		next = o.position + 1
	}
	if l.rd, err = e.NewReader(ctx, client.ReaderOptions{
		ConsumerID: "c", Start: pipedv1.RecvStart_RECV_START_POSITION, Position: client.Position{Message: next},
	}); err != nil {
		return fmt.Errorf("open the reader: %w", err)
	}
	l.last = 1 << 60
	if l.role.Last > 0 {
		l.last = l.w.Next().Message + flushEvery
	}
	if _, err := os.Stdout.Write([]byte("!")); err != nil {
		return err
	}
	var both sync.WaitGroup
	var sendErr, recvErr error
	both.Go(func() { sendErr = l.send(ctx) })
	both.Go(func() { recvErr = l.receive(ctx) })
	both.Wait()
	return errors.Join(sendErr, recvErr, l.w.Close(ctx), l.rd.Close(ctx), l.sent.close(), l.received.close())
}

// burst is how many messages are sent between two acknowledgements that are
// written down.
const burst = 8

// send writes down what it is about to send, sends it, and writes down that it
// was acknowledged.
func (l *life) send(ctx context.Context) error {
	for n := l.w.Next().Message; n <= l.last; {
		until := min(n+burst, l.last+1)
		if err := l.sent.add(fmt.Appendf(nil, "s%d", until-1)); err != nil {
			return err
		}
		for ; n < until; n++ {
			// Sizes of all kinds, most of them small.
			size := 64
			if n%50 == 0 {
				size = 20_000
			}
			msg := stamp{session: l.name, pipe: "stdio", direction: "in", writer: "w", number: n}.message(size)
			if err := l.w.Send(ctx, msg); err != nil {
				return fmt.Errorf("send: %w", err)
			}
		}
		if err := l.w.Flush(ctx); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
		if err := l.sent.add(fmt.Appendf(nil, "a%d", n-1)); err != nil {
			return err
		}
	}
	return nil
}

// receive writes down what it got and then acknowledges it.
func (l *life) receive(ctx context.Context) error {
	for l.rd.Position().Message <= l.last {
		m, err := l.rd.Next(ctx)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if err := l.received.add(writeObservation(observation{position: m.Position.Message, at: time.Now().UnixNano(), body: m.Data})); err != nil {
			return err
		}
		if err := l.rd.Ack(m.After); err != nil {
			return err
		}
	}
	return nil
}
