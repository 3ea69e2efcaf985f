package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// options is the parsed command line. The flags that stand for a key of the
// configuration stay in set, from where load takes those that were given.
type options struct {
	config      string
	checkConfig bool
	printConfig bool
	version     bool
	set         *pflag.FlagSet
}

// parseFlags reads args. With pflag.ErrHelp the options are still good for
// usage.
func parseFlags(args []string) (*options, error) {
	o := &options{set: pflag.NewFlagSet("piped", pflag.ContinueOnError)}
	o.set.Usage = func() {}
	o.set.SortFlags = false
	o.set.StringVar(&o.config, "config", "", "read the configuration from this YAML `FILE`")
	o.set.BoolVar(&o.checkConfig, "check-config", false, "check the configuration, say what is wrong, and exit")
	o.set.BoolVar(&o.printConfig, "print-config", false, "print the configuration in force as YAML, and exit")
	o.set.BoolVar(&o.version, "version", false, "print the version, and exit")
	for _, s := range settings() {
		switch def := s.def.(type) {
		case []string:
			o.set.StringArray(s.flag, def, s.usage)
		default:
			o.set.String(s.flag, fmt.Sprint(def), s.usage)
		}
	}
	if err := o.set.Parse(args); err != nil {
		return o, err
	}
	if rest := o.set.Args(); len(rest) > 0 {
		return o, fmt.Errorf("unexpected argument %q", rest[0])
	}
	return o, nil
}

// usage is the text of --help.
func (o *options) usage() string {
	var b strings.Builder
	b.WriteString("piped owns child processes and the message pipes to them, and serves them over gRPC.\n\n" +
		"Usage:\n  piped [flags]\n\n" +
		"Example:\n  piped --listen unix:///run/user/1000/lab/piped.sock --log-format json\n\n" +
		"Flags:\n")
	b.WriteString(o.set.FlagUsages())
	b.WriteString("\nA flag wins over its PIPED_* variable (PIPED_LOG_LEVEL for log.level), that over the file,\n" +
		"that over the default. SIGINT and SIGTERM end the daemon in order, a second one at once.\n" +
		"SIGHUP makes it read its configuration again.\n")
	return b.String()
}
