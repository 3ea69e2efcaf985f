package processes

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestP1TailOfAChildThatExitsAtOnceIsComplete(t *testing.T) {
	r := newRow(t, "P1-tail", "--ended-max", "10")
	n := sized(1000, 10_000)
	for _, kind := range []string{"c", "sh", "late"} {
		rounds := n
		if kind != "c" {
			rounds = n / 5
		}
		right := each(rounds, func(i int) bool { return r.tail(kind, i) })
		r.note("%s=%d/%d", kind, right, rounds)
		if right != rounds {
			t.Errorf("%s: %d of %d tails are complete", kind, right, rounds)
		}
	}
	r.finish()
}

// tail starts a child that writes some lines and exits, and compares. A late one
// is read only after its exit.
func (r *row) tail(kind string, i int) bool {
	name, lines := fmt.Sprintf("%s-%d", kind, i), 1+i%100
	args := plays(r.t, "tail", strconv.Itoa(lines))
	if kind == "sh" {
		args = []string{"/bin/sh", "-c", `i=0; while [ $i -lt $0 ]; do echo "$i of $0"; i=$((i+1)); done; exit $(($0 % 200))`, strconv.Itoa(lines)}
	}
	if r.create(name, &pipedv1.ProcessSpec{Args: args, Stderr: pipedv1.StdioMode_STDIO_MODE_NULL}) == nil {
		return false
	}
	defer r.remove(name)
	if kind == "late" {
		r.wait(name)
	}
	var want strings.Builder
	for n := range lines {
		fmt.Fprintf(&want, "%d of %d\n", n, lines)
	}
	text, end := r.text(name, "stdio")
	if text != want.String() || end.GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED {
		r.t.Errorf("%s: got %d bytes, %v; want %d bytes, closed", name, len(text), end, want.Len())
		return false
	}
	if code := r.wait(name).GetExit().GetCode(); int(code) != lines%200 {
		r.t.Errorf("%s: exit %d, want %d", name, code, lines%200)
		return false
	}
	return true
}
