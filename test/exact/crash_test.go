package exact

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestP1ChildThatCrashesLosesNothingAndIsAccountedFor(t *testing.T) {
	r := newRow(t, "P1", "--ended-max", "10")
	rounds := sized(50, 1000)
	for _, kind := range []struct {
		name  string
		crash func(x *crash) error
	}{
		{"mid_frame", (*crash).midFrame},
		{"unread_input", (*crash).unreadInput},
		{"unread_output", (*crash).unreadOutput},
	} {
		rounds := each(rounds, func(i int) error {
			x := &crash{row: r, name: fmt.Sprintf("%s-%d", kind.name[:8], i), i: i, rand: rand.New(rand.NewPCG(uint64(i), 1))}
			defer os.Remove(x.row.path(x.name + ".out"))
			defer os.Remove(x.row.path(x.name + ".got"))
			defer r.remove(x.name)
			return kind.crash(x)
		}, func(i int, err error) { t.Errorf("%s %d: %v", kind.name, i, err) })
		r.note("%s=%d", kind.name, rounds)
	}
	r.finish()
}

// maxFailures is how many rounds may fail before a row gives up.
const maxFailures = 8

// each runs n rounds, a few at a time, and returns how many went right.
func each(n int, round func(i int) error, failed func(i int, err error)) int {
	const atATime = 4
	var mu sync.Mutex
	var right, wrong int
	rounds := make(chan int)
	var workers sync.WaitGroup
	for range atATime {
		workers.Go(func() {
			for i := range rounds {
				mu.Lock()
				hopeless := wrong >= maxFailures
				mu.Unlock()
				if hopeless {
					continue
				}
				err := round(i)
				mu.Lock()
				if err == nil {
					right++
				} else {
					wrong++
					failed(i, err)
				}
				mu.Unlock()
			}
		})
	}
	for i := range n {
		rounds <- i
	}
	close(rounds)
	workers.Wait()
	return right
}

// A crash is one child that ends badly.
type crash struct {
	row  *row
	name string
	i    int
	rand *rand.Rand
}

// output prepares messages that the child writes, framed, with a message of
// which only a part follows where cut is above 0, and returns how many bytes of
// that message's payload there are.
func (x *crash) output(pipe string, n int, framing string, cut bool) (h *history, rest []byte, err error) {
	h = newHistory(x.name, pipe, "out", byClient)
	h.complete = true
	var out bytes.Buffer
	frame := func(number int) []byte {
		msg := stamp{session: x.name, pipe: pipe, direction: "out", writer: "child", number: uint64(number)}.message(60 + x.rand.IntN(1500))
		if framing == "line" {
			return append(msg, '\n')
		}
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...)
	}
	for i := range n {
		out.Write(frame(i + 1))
	}
	if cut {
		last := frame(n + 1)
		last = last[:1+x.rand.IntN(len(last)-1)]
		out.Write(last)
		rest = last[min(4, len(last)):]
	}
	h.writer("child").sent, h.writer("child").acked = uint64(n), uint64(n)
	return h, rest, os.WriteFile(x.row.path(x.name+".out"), out.Bytes(), 0o600)
}

// receive reads a pipe to its end and returns the last word.
func (x *crash) receive(pipe string, h *history) (*pipedv1.End, error) {
	ctx, cancel := x.row.ctx()
	defer cancel()
	rd, err := x.row.c.Endpoint(client.Ref{Session: x.name, Pipe: pipe}).NewReader(ctx, client.ReaderOptions{})
	if err != nil {
		return nil, err
	}
	k := &talk{r: x.row}
	err = k.receive(ctx, rd, 1<<60)
	h.got = k.back
	if err != nil {
		return nil, err
	}
	if rd.End() == nil {
		return nil, errors.New("no last word")
	}
	return rd.End(), rd.Close(ctx)
}

// final waits for the last word about a direction in the record of the child's
// exit.
func (x *crash) final(pipe string, sent bool) (*pipedv1.Final, error) {
	var found *pipedv1.Final
	await(func() bool {
		for _, p := range x.row.inspect(x.name).GetProcesses() {
			for _, f := range p.GetFinals() {
				if f.GetPipe() == pipe && f.GetEnd() == 1 && f.GetSent() == sent {
					found = f
				}
			}
		}
		return found != nil
	})
	if found == nil {
		return nil, fmt.Errorf("the exit has no final of %s, sent %v: %v", pipe, sent, x.row.inspect(x.name).GetPipes())
	}
	return found, nil
}

