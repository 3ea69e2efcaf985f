package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker for releases.
var version = ""

func newVersionCmd(f *factory) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print pipectl's own version",
		Example: `  pipectl version`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			f.ran = true
			text := version
			if info, ok := debug.ReadBuildInfo(); ok && text == "" {
				text = info.Main.Version
			}
			_, err := fmt.Fprintf(f.out, "pipectl %s %s/%s\n", text, runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
