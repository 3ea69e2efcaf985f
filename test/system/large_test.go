package system

import (
	"bytes"
	"testing"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// pythonEcho is a Python program as its author would write it: nothing of it
// knows of piped.
const pythonEcho = `
from multiprocessing.connection import Connection
conn = Connection(3)
try:
    while True:
        conn.send_bytes(conn.recv_bytes())
except EOFError:
    pass
`

func TestSixteenMiBBothWaysGrowTheDaemonByLessThanOneMessage(t *testing.T) {
	const size = 16 << 20
	python := &pipedv1.ProcessSpec{Args: []string{"python3", "-c", pythonEcho}, Inherits: []*pipedv1.Inherit{gives(2, 3)}}
	cat := func() *pipedv1.ProcessSpec { return &pipedv1.ProcessSpec{Args: []string{"cat"}} }
	for _, c := range []struct {
		name, framing string
		process       *pipedv1.ProcessSpec
		pipes         []*pipedv1.PipeSpec
		ref           string
	}{
		{"mp through cat", "mp", stdio(cat(), "mp"), nil, "stdio"},
		{"line through cat", "line", stdio(cat(), "line"), nil, "stdio"},
		{"raw through cat", "raw", stdio(cat(), "raw"), nil, "stdio"},
		{"mp through Python", "mp", python, []*pipedv1.PipeSpec{framed("pipe", "mp")}, "pipe"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, p := start(t)
			ref := at(p.create(c.process, c.pipes...), c.ref, 1)
			grown := peak(t, d.PID(), func() {
				for number := range uint64(3) {
					wantEcho(p, ref, c.framing, number+1, size)
				}
			})
			t.Logf("the daemon's peak memory grew by %s", mib(grown))
			if grown >= size {
				t.Errorf("the daemon's peak memory grew by %s, want less than one message, %s", mib(grown), mib(size))
			}
		})
	}
}

// wantEcho sends one message in parts and receives it back at the same time.
func wantEcho(p *peer, ref *pipedv1.EndpointRef, framing string, number uint64, size int) {
	p.t.Helper()
	part := partSize(p)
	message := bytes.Repeat([]byte("0123456789abcde."), size/16)
	r := p.recv(&pipedv1.RecvOpen{Endpoint: ref, MaxUnackedMessages: 1 << 40})
	s := p.send(&pipedv1.SendOpen{Endpoint: ref, WriterId: "echo"})
	sent := make(chan error, 1)
	go func() { sent <- sendInParts(s, framing, number, message, part) }()
	got := make([]byte, 0, size)
	for more := true; more; {
		b := r.batch()
		got = append(got, b.GetData()...)
		more = b.GetMore()
		if framing == "raw" {
			more = len(got) < size
			r.ack(b.GetFirst().GetMessage()+uint64(len(b.GetData())), 0)
		} else if more {
			r.ack(b.GetFirst().GetMessage(), uint64(len(got)))
		} else {
			r.ack(b.GetFirst().GetMessage()+1, 0)
		}
	}
	if !bytes.Equal(got, message) {
		p.t.Errorf("%d bytes came back, not the %d that were sent", len(got), size)
	}
	if err := <-sent; err != nil {
		p.t.Errorf("Send: %v", err)
	}
	r.detach()
}

func sendInParts(s *sender, framing string, number uint64, message []byte, part int) error {
	for off := 0; off < len(message); off += part {
		data := message[off:min(off+part, len(message))]
		b := &pipedv1.Batch{First: position(number, uint64(off)), Data: data, More: off+part < len(message), TotalSize: uint64(len(message))}
		if framing == "raw" {
			b = &pipedv1.Batch{First: position((number-1)*uint64(len(message))+uint64(off)+1, 0), Data: data}
		}
		if err := s.stream.Send(&pipedv1.SendRequest{Request: &pipedv1.SendRequest_Batch{Batch: b}}); err != nil {
			break // the stream says why
		}
	}
	if err := s.stream.CloseSend(); err != nil {
		return err
	}
	return s.failure()
}