// midFrame kills a child in the middle of a message.
func (x *crash) midFrame() error {
	h, rest, err := x.output("stdio", x.i%7, "mp", true)
	if err != nil {
		return err
	}
	x.row.create(&pipedv1.CreateSessionRequest{Name: x.name, Process: &pipedv1.ProcessSpec{
		Args:      []string{"sh", "-c", `cat "$0"; kill -9 $$`, x.row.path(x.name + ".out")},
		StdioPipe: &pipedv1.PipeSpec{FramingIn: &pipedv1.Framing{Name: "mp"}},
	}})
	end, err := x.receive("stdio", h)
	if err != nil {
		return err
	}
	x.row.judge(h)
	if end.GetCause() != pipedv1.EndCause_END_CAUSE_TRUNCATED || end.GetPosition().GetMessage() != uint64(x.i%7+1) || end.GetPosition().GetOffset() != uint64(len(rest)) {
		return fmt.Errorf("the end is %v, want truncated in message %d at %d", end, x.i%7+1, len(rest))
	}
	if len(rest) > 0 && (len(h.got) == 0 || !h.got[len(h.got)-1].cut || !bytes.Equal(h.got[len(h.got)-1].body, rest)) {
		return fmt.Errorf("the part of the last message is not there, marked: want %d bytes", len(rest))
	}
	if want := x.i%7 + min(1, len(rest)); len(h.got) != want {
		return fmt.Errorf("received %d, want %d", len(h.got), want)
	}
	f, err := x.final("stdio", false)
	if err != nil {
		return err
	}
	if f.GetLast().GetCause() != end.GetCause() || f.GetLast().GetPosition().GetMessage() != end.GetPosition().GetMessage() || f.GetLast().GetBytes() != end.GetBytes() {
		return fmt.Errorf("the final is %v, the end %v", f, end)
	}
	return nil
}

// unreadInput lets a child read some of what it is sent and exit: through
// standard input, or through a socket.
func (x *crash) unreadInput() error {
	pipe, script := "stdio", `head -c "$1" >"$0"`
	spec := &pipedv1.CreateSessionRequest{Name: x.name, Process: &pipedv1.ProcessSpec{Stderr: pipedv1.StdioMode_STDIO_MODE_NULL}}
	if x.i%2 == 1 {
		pipe, script = "pipe", `head -c "$1" <&3 >"$0"`
		spec.Pipes = []*pipedv1.PipeSpec{{Name: "pipe"}}
		spec.Process.Inherits = []*pipedv1.Inherit{{Pipe: "pipe", End: 2, Fd: 3, HandOver: true}}
	}
	h := newHistory(x.name, pipe, "in", byChild)
	n := 1 + x.rand.IntN(20)
	read := x.rand.IntN(n + 1)
	if x.i%3 == 0 {
		read = n
	}
	var messages [][]byte
	var bytes int
	for i := range n {
		messages = append(messages, stamp{session: x.name, pipe: pipe, direction: "in", writer: "w", number: uint64(i + 1)}.message(60+x.rand.IntN(1500)))
		if i < read {
			bytes += len(messages[i]) + 1
		}
	}
	// Of three, one reads everything, one exits when everything was accepted, and
	// one when it likes.
	waits := x.i%3 == 1
	spec.Process.Args = []string{"sh", "-c", script, x.row.path(x.name + ".got"), fmt.Sprint(bytes)}
	open := func() error { return nil }
	if waits {
		path, opens, err := x.gate()
		if err != nil {
			return err
		}
		open = opens
		spec.Process.Args[2] += `; cat "$2"`
		spec.Process.Args = append(spec.Process.Args, path)
	}
	x.row.create(spec)
	if err := errors.Join(x.send(pipe, h, messages), open()); err != nil {
		return err
	}
	book := h.writer("w")
	ctx, cancel := x.row.ctx()
	defer cancel()
	if p, err := x.row.c.Wait(ctx, x.name, "", patience); err != nil || p.GetState() != pipedv1.Process_STATE_EXITED || p.GetExit().GetCode() != 0 {
		return fmt.Errorf("exit: %v, %w", p, err)
	}
	data, err := os.ReadFile(x.row.path(x.name + ".got"))
	if err != nil {
		return err
	}
	h.got = cut(data, "line")
	x.row.judge(h)
	if len(h.got) != read {
		return fmt.Errorf("the child got %d messages, %d bytes of %d, want %d messages: %v", len(h.got), len(data), bytes, read, x.row.inspect(x.name))
	}
	f, err := x.final(pipe, true)
	if err != nil {
		return err
	}
	all := read == n
	if !waits && !all {
		// The child may have gone before everything was accepted. What was, is either
		// read, or it is not.
		all = f.GetAllRead()
		if all && book.acked > uint64(read) {
			return fmt.Errorf("all_read after %d of %d messages that were acknowledged: %v", read, book.acked, f)
		}
	}
	if f.AllRead == nil || f.GetAllRead() != all {
		return fmt.Errorf("all_read is wrong or not there after %d of %d messages on %s: %v", read, n, pipe, f)
	}
	return nil
}

