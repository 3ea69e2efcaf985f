package system

import (
	"slices"
	"strings"
	"testing"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestEmptyMessagesSurviveEveryLayer(t *testing.T) {
	d, p := start(t)
	for _, framing := range []string{"mp", "line"} {
		t.Run(framing, func(t *testing.T) {
			for _, way := range []struct {
				name     string
				from, to uint32
			}{{"from end 1", 1, 2}, {"from end 2", 2, 1}} {
				t.Run(way.name, func(t *testing.T) {
					p := newPeer(t, p.conn)
					name := p.create(nil, framed("", framing))
					into, out := at(name, "", way.from), at(name, "", way.to)
					wantEmptyByStream(p, into, out)
					wantEmptyByUnaryCalls(p, into, out)
					p.closeEnd(into)
					if rest, end := p.everything(out); len(rest) != 0 || end.GetPosition().GetMessage() != 7 {
						t.Errorf("at the end: %q, %v; want nothing more after message 6", rest, end)
					}
				})
			}
			t.Run("through a process", func(t *testing.T) {
				p := newPeer(t, p.conn)
				name := p.create(stdio(&pipedv1.ProcessSpec{Args: []string{"cat"}}, framing))
				wantEmptyByStream(p, at(name, "", 1), at(name, "", 1))
			})
			t.Run("by pipectl", func(t *testing.T) {
				p := newPeer(t, p.conn)
				name := p.create(nil, framed("", framing))
				for _, args := range [][]string{
					{"send", name, "", "x", ""},
					{"close", name},
				} {
					if r := d.Pipectl(t, "", args...); r.Code != 0 {
						t.Fatalf("pipectl %q: %+v", args, r)
					}
				}
				r := d.Pipectl(t, "", "recv", name+":2", "--follow", "-o", "json")
				var sizes []string
				for line := range strings.Lines(r.Stdout) {
					_, after, _ := strings.Cut(strings.ReplaceAll(line, " ", ""), `"size":`)
					sizes = append(sizes, after[:1])
				}
				if !slices.Equal(sizes, []string{"0", "1", "0"}) {
					t.Errorf("pipectl recv: %+v, want sizes 0, 1, 0", r)
				}
			})
		})
	}
}

// wantEmptyByStream sends three messages, two of them empty, by Send and takes
// them by Recv: one by one and as a batch.
func wantEmptyByStream(p *peer, into, out *pipedv1.EndpointRef) {
	p.t.Helper()
	s := p.send(&pipedv1.SendOpen{Endpoint: into})
	s.message(1, "")
	s.batch(&pipedv1.Batch{First: position(2, 0), Data: []byte("x"), Sizes: []uint32{1, 0}})
	s.acked(position(4, 0))
	if err := s.end(); err != nil {
		p.t.Errorf("Send: %v", err)
	}
	r := p.recv(&pipedv1.RecvOpen{Endpoint: out})
	for i, want := range []string{"", "x", ""} {
		b := r.batch()
		if got := string(b.GetData()); got != want || b.GetFirst().GetMessage() != uint64(i+1) || b.GetMore() {
			p.t.Errorf("message %d: %v, want %q", i+1, b, want)
		}
		r.ack(uint64(i+2), 0)
	}
	r.detach()
}

// wantEmptyByUnaryCalls does the same with Write and Read, and looks with Poll.
func wantEmptyByUnaryCalls(p *peer, into, out *pipedv1.EndpointRef) {
	p.t.Helper()
	p.write(into, "", "x", "")
	for i, want := range []string{"", "x", ""} {
		// In the kernel lie framing bytes only.
		if ready := p.poll(nil, out); len(ready) != 1 || !ready[0].GetMessage() && !ready[0].GetData() || ready[0].GetEnd() {
			p.t.Errorf("poll before message %d: %v", i+1, ready)
		}
		if got := p.read(out); got != want {
			p.t.Errorf("message %d: %q, want %q", i+1, got, want)
		}
	}
	if ready := p.poll(atOnce, out); len(ready) != 0 {
		p.t.Errorf("poll afterwards: %v", ready)
	}
}

func TestBatchOfEmptyMessagesOnlyIsABatch(t *testing.T) {
	_, p := start(t)
	const count = 500
	name := p.create(stdio(&pipedv1.ProcessSpec{Args: []string{"cat"}}, "mp"))
	s := p.send(&pipedv1.SendOpen{Endpoint: at(name, "", 1)})
	s.batch(&pipedv1.Batch{First: position(1, 0), Sizes: make([]uint32, count)})
	s.acked(position(count+1, 0))
	if err := s.end(); err != nil {
		t.Error(err)
	}
	p.closeSend(at(name, "", 1))
	r := p.recv(&pipedv1.RecvOpen{Endpoint: at(name, "", 1), MaxBatchMessages: 64, AutoAck: true})
	got := 0
	for {
		resp := r.next()
		if end := resp.GetEnd(); end != nil {
			if got != count || end.GetPosition().GetMessage() != count+1 || end.GetBytes() != 4*count {
				t.Errorf("%d messages, %v; want %d", got, end, count)
			}
			return
		}
		got += max(len(resp.GetBatch().GetSizes()), 1)
	}
}
