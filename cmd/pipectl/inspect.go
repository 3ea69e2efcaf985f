package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func newInspectCmd(f *factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect NAME",
		Short: "Show everything about a session",
		Long: `Show a session: its limits and what it uses, its processes, its pipes, and of each end whether it is open, who
holds a copy of it, what went through it each way, what waits, since when it is
stuck, and who has the right to send or to consume, until when. Of a process that
has exited: what it and the children that it waited for have used, and the last
word about each direction of its pipes; of one that is started again, when, and
the incarnations before it that are kept.`,
		Example: `  pipectl inspect calc
  pipectl inspect calc -o json | jq '.processes[].pid'`,
		Args:              arguments("NAME"),
		ValidArgsFunction: f.completeSessions,
	}
	out := outputFlag(cmd)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		name, err := parseName(args[0])
		if err != nil {
			return err
		}
		session, err := c.Inspect(ctx, name)
		if err != nil {
			return err
		}
		if *out == outputJSON {
			return printProto(f.out, session)
		}
		_, err = io.WriteString(f.out, sessionText(session))
		return err
	})
	return cmd
}

func sessionText(s *pipedv1.Session) string {
	var b strings.Builder
	fmt.Fprintf(&b, "session %s: %s, uid %s, created %s\n", s.GetName(), enumText(s.GetState().String()),
		s.GetUid(), s.GetCreateTime().AsTime().Format(time.RFC3339))
	if s.GetExpireTime() != nil {
		fmt.Fprintf(&b, "  ended %s, is kept until %s\n", s.GetEndTime().AsTime().Format(time.RFC3339), s.GetExpireTime().AsTime().Format(time.RFC3339))
	}
	if text := boundText(s.GetLease()); text != "" {
		fmt.Fprintf(&b, "  %s\n", text)
	}
	for _, key := range slices.Sorted(maps.Keys(s.GetLabels())) {
		fmt.Fprintf(&b, "  label %s=%s\n", printable(key), printable(s.GetLabels()[key]))
	}
	if limits := resourcesText(s.GetResources()); limits != "" {
		fmt.Fprintf(&b, "  limits: %s\n", limits)
	}
	for _, p := range s.GetProcesses() {
		fmt.Fprintf(&b, "process %s: %s, pid %d: %s\n", p.GetName(), exitWhyText(p), p.GetPid(), commandText(p.GetArgs()))
		if text := startsText(p); text != "" {
			fmt.Fprintf(&b, "  %s\n", text)
		}
		for _, former := range p.GetFormer() {
			fmt.Fprintf(&b, "  incarnation %d: %s, pid %d\n", former.GetIncarnation(), exitWhyText(former), former.GetPid())
		}
		if used := p.GetExit().GetUsage(); used != nil {
			fmt.Fprintf(&b, "  %s\n", usageText(used))
		}
		for _, i := range p.GetInherits() {
			fmt.Fprintf(&b, "  was given %s:%d as descriptor %d\n", i.GetPipe(), i.GetEnd(), i.GetFd())
		}
		if text := stoppingText(p); text != "" {
			fmt.Fprintf(&b, "  %s\n", text)
		}
		for _, final := range p.GetFinals() {
			fmt.Fprintf(&b, "  %s\n", finalText(final))
		}
	}
	for _, p := range s.GetPipes() {
		writePipe(&b, p)
	}
	if u := s.GetUsage(); u != nil {
		fmt.Fprintf(&b, "uses: %s\n", sessionUsageText(u))
	}
	return b.String()
}

// usageText says what a process has used.
func usageText(used *pipedv1.ProcessUsage) string {
	return fmt.Sprintf("cpu %.2fs user %.2fs system, peak %s",
		used.GetUserTime().AsDuration().Seconds(), used.GetSystemTime().AsDuration().Seconds(), memoryText(used.GetPeakMemoryBytes()))
}

// stoppingText says what will end a running process, and when.
func stoppingText(p *pipedv1.Process) string {
	if p.GetExit() != nil {
		return ""
	}
	at := func(t *timestamppb.Timestamp) string { return t.AsTime().Format(time.RFC3339) }
	switch s := p.GetStopping(); {
	case s.GetStep() == pipedv1.Stopping_STEP_OVER:
		return "was to be stopped, without KILL, and did not end"
	case s.GetNextTime() != nil:
		return fmt.Sprintf("is being stopped (%s); the next step comes at %s", stepText(s.GetStep()), at(s.GetNextTime()))
	case s != nil:
		return fmt.Sprintf("is being stopped (%s)", stepText(s.GetStep()))
	case p.GetDeadline() != nil:
		return "its time is over at " + at(p.GetDeadline())
	default:
		return ""
	}
}

// stepText says what was done last.
func stepText(step pipedv1.Stopping_Step) string {
	switch step {
	case pipedv1.Stopping_STEP_CLOSE:
		return "its input was closed"
	case pipedv1.Stopping_STEP_SIGNAL:
		return "the signal was sent"
	case pipedv1.Stopping_STEP_KILL:
		return "KILL was sent"
	default:
		return "nothing was done yet"
	}
}