// gate lets a child wait until open is called: it reads from a FIFO to its end.
func (x *crash) gate() (path string, open func() error, err error) {
	path = x.row.path(x.name + ".gate")
	return path, func() error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0) // waits for the child
		return errors.Join(err, f.Close(), os.Remove(path))
	}, unix.Mkfifo(path, 0o600)
}

// send sends the messages. The child may be gone before all are sent, or before
// the Writer is closed.
func (x *crash) send(pipe string, h *history, messages [][]byte) error {
	ctx, cancel := x.row.ctx()
	defer cancel()
	book := h.writer("w")
	w, err := x.row.c.Endpoint(client.Ref{Session: x.name, Pipe: pipe}).NewWriter(ctx, client.WriterOptions{ID: "w"})
	for _, msg := range messages {
		if err == nil {
			book.sent++
			err = w.Send(ctx, msg)
		}
	}
	if err == nil {
		if err = w.Flush(ctx); err == nil {
			book.acked = book.sent
		}
	}
	if w != nil {
		if closed := w.Close(ctx); err == nil {
			err = closed
		}
	}
	if errors.Is(err, client.ErrBrokenPipe) {
		return nil
	}
	return err
}

// unreadOutput lets a child write and exit before anybody reads: on a pipe that
// the daemon reads ahead, or on an end that it reads on demand only.
func (x *crash) unreadOutput() error {
	pipe, n := "stdio", 1+x.rand.IntN(30)
	spec := &pipedv1.CreateSessionRequest{Name: x.name, Process: &pipedv1.ProcessSpec{Stderr: pipedv1.StdioMode_STDIO_MODE_NULL}}
	script := `cat "$0"`
	if x.i%2 == 1 {
		pipe, script = "pipe", `cat "$0" >&3`
		spec.Pipes = []*pipedv1.PipeSpec{{Name: "pipe"}}
		spec.Process.Inherits = []*pipedv1.Inherit{{Pipe: "pipe", End: 2, Fd: 3}}
	}
	h, _, err := x.output(pipe, n, "line", false)
	if err != nil {
		return err
	}
	spec.Process.Args = []string{"sh", "-c", script, x.row.path(x.name + ".out")}
	x.row.create(spec)
	ctx, cancel := x.row.ctx()
	defer cancel()
	if p, err := x.row.c.Wait(ctx, x.name, "", patience); err != nil || p.GetExit().GetCode() != 0 {
		return fmt.Errorf("exit: %v, %w", p, err)
	}
	if x.i%2 == 1 {
		if _, err := x.row.c.Endpoint(client.Ref{Session: x.name, Pipe: pipe, End: 2}).Close(ctx, client.CloseOptions{Wait: true}); err != nil {
			return err
		}
	}
	end, err := x.receive(pipe, h)
	if err != nil {
		return err
	}
	x.row.judge(h)
	if end.GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED || end.GetPosition().GetMessage() != uint64(n+1) {
		return fmt.Errorf("the end is %v, want closed after message %d", end, n)
	}
	f, err := x.final(pipe, false)
	if err != nil {
		return err
	}
	if f.GetLast().GetBytes() != end.GetBytes() || f.GetLast().GetPosition().GetMessage() != uint64(n+1) {
		return fmt.Errorf("the final is %v, the end %v", f, end)
	}
	return nil
}
