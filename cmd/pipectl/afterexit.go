package main

import (
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"
)

// afterExitFlags say what becomes of pipes that a descendant of the program holds
// after it has exited.
type afterExitFlags struct {
	mode  string
	grace time.Duration
	set   func(flag string) bool
}

var afterExitModes = map[string]pipedv1.AfterExit_Mode{
	"wait": pipedv1.AfterExit_MODE_WAIT, "end": pipedv1.AfterExit_MODE_END, "kill": pipedv1.AfterExit_MODE_KILL,
}

func (a *afterExitFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&a.mode, "after-exit", "wait", "if a descendant holds a pipe after the program's exit: wait for it, end the pipe, or kill the descendant")
	flags.DurationVar(&a.grace, "after-exit-grace", time.Second, "how long end and kill wait for the end of file")
	a.set = flags.Changed
}

func completeAfterExit(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"wait", "end", "kill"}, cobra.ShellCompDirectiveNoFileComp
}

// fill puts the policy into a spec; nothing where none was asked for.
func (a *afterExitFlags) fill(spec *pipedv1.ProcessSpec) error {
	mode, known := afterExitModes[a.mode]
	if !known {
		return usageError("--after-exit %q is not known: use wait, end or kill", a.mode)
	}
	graced := a.set("after-exit-grace")
	switch {
	case a.grace < 0:
		return usageError("--after-exit-grace %v is below 0: give a duration as 2s", a.grace)
	case graced && mode == pipedv1.AfterExit_MODE_WAIT:
		return usageError("--after-exit-grace does nothing without --after-exit end or kill")
	case mode == pipedv1.AfterExit_MODE_WAIT:
		return nil
	}
	spec.AfterExit = &pipedv1.AfterExit{Mode: mode}
	if graced {
		spec.AfterExit.Grace = durationpb.New(a.grace)
	}
	return nil
}
