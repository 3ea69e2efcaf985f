package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
)

type eventsOptions struct {
	follow bool
	prefix string
	labels []string
	resume string
	output *output
}

func newEventsCmd(f *factory) *cobra.Command {
	var opts eventsOptions
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what happened to sessions",
		Long: `Print the events that the daemon still has, oldest first, one a line: sessions created,
ended and removed, pipes made, processes started, exited and started again, directions
ended, leases taken, given back and lost. With --follow go on with what happens from now on, also
across a lost connection.

With -o json each line has a resumeToken; --resume with the last one that was seen
goes on behind it. When the daemon does not have what came next any more, or is
another one, a snapshot of all sessions comes first, which ends with snapshotEnd.`,
		Example: `  pipectl events
  pipectl events --follow --name sort-
  pipectl events --follow --label job=nightly -o json
  pipectl events -o json --resume TOKEN`,
		Args:              arguments(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.follow, "follow", "f", false, "go on with what happens from now on")
	flags.StringVar(&opts.prefix, "name", "", "only sessions whose names begin with this `PREFIX`")
	flags.StringArrayVar(&opts.labels, "label", nil, "only sessions with the label `K=V`; repeatable, all must match")
	flags.StringVar(&opts.resume, "resume", "", "go on behind the event that had this `TOKEN`")
	opts.output = outputFlag(cmd)
	_ = cmd.RegisterFlagCompletionFunc("name", f.completeMoreSessions)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, _ []string) error {
		return eventsRun(ctx, f, c, &opts)
	})
	return cmd
}

func eventsRun(ctx context.Context, f *factory, c *client.Client, opts *eventsOptions) error {
	labels, err := parseLabels(opts.labels)
	if err != nil {
		return err
	}
	req := &pipedv1.WatchSessionsRequest{
		ResumeToken: opts.resume, NamePrefix: opts.prefix, Labels: labels, Retained: true, StopAtNow: !opts.follow,
	}
	for resp, err := range c.Watch(ctx, req) {
		if err != nil {
			return err
		}
		if err := f.printEvent(resp, *opts.output); err != nil {
			return err
		}
	}
	return nil
}

// parseLabels reads K=V from the command line.
func parseLabels(texts []string) (map[string]string, error) {
	labels := make(map[string]string, len(texts))
	for _, text := range texts {
		key, value, found := strings.Cut(text, "=")
		if !found || key == "" {
			return nil, usageError("--label %q is not K=V", text)
		}
		labels[key] = value
	}
	return labels, nil
}

func (f *factory) printEvent(resp *pipedv1.WatchSessionsResponse, out output) error {
	if out == outputJSON {
		return printProto(f.out, resp)
	}
	var line string
	switch {
	case resp.GetEvent() != nil:
		line = eventText(resp.GetEvent())
	case resp.GetSnapshot() != nil:
		s := resp.GetSnapshot()
		line = eventLine(s.GetCreateTime().AsTime(), "session", s.GetName(), enumText(s.GetState().String())+", created then")
	default:
		return nil
	}
	_, err := fmt.Fprintln(f.out, line)
	return err
}

// eventLine is when, what, of which session, and more.
func eventLine(at time.Time, what, session, more string) string {
	return strings.TrimSpace(fmt.Sprintf("%s  %-17s  %s  %s", at.Local().Format("2006-01-02T15:04:05.000Z07:00"), what, session, more))
}

// eventText is an event on one line.
func eventText(e *pipedv1.SessionEvent) string {
	what := strings.TrimPrefix(e.GetType().String(), "TYPE_")
	what = strings.ReplaceAll(strings.ToLower(what), "_", " ")
	var more []string
	if p := e.GetProcess(); p != nil {
		more = append(more, processText(p))
	}
	switch {
	case e.GetFinal() != nil:
		more = append(more, finalText(e.GetFinal()))
	case e.GetPipe() != "" && e.GetEnd() != 0:
		more = append(more, fmt.Sprintf("%s:%d", incarnationText(e.GetPipe(), e.GetIncarnation()), e.GetEnd()))
	case e.GetPipe() != "":
		more = append(more, incarnationText(e.GetPipe(), e.GetIncarnation()))
	}
	if text := unreadText(e.GetUnread()); text != "" {
		more = append(more, "("+text+")")
	}
	if lease := e.GetLease(); lease != nil {
		more = append(more, strings.ToLower(strings.TrimPrefix(lease.GetRole().String(), "LEASE_ROLE_"))+" "+printable(lease.GetHolder()))
	}
	if e.GetDetail() != "" {
		more = append(more, "("+printable(e.GetDetail())+")")
	}
	return eventLine(e.GetTime().AsTime(), what, e.GetSession(), strings.Join(more, " "))
}

// processText is a process on one line.
func processText(p *pipedv1.Process) string {
	name := incarnationText(p.GetName(), p.GetIncarnation())
	if p.GetExit() != nil {
		text := name + " " + exitWhyText(p)
		if next := p.GetNextStartTime(); next != nil {
			text += ", starts again at " + next.AsTime().Local().Format("15:04:05.000")
		}
		return text
	}
	return fmt.Sprintf("%s pid %d: %s", name, p.GetPid(), shorten(commandText(p.GetArgs()), 60))
}
