package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// arguments checks the number of arguments, and names the one that is missing
// or too much. The last name may end in "..." and then takes any number from
// one on; in brackets, an argument may be left out.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		for i, name := range names {
			if i >= len(args) && !strings.HasPrefix(name, "[") {
				return fmt.Errorf("%s needs %s", cmd.Name(), strings.TrimSuffix(name, "..."))
			}
		}
		repeats := len(names) > 0 && strings.HasSuffix(strings.TrimSuffix(names[len(names)-1], "]"), "...")
		if len(args) > len(names) && !repeats {
			return fmt.Errorf("%s does not take the argument %q", cmd.Name(), args[len(names)])
		}
		return nil
	}
}

// exclusive refuses flags that were given together.
func exclusive(cmd *cobra.Command, names ...string) {
	cmd.MarkFlagsMutuallyExclusive(names...) // so that completion knows; what it says itself is hard to read
	before := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		var given []string
		for _, name := range names {
			if cmd.Flags().Changed(name) {
				given = append(given, "--"+name)
			}
		}
		if len(given) > 1 {
			return errors.New("give only one of " + strings.Join(given, ", "))
		}
		if before != nil {
			return before(cmd, args)
		}
		return nil
	}
}
