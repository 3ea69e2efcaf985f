package system

import (
	"testing"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A holding is one way in which copies of end 1 are spread. End of file has to
// come at end 2 exactly when the last of them is gone.
type holding struct {
	name string
	// daemon and processes say who has a copy; grandchild is a process that
	// leaves its copy to another and exits.
	daemon, process, second, grandchild bool
}

func TestEndOfFileComesExactlyWhenTheLastCopyIsClosed(t *testing.T) {
	_, p := start(t)
	for _, kind := range []pipedv1.Pipe_Kind{pipedv1.Pipe_KIND_DUPLEX, pipedv1.Pipe_KIND_ONE_WAY} {
		for _, h := range []holding{
			{name: "the daemon alone", daemon: true},
			{name: "a process alone", process: true},
			{name: "a grandchild alone", grandchild: true},
			{name: "the daemon and a process", daemon: true, process: true},
			{name: "two processes", process: true, second: true},
			{name: "everybody", daemon: true, process: true, second: true, grandchild: true},
		} {
			t.Run(kind.String()+" held by "+h.name, func(t *testing.T) { wantEndWithTheLast(newPeer(t, p.conn), kind, h) })
		}
	}
}

func wantEndWithTheLast(p *peer, kind pipedv1.Pipe_Kind, h holding) {
	p.t.Helper()
	// On a one-way pipe end 2 is the one that sends.
	writes, reads := uint32(1), uint32(2)
	if kind == pipedv1.Pipe_KIND_ONE_WAY {
		writes, reads = 2, 1
	}
	spec := framed("pipe", "line")
	spec.Kind = kind
	name := p.create(nil, spec)
	// A process waits for its input to end, and with it its copy does.
	var release []func()
	holder := func(as, script string) {
		process := sh(script, &pipedv1.Inherit{Pipe: "pipe", End: writes, Fd: 3})
		process.Name, process.Stdout, process.Stderr = as, pipedv1.StdioMode_STDIO_MODE_NULL, pipedv1.StdioMode_STDIO_MODE_NULL
		p.start(name, process)
	}
	closing := func(pipe string) func() { return func() { p.closeSend(at(name, pipe, 1)) } }
	first := "stdio"
	hold := func(as, script string) {
		holder(as, script)
		release = append(release, closing(first))
		first = ""
	}
	next := func(as, script string) {
		if first == "stdio" {
			hold(as, script)
			return
		}
		holder(as, script)
		release = append(release, closing(as+".stdio"))
	}
	if h.process {
		next("one", "exec cat")
	}
	if h.second {
		next("two", "exec cat")
	}
	if h.grandchild {
		next("old", "exec 4<&0; cat <&4 4<&- & exit 0")
	}
	if h.daemon {
		release = append(release, func() { p.closeEnd(at(name, "pipe", writes)) })
	} else {
		p.write(at(name, "pipe", writes), "last words")
		p.closeEnd(at(name, "pipe", writes))
		if got := p.read(at(name, "pipe", reads)); got != "last words" {
			p.t.Errorf("got %q", got)
		}
	}
	end := at(name, "pipe", reads)
	for _, let := range release {
		always(p.t, "no end while there are holders", func() bool { return len(p.poll(atOnce, end)) == 0 })
		let()
	}
	if ready := p.poll(nil, end); len(ready) != 1 || !ready[0].GetEnd() || ready[0].GetMessage() || ready[0].GetData() {
		p.t.Errorf("poll: %v, want the end alone", ready)
	}
	if _, last := p.everything(end); last.GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED {
		p.t.Errorf("end %v, want closed", last)
	}
}

func TestExitIsNotEndOfFileAndEndOfFileIsNotExit(t *testing.T) {
	_, p := start(t)
	t.Run("closed and running", func(t *testing.T) {
		p := newPeer(t, p.conn)
		name := p.create(sh(`echo out; exec >&- 2>&-; exec sleep 1000`))
		got, end := p.everything(at(name, "", 1))
		if len(got) != 1 || end.GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED {
			t.Errorf("%q, %v", got, end)
		}
		if s := p.get(name); s.GetState() != pipedv1.Session_STATE_ACTIVE || s.GetProcesses()[0].GetExit() != nil {
			t.Errorf("session %v, exit %v; want a running process", s.GetState(), s.GetProcesses()[0].GetExit())
		}
		p.signal(name, "KILL")
	})
	t.Run("exited, and the daemon holds a copy", func(t *testing.T) {
		p := newPeer(t, p.conn)
		name := p.create(quiet(sh(`echo out >&3; exit 4`, copies(2, 3))), framed("pipe", "line"))
		if code := p.exit(name).GetCode(); code != 4 {
			t.Errorf("exit %d", code)
		}
		if got := p.read(at(name, "", 1)); got != "out" {
			t.Errorf("got %q", got)
		}
		always(t, "no end", func() bool { return len(p.poll(atOnce, at(name, "", 1))) == 0 })
	})
}

func TestChildrenAreReapedAtOnce(t *testing.T) {
	d, p := start(t)
	began := time.Now()
	for range 20 {
		p.create(&pipedv1.ProcessSpec{Args: []string{"/bin/true"}}) // and nobody asks
	}
	eventually(t, "no child is left, not even a zombie", func() bool { return len(d.Children()) == 0 })
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestFilterEndsThroughHalfClose(t *testing.T) {
	_, p := start(t)
	socket := quiet(sh(`exec sort <&3 >&3 3>&-`, gives(2, 3)))
	for what, ref := range map[string]*pipedv1.EndpointRef{
		"over pipes":    at(p.create(&pipedv1.ProcessSpec{Args: []string{"sort"}}), "stdio", 1),
		"over a socket": at(p.create(socket, framed("pipe", "line")), "pipe", 1),
	} {
		t.Run(what, func(t *testing.T) {
			p := newPeer(t, p.conn)
			p.write(ref, "b", "c", "a")
			p.closeSend(ref)
			_, err := p.pipes.Write(p.ctx(), writing(ref, "d"))
			wantReason(t, "Write after half-close", err, "ENDPOINT_CLOSED")
			got, end := p.everything(ref)
			if len(got) != 3 || got[0]+got[1]+got[2] != "abc" || end.GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED {
				t.Errorf("%q, %v", got, end)
			}
		})
	}
}

func TestLastLineWithoutNewlineIsMarked(t *testing.T) {
	_, p := start(t)
	r := p.recv(&pipedv1.RecvOpen{Endpoint: at(p.create(sh(`printf 'a\nb\r\nc'`)), "", 1), AutoAck: true})
	for _, want := range []string{"a", "b\r", "c"} {
		if b := r.batch(); string(b.GetData()) != want || b.GetPartial() != (want == "c") {
			t.Errorf("got %v, want %q", b, want)
		}
	}
	if end := r.ended(); end.GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED || end.GetPosition().GetMessage() != 4 || end.GetBytes() != 6 {
		t.Errorf("end %v", end)
	}
}
