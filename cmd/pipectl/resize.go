package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
)

func newResizeCmd(f *factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resize NAME[@PROC] ROWSxCOLS",
		Short: "Give the terminal of a process another size",
		Long: `Give the terminal of a process of a session, the first if none is named, another
size. The programs in its foreground get WINCH. A session that is attached takes the
size of the terminal where that was done last.`,
		Example: `  pipectl resize shell 40x120
  pipectl resize work@editor 24x80`,
		Args:              arguments("NAME[@PROC]", "ROWSxCOLS"),
		ValidArgsFunction: f.completeSessions,
	}
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		session, process, err := parseTarget(args[0])
		if err != nil {
			return err
		}
		size, err := parseSize(args[1])
		if err != nil {
			return err
		}
		return c.Resize(ctx, session, process, size)
	})
	return cmd
}

// parseSize reads ROWSxCOLS.
func parseSize(text string) (*pipedv1.TerminalSize, error) {
	rows, columns, found := strings.Cut(text, "x")
	r, rowsErr := strconv.ParseUint(rows, 10, 16)
	c, columnsErr := strconv.ParseUint(columns, 10, 16)
	if !found || rowsErr != nil || columnsErr != nil || r == 0 || c == 0 {
		return nil, usageError("size %q is not ROWSxCOLS, each from 1 to 65535, as in 24x80", text)
	}
	return &pipedv1.TerminalSize{Rows: uint32(r), Columns: uint32(c)}, nil
}
