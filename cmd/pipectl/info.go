package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/piped-dev/piped/client"
	"github.com/spf13/cobra"
)

func newInfoCmd(f *factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Show what the daemon says of itself",
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
			{"durability", enumText(strings.TrimPrefix(info.GetDurability().String(), "DURABILITY_"))},
			{"features", strings.Join(info.GetFeatures(), " ")},
			{"part size", limits.GetPartSize()},
			{"message size", limits.GetMaxMessageSize()},
			{"log size", limits.GetLogSize()},
			{"tail size", limits.GetTailSize()},
			{"streams a connection", limits.GetMaxStreamsPerConnection()},
			{"ended are kept", limits.GetEndedRetention().AsDuration()},
		} {
			_, _ = fmt.Fprintf(table, "%s\t%v\n", row.name, row.value)
		}
		return table.Flush()
	})
	return cmd
}
