package exact

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestP3GrandchildThatHoldsThePipeDelaysTheEndAndNothingElse(t *testing.T) {
	r := newRow(t, "P3")
	var exits []time.Duration
	n := sized(5, 100)
	for i := range n {
		took, err := grandchild(r, i)
		if err != nil {
			t.Errorf("round %d: %v", i, err)
		}
		exits = append(exits, took)
	}
	slices.Sort(exits)
	r.note("rounds=%d exit=3 exit_p50_ms=%.1f exit_max_ms=%.1f state=HELD", n, milliseconds(quantile(exits, 0.5)), milliseconds(exits[len(exits)-1]))
	if p50 := quantile(exits, 0.5); p50 > 100*time.Millisecond {
		t.Errorf("half of the exits were told later than %v after the start", p50)
	}
	r.finish()
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// grandchild lets a child exit while its own child holds its output, and returns
// how long after the start the exit was known.
func grandchild(r *row, i int) (time.Duration, error) {
	x := &crash{row: r, name: fmt.Sprintf("held-%d", i), i: i, rand: rand.New(rand.NewPCG(uint64(i), 3))}
	h, _, err := x.output("stdio", 1+i%5, "line", false)
	if err != nil {
		return 0, err
	}
	ctx, cancel := r.ctx()
	defer cancel()
	begun := time.Now()
	r.create(&pipedv1.CreateSessionRequest{Name: x.name, Process: &pipedv1.ProcessSpec{
		Args: []string{"sh", "-c", `cat "$0"; sleep 60 & exit 3`, r.path(x.name + ".out")}, Stderr: pipedv1.StdioMode_STDIO_MODE_NULL,
	}})
	p, err := r.c.Wait(ctx, x.name, "", patience)
	took := time.Since(begun)
	if err != nil || p.GetExit().GetCode() != 3 {
		return took, fmt.Errorf("exit %v, %w; want code 3", p, err)
	}
	// The end of file state is HELD: no last word yet, and somebody to name.
	pid := 0
	if !await(func() bool { pid = holder(r, x.name, "sleep"); return pid != 0 }) {
		return took, fmt.Errorf("nobody is shown to hold the pipe: %v", r.inspect(x.name).GetPipes())
	}
	if end := r.endpoint(x.name, 1).GetInbox().GetEnd(); end != nil {
		return took, fmt.Errorf("%v although %d holds the pipe", end, pid)
	}
	for _, f := range r.inspect(x.name).GetProcesses()[0].GetFinals() {
		if f.GetPipe() == "stdio" && !f.GetSent() {
			return took, fmt.Errorf("%v although %d holds the pipe", f, pid)
		}
	}
	rd, err := r.c.Endpoint(client.Ref{Session: x.name}).NewReader(ctx, client.ReaderOptions{})
	if err != nil {
		return took, err
	}
	k := &talk{r: r}
	if err := k.receive(ctx, rd, uint64(1+i%5)); err != nil {
		return took, err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return took, err
	}
	if err := k.receive(ctx, rd, 1<<60); err != nil {
		return took, err
	}
	h.got = k.back
	r.judge(h)
	if rd.End().GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED {
		return took, fmt.Errorf("the end is %v, want closed", rd.End())
	}
	if err := rd.Close(ctx); err != nil {
		return took, err
	}
	r.remove(x.name)
	return took, nil
}

// holder returns the process that holds the other end of a session's pipe and
// whose command begins so, or 0.
func holder(r *row, name, command string) int {
	for _, e := range r.inspect(name).GetPipes()[0].GetEndpoints() {
		for _, h := range e.GetHolders() {
			if !h.GetDaemon() && strings.HasPrefix(h.GetCommand(), command) {
				return int(h.GetPid())
			}
		}
	}
	return 0
}