func writePipe(b *strings.Builder, p *pipedv1.Pipe) {
	framing := p.GetFramingIn().GetName()
	if out := p.GetFramingOut().GetName(); out != framing {
		framing += " in, " + out + " out"
	}
	fmt.Fprintf(b, "pipe %s: %s, %s%s\n", incarnationText(p.GetName(), p.GetIncarnation()), enumText(p.GetKind().String()), framing, terminalText(p.GetTerminal()))
	for _, e := range p.GetEndpoints() {
		fmt.Fprintf(b, "  end %d: %s\n", e.GetEnd(), endpointText(e))
		for _, h := range e.GetHolders() {
			fmt.Fprintf(b, "    held by %s\n", holderText(h))
		}
		if e.GetState() == pipedv1.Endpoint_STATE_HANDED_OVER {
			continue // it is the process's own business
		}
		writeFlow(b, "sent", e.GetOutbox())
		writeFlow(b, "received", e.GetInbox())
	}
	for _, former := range p.GetFormer() {
		writeFormer(b, former)
	}
}

// writeFormer says what there is still of an earlier incarnation of a pipe.
func writeFormer(b *strings.Builder, p *pipedv1.Pipe) {
	var unread pipedv1.Unread
	unread.InputMessages = p.GetUnreadInput()
	for _, e := range p.GetEndpoints() {
		if e.GetState() != pipedv1.Endpoint_STATE_HANDED_OVER {
			unread.OutputMessages += e.GetInbox().GetQueuedMessages()
			unread.OutputBytes += e.GetInbox().GetQueuedBytes()
		}
	}
	text := unreadText(&unread)
	if text == "" {
		text = "nothing unread"
	}
	fmt.Fprintf(b, "  incarnation %d: %s\n", p.GetIncarnation(), text)
}

// terminalText says how a terminal is.
func terminalText(t *pipedv1.Terminal) string {
	if t == nil {
		return ""
	}
	text := fmt.Sprintf(", %d rows, %d columns", t.GetSize().GetRows(), t.GetSize().GetColumns())
	switch {
	case !t.GetInput():
		return text + ", for output only"
	case t.GetCanonical():
		text += ", edits lines"
	default:
		text += ", raw"
	}
	if t.GetEcho() {
		text += ", echoes"
	}
	return text
}

// endpointText says how an end is.
func endpointText(e *pipedv1.Endpoint) string {
	text := enumText(e.GetState().String())
	switch handedOver := e.GetState() == pipedv1.Endpoint_STATE_HANDED_OVER; {
	case handedOver && len(e.GetHolders()) == 0:
		text += ", and nobody holds it any more"
	case e.GetShared() && !handedOver:
		text += ", shared with a process"
	}
	return text
}

func holderText(h *pipedv1.Holder) string {
	text := fmt.Sprintf("pid %d: %s", h.GetPid(), shorten(printable(h.GetCommand()), 60))
	if h.GetDaemon() {
		text = fmt.Sprintf("the daemon, pid %d", h.GetPid())
	}
	switch fds := strings.Trim(fmt.Sprint(h.GetFds()), "[]"); len(h.GetFds()) {
	case 0:
	case 1:
		text += ", descriptor " + fds
	default:
		text += ", descriptors " + fds
	}
	if since := h.GetStartTime(); since != nil && !h.GetDaemon() {
		text += ", since " + clock(since.AsTime())
	}
	return text
}

func writeFlow(b *strings.Builder, what string, flow *pipedv1.Flow) {
	if flow == nil {
		return
	}
	fmt.Fprintf(b, "    %s %s", what, amountText(flow.GetMessages(), flow.GetBytes()))
	if flow.GetQueuedBytes() > 0 || flow.GetQueuedMessages() > 0 {
		fmt.Fprintf(b, "; waiting: %s", amountText(flow.GetQueuedMessages(), flow.GetQueuedBytes()))
	}
	if flow.GetDroppedBytes() > 0 || flow.GetDroppedMessages() > 0 {
		fmt.Fprintf(b, "; dropped: %s", amountText(flow.GetDroppedMessages(), flow.GetDroppedBytes()))
	}
	if thrown := flow.GetThrownBytes(); thrown > 0 {
		fmt.Fprintf(b, "; %d bytes came after it was given up and were thrown away", thrown)
	}
	if since := flow.GetBlockedSince(); since != nil {
		fmt.Fprintf(b, "; blocked for %v", max(time.Since(since.AsTime()), 0).Truncate(time.Millisecond))
	}
	switch lease := flow.GetLease(); {
	case lease != nil:
		fmt.Fprintf(b, "; %s", leaseText(lease))
	case flow.GetClient() != "":
		fmt.Fprintf(b, "; client %s", printable(flow.GetClient()))
	}
	if flow.GetEnd() != nil {
		fmt.Fprintf(b, "; ended: %s", endText(flow.GetEnd()))
	}
	b.WriteByte('\n')
}

// leaseText says who has a right, and until when.
func leaseText(lease *pipedv1.Lease) string {
	text := "client " + printable(lease.GetHolder())
	if until := lease.GetExpireTime(); until != nil {
		return text + ", until " + until.AsTime().Format(time.RFC3339)
	}
	return text + ", while connected"
}

// finalText is the last word about one direction.
func finalText(final *pipedv1.Final) string {
	last := final.GetLast()
	what := "received from"
	if final.GetSent() {
		what = "sent into"
	}
	// The position is the one behind the last message.
	text := fmt.Sprintf("%s %s:%d: %s; %s", what, incarnationText(final.GetPipe(), last.GetPosition().GetIncarnation()), final.GetEnd(),
		amountText(max(last.GetPosition().GetMessage(), 1)-1, last.GetBytes()), endText(last))
	switch {
	case !final.GetSent() || final.AllRead == nil:
	case final.GetAllRead():
		text += "; all of it was read"
	default:
		text += "; not all of it was read"
	}
	return text
}
