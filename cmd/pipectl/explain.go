package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// explainAgain is how often it is looked whether something else keeps a process or
// the end of a pipe up by now: each look goes through the descriptors of the machine.
const explainAgain = time.Second

// explain writes why a session goes on, again whenever that has changed, until the
// context ends.
func explain(ctx context.Context, w io.Writer, c *client.Client, session, process string) {
	tick := time.NewTicker(explainAgain)
	defer tick.Stop()
	var told []string
	for {
		s, err := c.Inspect(ctx, session)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			if reasons := reasonsOf(s, process); !slices.Equal(reasons, told) {
				told = reasons
				_, _ = io.WriteString(w, strings.Join(append(slices.Clone(reasons), ""), "\n"))
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// reasonsOf says why the end of file of pipes has not come, and what a process may
// wait for, the first if none is named.
func reasonsOf(s *pipedv1.Session, process string) []string {
	var reasons []string
	running := false
	for i, p := range s.GetProcesses() {
		if p.GetName() == process || process == "" && i == 0 {
			running = p.GetExit() == nil
			if running {
				reasons = append(reasons, fmt.Sprintf("%s (pid %d) is running", p.GetName(), p.GetPid()))
			}
		}
	}
	for _, p := range s.GetPipes() {
		if len(p.GetEndpoints()) != 2 {
			continue
		}
		for i, e := range p.GetEndpoints() {
			ref := fmt.Sprintf("%s/%s:%d", s.GetName(), p.GetName(), e.GetEnd())
			reasons = append(reasons, endpointReasons(ref, e, p.GetEndpoints()[1-i], running)...)
		}
	}
	return reasons
}

// endpointReasons says what keeps an end of the daemon's up; far is the other one.
func endpointReasons(ref string, e, far *pipedv1.Endpoint, running bool) (reasons []string) {
	if e.GetState() != pipedv1.Endpoint_STATE_OPEN && e.GetState() != pipedv1.Endpoint_STATE_CLOSING {
		return nil
	}
	if in := e.GetInbox(); in != nil && in.GetEnd() == nil {
		if since := in.GetBlockedSince(); since != nil {
			reasons = append(reasons, fmt.Sprintf("%s is full since %s: nobody receives what came (%s)", ref, clock(since.AsTime()),
				amountText(in.GetQueuedMessages(), in.GetQueuedBytes())))
		}
		for _, h := range far.GetHolders() {
			if h.GetDaemon() || h.GetWrites() {
				reasons = append(reasons, fmt.Sprintf("the end of file of %s has not come: %s", ref, keeps(ref, h)))
			}
		}
	}
	if out := e.GetOutbox(); out != nil && out.GetEnd() == nil && running {
		if out.GetQueuedBytes() > 0 {
			reasons = append(reasons, fmt.Sprintf("%s: %s wait to be read", ref, amountText(out.GetQueuedMessages(), out.GetQueuedBytes())))
		}
		reasons = append(reasons, fmt.Sprintf("input through %s may still come: pipectl close %s --send-only ends it", ref, ref))
	}
	return reasons
}

// keeps says who holds an end, and since when.
func keeps(ref string, h *pipedv1.Holder) string {
	if h.GetDaemon() {
		return fmt.Sprintf("the daemon has a copy of the other end: pipectl close %s closes it", otherEnd(ref))
	}
	text := fmt.Sprintf("held by %s (pid %d", shorten(printable(h.GetCommand()), 60), h.GetPid())
	if since := h.GetStartTime(); since != nil {
		text += ", since " + clock(since.AsTime())
	}
	text += ")"
	if family := h.GetProcess(); family != "" {
		text += ", which is " + family + " or a descendant of it"
	}
	return text
}

func otherEnd(ref string) string {
	if at, found := strings.CutSuffix(ref, ":1"); found {
		return at + ":2"
	}
	return strings.TrimSuffix(ref, ":2") + ":1"
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }
