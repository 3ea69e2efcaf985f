package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
)

// processFlags are what run and start have in common.
type processFlags struct {
	name    string
	framing string
	fds     []string
	env     []string
	dir     string
	attributeFlags
	resourceFlags
	afterExit      afterExitFlags
	merge          bool
	tty, stdoutTTY bool
	// timeout and stopGrace are how the daemon stops it; changed says which flags were
	// given.
	timeout, stopGrace time.Duration
	changed            func(flag string) bool
}

func (p *processFlags) add(cmd *cobra.Command, framing string) {
	flags := cmd.Flags()
	// What comes after the program belongs to the program.
	flags.SetInterspersed(false)
	flags.StringVar(&p.name, "name", "", "name of the session (else one is generated)")
	flags.StringVar(&p.framing, "framing", framing, "how messages are cut out of stdin and stdout: line, mp or raw")
	flags.StringArrayVar(&p.fds, "fd", nil, "`NAME:FD:FRAMING`: a duplex pipe NAME whose end 2 the program gets as descriptor FD; repeatable")
	flags.StringArrayVar(&p.env, "env", nil, "`K=V` sets a variable, K alone takes it from here; repeatable")
	flags.StringVar(&p.dir, "dir", "", "working directory of the program (else this one)")
	p.attributeFlags.add(flags)
	p.resourceFlags.add(flags)
	p.afterExit.add(flags)
	flags.BoolVar(&p.merge, "merge-stderr", false, "stderr goes into the pipe of stdout, in the order in which both are written, as 2>&1")
	flags.BoolVarP(&p.tty, "tty", "t", false, "stdin, stdout and stderr are a terminal, as ssh -t")
	flags.BoolVar(&p.stdoutTTY, "stdout-tty", false, "stdout alone is a terminal, which changes no byte: for programs that write late where it is a pipe")
	exclusive(cmd, "tty", "stdout-tty")
	exclusive(cmd, "tty", "merge-stderr")
	flags.DurationVar(&p.stopGrace, "stop-grace", 0, "how long the program has after TERM when it is stopped, as 30s (else what the daemon says)")
	p.changed = flags.Changed
	_ = cmd.RegisterFlagCompletionFunc("framing", completeFramings)
	_ = cmd.RegisterFlagCompletionFunc("after-exit", completeAfterExit)
}

func completeFramings(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return framings, cobra.ShellCompDirectiveNoFileComp
}

// framings are the framings that the daemon has.
var framings = []string{"line", "mp", "raw"}

// parseFraming refuses what the daemon would refuse, before anything is made.
func parseFraming(text string) (*pipedv1.Framing, error) {
	if !slices.Contains(framings, text) {
		return nil, usageError("framing %q is not known: use %s", text, strings.Join(framings, ", "))
	}
	return &pipedv1.Framing{Name: text}, nil
}

