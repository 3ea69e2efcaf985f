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
		text := pipectlVersion()
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

// unreleased is the version of a build that was given none.
const unreleased = "(devel)"

// pipectlVersion is the version of this program, as piped tells its own.
func pipectlVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return unreleased
}
