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
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print pipectl's own version",
		Example: `  pipectl version`,
		Args:    arguments(),
	}
	out := outputFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		f.ran = true
		text := version
		if info, ok := debug.ReadBuildInfo(); ok && text == "" {
			text = info.Main.Version
		}
		if *out == outputJSON {
			return printJSON(f.out, struct {
				Version string `json:"version"`
				OS      string `json:"os"`
				Arch    string `json:"arch"`
			}{text, runtime.GOOS, runtime.GOARCH})
		}
		_, err := fmt.Fprintf(f.out, "pipectl %s %s/%s\n", text, runtime.GOOS, runtime.GOARCH)
		return err
	}
	return cmd
}
