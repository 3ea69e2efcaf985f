// Command piped is the daemon: it owns child processes and the message pipes
// to them, and serves them over gRPC on unix sockets.
//
//	piped                                   listen at this user's default address
//	piped --listen unix:///run/x/piped.sock
//	piped --config /etc/piped/config.yaml --check-config
//	piped --print-config                    what is in force, as YAML
//
// A value is looked for in the flags, then in PIPED_* variables of the
// environment, then in the file, then among the defaults. The variable of a
// key is its upper-case name with "_" between the parts: PIPED_LIMITS_LOG_SIZE
// for limits.log_size. PIPED_ADDR and PIPED_FDS belong to clients and to
// children, and are no configuration.
//
// SIGINT and SIGTERM end the daemon in order: it stops to accept work, ends
// its sessions, lets streams finish, and exits 0. A second signal ends it at
// once. SIGHUP makes it read its configuration again. Logs go to standard
// error.
//
// Exit status: 0 ended in order, 1 an error, 2 wrong usage, 78 a wrong
// configuration, with which there is no point in starting it again.
package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/spf13/pflag"
)

// version is what the build stamps with -ldflags "-X main.version=v1.2.3".
// Without that the version comes from what Go records in the binary.
var version string

type exitCode int

const (
	exitOK    exitCode = 0
	exitError exitCode = 1
	exitUsage exitCode = 2
	// exitConfig is EX_CONFIG of sysexits.h. The units name it as the status after
	// which a restart is no use.
	exitConfig exitCode = 78
)

func main() {
	os.Exit(int(run(os.Args[1:], os.Stdout, os.Stderr)))
}

// run does what args ask for and returns the exit status. Data goes to
// stdout, everything else to stderr.
func run(args []string, stdout, stderr io.Writer) exitCode {
	opts, err := parseFlags(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return say(stdout, stderr, opts.usage())
	case err != nil:
		printErrors(stderr, fmt.Errorf("%w\npiped: hint: piped --help shows the flags", err))
		return exitUsage
	case opts.version:
		return say(stdout, stderr, "piped "+buildVersion()+"\n")
	}
	cfg, strangers, err := load(opts)
	if err != nil {
		printErrors(stderr, err)
		return exitConfig
	}
	switch {
	case opts.checkConfig:
		for _, name := range strangers {
			_, _ = fmt.Fprintf(stderr, "piped: warning: unknown variable %s in the environment\n", name)
		}
		return say(stdout, stderr, "ok\n")
	case opts.printConfig:
		text, err := cfg.YAML()
		if err != nil {
			printErrors(stderr, err)
			return exitError
		}
		return say(stdout, stderr, text)
	}
	log, level := newLogger(stderr, cfg.Log)
	for _, name := range strangers {
		log.Warn("unknown variable in the environment", "name", name)
	}
	if err := serve(cfg, opts, log, level); err != nil {
		printErrors(stderr, err)
		return exitError
	}
	return exitOK
}

// say writes text to stdout.
func say(stdout, stderr io.Writer, text string) exitCode {
	if _, err := io.WriteString(stdout, text); err != nil {
		printErrors(stderr, err)
		return exitError
	}
	return exitOK
}

// printErrors writes each of the joined errors on a line of its own.
func printErrors(w io.Writer, err error) {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range many.Unwrap() {
			printErrors(w, one)
		}
		return
	}
	_, _ = fmt.Fprintf(w, "piped: error: %v\n", err) // there is nowhere else to say it
}

// newLogger makes the logger that cfg, which is valid, describes, and returns
// its level, which may be set at any time.
func newLogger(w io.Writer, cfg logConfig) (*slog.Logger, *slog.LevelVar) {
	first, _ := parseLevel(cfg.Level)
	level := new(slog.LevelVar)
	level.Set(first)
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == formatJSON {
		return slog.New(slog.NewJSONHandler(w, opts)), level
	}
	return slog.New(slog.NewTextHandler(w, opts)), level
}

// buildVersion names this build.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