// process returns what to start.
func (p *processFlags) process(args []string) (*pipedv1.ProcessSpec, error) {
	framing, err := parseFraming(p.framing)
	if err != nil {
		return nil, err
	}
	env, err := environment(p.env, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	dir := ""
	if p.user == "" || p.dir != "" {
		if dir, err = filepath.Abs(p.dir); err != nil {
			return nil, err
		}
	}
	stderr := pipedv1.StdioMode_STDIO_MODE_UNSPECIFIED
	if p.merge {
		stderr = pipedv1.StdioMode_STDIO_MODE_MERGED
	}
	if p.timeout < 0 {
		return nil, usageError("--timeout %v is below 0: give a duration as 90s, or 0 for no limit", p.timeout)
	}
	if p.tty && !p.changed("framing") {
		framing = &pipedv1.Framing{Name: rawFraming}
	}
	spec := &pipedv1.ProcessSpec{
		Args:            args,
		Stderr:          stderr,
		Env:             env,
		EnvironmentBase: pipedv1.EnvironmentBase_ENVIRONMENT_BASE_MINIMAL,
		Dir:             dir,
		StdioPipe:       &pipedv1.PipeSpec{FramingIn: framing, FramingOut: framing},
	}
	p.useTerminal(spec)
	if p.timeout > 0 {
		spec.Timeout = durationpb.New(p.timeout)
	}
	if p.changed("stop-grace") {
		spec.Stop = &pipedv1.StopPolicy{Grace: durationpb.New(p.stopGrace)}
	}
	if err := p.afterExit.fill(spec); err != nil {
		return nil, err
	}
	return spec, p.fill(spec)
}

// checkFeatures refuses a daemon that would not see all that is asked for: it would
// start the program, and as somebody else for instance.
func checkFeatures(ctx context.Context, c *client.Client, spec *pipedv1.ProcessSpec) error {
	needed := features(spec)
	if len(needed) == 0 {
		return nil
	}
	info, err := c.Info(ctx)
	if err != nil {
		return err
	}
	for feature, flags := range needed {
		if !slices.Contains(info.GetFeatures(), feature) {
			return fmt.Errorf("this daemon is too old for %s: it does not have %q", flags, feature)
		}
	}
	return nil
}

// features returns what a daemon must have for a spec, and which flags need it.
func features(spec *pipedv1.ProcessSpec) map[string]string {
	needed := make(map[string]string)
	if spec.GetTimeout() != nil || spec.GetStop() != nil {
		needed["process/stop"] = "--timeout and --stop-grace"
	}
	if spec.GetAfterExit() != nil {
		needed["process/after-exit"] = "--after-exit"
	}
	if spec.GetStdout() == pipedv1.StdioMode_STDIO_MODE_TTY {
		needed["process/terminal"] = "--tty and --stdout-tty"
	}
	if spec.GetRestart() != nil {
		needed[featureRestart] = "--restart"
	}
	if spec.GetStderr() == pipedv1.StdioMode_STDIO_MODE_MERGED {
		needed["process/merged"] = "--merge-stderr"
	}
	if spec.GetUser() != "" || len(spec.GetGroups()) > 0 || len(spec.GetLimits()) > 0 || spec.Nice != nil || spec.Umask != nil || spec.GetNoNewPrivileges() {
		needed["process/attributes"] = "--user, --groups, --limit, --nice, --umask and --no-new-privileges"
	}
	return needed
}

// request returns the session to create with that process.
func (p *processFlags) request(process *pipedv1.ProcessSpec) (*pipedv1.CreateSessionRequest, error) {
	if p.name != "" {
		if _, err := parseName(p.name); err != nil {
			return nil, err
		}
	}
	resources, err := p.resources()
	if err != nil {
		return nil, err
	}
	req := &pipedv1.CreateSessionRequest{Name: p.name, Process: process, Resources: resources}
	for _, text := range p.fds {
		pipe, inherit, err := parseFD(text)
		if err != nil {
			return nil, err
		}
		for i, other := range process.Inherits {
			if req.Pipes[i].GetName() == pipe.GetName() || other.GetFd() == inherit.GetFd() {
				return nil, usageError("--fd %q and --fd %q: give each a name and a descriptor of its own", p.fds[i], text)
			}
		}
		req.Pipes = append(req.Pipes, pipe)
		process.Inherits = append(process.Inherits, inherit)
	}
	return req, nil
}

// environment turns K=V and K into K=V; a K that is not set here is an error, so
// that a slip of the pen is not an empty variable.
func environment(args []string, lookup func(string) (string, bool)) ([]string, error) {
	var env []string
	for _, arg := range args {
		key, _, hasValue := strings.Cut(arg, "=")
		switch {
		case key == "":
			return nil, usageError("--env %q has no name: give K=V, or K to take it from here", arg)
		case hasValue:
			env = append(env, arg)
		default:
			value, found := lookup(key)
			if !found {
				return nil, usageError("--env %s: it is not set here; give %s=VALUE", key, key)
			}
			env = append(env, key+"="+value)
		}
	}
	return env, nil
}

// parseFD reads NAME:FD:FRAMING: a pipe, and its end 2 for the program alone.
func parseFD(text string) (*pipedv1.PipeSpec, *pipedv1.Inherit, error) {
	fields := strings.Split(text, ":")
	if len(fields) != 3 {
		return nil, nil, usageError("--fd %q is not NAME:FD:FRAMING, as in ctl:3:mp", text)
	}
	if err := client.CheckName(fields[0]); err != nil {
		return nil, nil, usageError("--fd %q: pipe %w", text, err)
	}
	if fields[0] == "stdio" || fields[0] == "stderr" {
		return nil, nil, usageError("--fd %q: %s is the pipe of a standard stream: choose another name", text, fields[0])
	}
	fd, err := parseDescriptor(fields[1], 3)
	if err != nil {
		return nil, nil, usageError("--fd %q: %w", text, err)
	}
	framing, err := parseFraming(fields[2])
	if err != nil {
		return nil, nil, usageError("--fd %q: %w", text, err)
	}
	return &pipedv1.PipeSpec{Name: fields[0], Kind: pipedv1.Pipe_KIND_DUPLEX, FramingIn: framing, FramingOut: framing},
		&pipedv1.Inherit{Pipe: fields[0], End: 2, Fd: fd, HandOver: true}, nil
}

// parseInherit reads PIPE:END:FD: a copy of an end; the daemon keeps its own. With
// 0, 1 or 2 the end is that standard stream.
func parseInherit(text string) (*pipedv1.Inherit, error) {
	fields := strings.Split(text, ":")
	if len(fields) != 3 {
		return nil, usageError("--inherit %q is not PIPE:END:FD, as in pipe:2:3", text)
	}
	if err := client.CheckName(fields[0]); err != nil {
		return nil, usageError("--inherit %q: pipe %w", text, err)
	}
	if fields[1] != "1" && fields[1] != "2" {
		return nil, usageError("--inherit %q: the end is %q, and it must be 1 or 2", text, fields[1])
	}
	fd, err := parseDescriptor(fields[2], 0)
	if err != nil {
		return nil, usageError("--inherit %q: %w", text, err)
	}
	return &pipedv1.Inherit{Pipe: fields[0], End: uint32(fields[1][0] - '0'), Fd: fd}, nil
}

// parseDescriptor reads a descriptor number, the lowest of which is given.
func parseDescriptor(text string, lowest int64) (int32, error) {
	fd, err := strconv.ParseInt(text, 10, 32)
	if err != nil || fd < lowest {
		return 0, usageError("the descriptor is %q, and it must be a number from %d on", text, lowest)
	}
	return int32(fd), nil
}
