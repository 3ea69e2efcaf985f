package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
)

func newInfoCmd(f *factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Show what the daemon says of itself",
		Long: `Show the daemon's version and limits, how many sessions it has, what survives which
loss and why, who keeps them while it is dead, how it followed the daemon before, and
what it found out about its kernel at its start. "pipectl doctor" judges that.`,
		Example: `  pipectl info
  pipectl info -o json | jq .limits`,
		Args: arguments(),
	}
	out := outputFlag(cmd)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, _ []string) error {
		info, err := c.Info(ctx)
		if err != nil {
			return err
		}
		if *out == outputJSON {
			return printProto(f.out, info)
		}
		table := tabwriter.NewWriter(f.out, 0, 0, 2, ' ', 0)
		limits := info.GetLimits()
		for _, row := range []struct {
			name  string
			value any
		}{
			{"version", info.GetVersion()},
			{"pid", info.GetPid()},
			{"started", info.GetStartTime().AsTime().Format(time.RFC3339)},
			{"addresses", strings.Join(info.GetAddresses(), " ")},
			{"active sessions", info.GetActiveSessions()},
			{"ended sessions", info.GetEndedSessions()},
			{"most sessions", limits.GetMaxSessions()},
			{"durability", durabilityText(info)},
			{"survives its death", survivalText(info)},
			{"front epoch", info.GetFrontEpoch()},
			{"keeper", keeperText(info.GetKeeper())},
			{"cgroups", cgroupsText(info.GetCgroups())},
			{"last restart", restartText(info.GetLastRestart())},
			{"features", strings.Join(info.GetFeatures(), " ")},
			{"part size", limits.GetPartSize()},
			{"message size", limits.GetMaxMessageSize()},
			{"log size", limits.GetLogSize()},
			{"tail size", limits.GetTailSize()},
			{"streams a connection", limits.GetMaxStreamsPerConnection()},
			{"ended are kept", limits.GetEndedRetention().AsDuration()},
			{"leases last", limits.GetLeaseDuration().AsDuration()},
			{"longest lease", limits.GetMaxLeaseDuration().AsDuration()},
			{"grace after closing", limits.GetStopCloseGrace().AsDuration()},
			{"grace after TERM", limits.GetStopGrace().AsDuration()},
			{"events kept", limits.GetEventsRetained()},
		} {
			_, _ = fmt.Fprintf(table, "%s\t%v\n", row.name, row.value)
		}
		for _, check := range info.GetChecks() {
			_, _ = fmt.Fprintf(table, "check %s\t%s\n", check.GetName(), checkText(check.GetPassed(), check.GetDetail()))
		}
		return table.Flush()
	})
	return cmd
}

// durabilityText names what survives, and why no more.
func durabilityText(info *pipedv1.GetServerInfoResponse) string {
	text := enumText(strings.TrimPrefix(info.GetDurability().String(), "DURABILITY_"))
	if reason := info.GetDurabilityReason(); reason != "" {
		text += ": " + reason
	}
	return text
}

// survivalText says whether sessions outlive the daemon, and why.
func survivalText(info *pipedv1.GetServerInfoResponse) string {
	text := "no"
	if info.GetSurvivesDaemonDeath() {
		text = "yes"
	}
	if reason := info.GetSurvivalReason(); reason != "" {
		text += ": " + reason
	}
	return text
}

// keeperText says who keeps sessions while the daemon is dead.
func keeperText(k *pipedv1.Keeper) string {
	switch {
	case k == nil:
		return "none"
	case k.GetAwaySince() != nil:
		return "away since " + k.GetAwaySince().AsTime().Format(time.RFC3339)
	default:
		return fmt.Sprintf("%s, pid %d, since %s", k.GetVersion(), k.GetPid(), k.GetStartTime().AsTime().Format(time.RFC3339))
	}
}

// restartText says how this daemon followed another one.
func restartText(r *pipedv1.Restart) string {
	if r == nil {
		return "none"
	}
	text := r.GetTime().AsTime().Format(time.RFC3339)
	if pause := r.GetPause(); pause != nil {
		text += ", after a pause of " + pause.AsDuration().Round(time.Millisecond/10).String()
	}
	return fmt.Sprintf("%s, %s found again, %d lost", text, countText(uint64(r.GetRecoveredSessions()), "session"), r.GetLostSessions())
}

// checkText says what came of a check.
func checkText(passed bool, detail string) string {
	text := "passed"
	if !passed {
		text = "failed"
	}
	if detail != "" {
		text += ": " + detail
	}
	return text
}
