package exact

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A talk is a session whose child keeps what it gets in a file and sends it back
// as it is: tee, which knows nothing of messages.
type talk struct {
	r             *row
	name, framing string
	// pipe, if set, is a duplex pipe, a socket, that the child has beside stdio.
	pipe string
	in   *history
	// back are what the client received.
	back []observation
}

// newTalk prepares a talk; request creates its session.
func (r *row) newTalk(name, framing string) *talk {
	return &talk{r: r, name: name, framing: framing, in: newHistory(name, "stdio", "in", byChild)}
}

func (k *talk) file() string { return k.r.path(k.name + ".got") }

func (k *talk) request() *pipedv1.CreateSessionRequest {
	return &pipedv1.CreateSessionRequest{
		RequestId: k.name, Name: k.name,
		Process: &pipedv1.ProcessSpec{
			Args: []string{"tee", "-a", k.file()}, Stderr: pipedv1.StdioMode_STDIO_MODE_NULL,
			StdioPipe: &pipedv1.PipeSpec{FramingIn: &pipedv1.Framing{Name: k.framing}},
		},
	}
}

// overSocket is request for a child that talks over a socket.
func (k *talk) overSocket() *pipedv1.CreateSessionRequest {
	k.pipe = "socket"
	req := k.request()
	req.Pipes = []*pipedv1.PipeSpec{{Name: k.pipe, FramingIn: req.Process.StdioPipe.FramingIn}}
	req.Process.StdioPipe, req.Process.Stdin, req.Process.Stdout = nil, pipedv1.StdioMode_STDIO_MODE_NULL, pipedv1.StdioMode_STDIO_MODE_NULL
	req.Process.Args = append([]string{"sh", "-c", `exec "$@" <&3 >&3 3>&-`, "sh"}, req.Process.Args...)
	req.Process.Inherits = []*pipedv1.Inherit{{Pipe: k.pipe, End: 2, Fd: 3, HandOver: true}}
	return req
}

// ref names the daemon's end.
func (k *talk) ref() client.Ref { return client.Ref{Session: k.name, Pipe: k.pipe} }

// message returns message n of a writer.
func (k *talk) message(writer string, n uint64, size int) []byte {
	return stamp{session: k.name, pipe: "stdio", direction: "in", writer: writer, number: n}.message(size)
}

// flushEvery is how many messages are sent between two Flushes.
const flushEvery = 64

// send sends the messages that are missing up to a number and returns when they
// are acknowledged.
func (k *talk) send(ctx context.Context, w *client.Writer, until uint64, size int) error {
	book := k.in.writer(w.ID())
	for n := w.Next().Message; n <= until; n++ {
		book.sent = max(book.sent, n)
		if err := w.Send(ctx, k.message(w.ID(), n, size)); err != nil {
			return err
		}
		if n%flushEvery != 0 && n != until {
			continue
		}
		if err := w.Flush(ctx); err != nil {
			return err
		}
		book.acked = max(book.acked, n)
	}
	return nil
}

// receive takes messages up to a position, or to the end of the direction, and
// acknowledges each.
func (k *talk) receive(ctx context.Context, rd *client.Reader, until uint64) error {
	for rd.Position().Message <= until {
		m, err := rd.Next(ctx)
		if gap := (*client.GapError)(nil); errors.As(err, &gap) {
			k.back = append(k.back, observation{gap: gap.To.Message})
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		k.back = append(k.back, observation{body: m.Data, position: m.Position.Message, cut: m.Truncated || m.Partial, at: time.Now().UnixNano()})
		if err := rd.Ack(m.After); err != nil {
			return err
		}
	}
	return nil
}

// delivered reads what the child got. It sends back first and keeps then.
func (k *talk) delivered() (err error) {
	var last uint64
	for _, o := range k.back {
		last = max(last, o.position)
	}
	await(func() bool {
		var data []byte
		if data, err = os.ReadFile(k.file()); err != nil {
			return true
		}
		k.in.got = cut(data, k.framing)
		return uint64(len(k.in.got)) >= last
	})
	return err
}

// finish ends the input of the child and receives the rest of what it sends
// back, over the row's own connection: then the child has kept everything.
func (k *talk) finish(ctx context.Context) error {
	e := k.r.c.Endpoint(k.ref())
	if err := e.CloseSend(ctx); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	rd, err := e.NewReader(ctx, client.ReaderOptions{ConsumerID: "c"})
	if err != nil {
		return fmt.Errorf("the rest: %w", err)
	}
	if err := k.receive(ctx, rd, 1<<60); err != nil {
		return fmt.Errorf("the rest: %w", err)
	}
	return rd.Close(ctx)
}

// judge reads what the child got and adds both directions. complete says that
// the child and the client have had everything.
func (k *talk) judge(complete bool) error {
	if err := k.delivered(); err != nil {
		return err
	}
	k.in.complete = complete
	back := k.in.echo()
	back.got, back.complete = k.back, complete
	k.r.judge(k.in, back)
	return nil
}

// cut takes the bytes that a child got apart. What is not whole at the end is
// one torn message.
func cut(data []byte, framing string) []observation {
	var got []observation
	for len(data) > 0 {
		var body []byte
		switch framing {
		case "line":
			line, rest, _ := bytes.Cut(data, []byte("\n"))
			body, data = line, rest
		case "mp":
			if len(data) < 4 {
				return append(got, observation{body: data})
			}
			n := min(int(binary.BigEndian.Uint32(data)), len(data)-4)
			body, data = data[4:4+n], data[4+n:]
		default:
			panic(framing)
		}
		got = append(got, observation{body: body})
	}
	return got
}
