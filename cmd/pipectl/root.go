package main

import (
	"context"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
)

// newRootCmd returns pipectl with all its verbs.
func newRootCmd(f *factory) *cobra.Command {
	root := &cobra.Command{
		Use:   "pipectl",
		Short: "Drive processes and their message pipes through piped",
		Long: `pipectl drives processes and their message pipes through the daemon piped.

A session has pipes and processes. A pipe has two ends, 1 and 2. A reference to
an end is SESSION[/PIPE][:END]; the pipe defaults to the session's first, the end
to 1. A pipe that was made anew with its process is SESSION[/PIPE]~N[:END] in its Nth
incarnation; without ~N it is the current one.`,
		Example: `  pipectl run -- sort < names
  pipectl start --name calc -- bc
  pipectl send calc '6*7'
  pipectl recv calc
  pipectl attach calc`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&f.addr, "addr", "", "address of the daemon, unix:///PATH (else "+client.AddressVariable+", else the usual places)")
	flags.BoolVar(&f.spawn, "spawn", false, "start a daemon if none answers; it ends itself after 60 s without sessions")
	root.AddCommand(
		newRunCmd(f), newStartCmd(f), newPipeCmd(f),
		newSendCmd(f), newRecvCmd(f), newPollCmd(f), newCloseCmd(f), newTailCmd(f), newAttachCmd(f), newLeaseCmd(f),
		newRecordCommand(f), newReplayCommand(f),
		newLsCmd(f), newInspectCmd(f), newEventsCmd(f), newWaitCmd(f), newSignalCmd(f), newResizeCmd(f), newStopCmd(f), newRestartCmd(f), newRmCmd(f),
		newInfoCmd(f), newDoctorCmd(f), newVersionCmd(f),
	)
	addExamples(root)
	return root
}

// addExamples gives the commands that cobra makes the example that every other
// one has.
func addExamples(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Example = "  pipectl help recv"
		case "completion":
			cmd.Example = "  source <(pipectl completion bash)"
			for _, shell := range cmd.Commands() {
				shell.Example = "  pipectl completion " + shell.Name()
			}
		}
	}
}

// sessionNames returns the names of sessions that begin with prefix; errors are
// nothing that a Tab could show.
func (f *factory) sessionNames(cmd *cobra.Command, prefix string) []string {
	ctx := cmd.Context()
	if ctx == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	addr, err := client.FindAddress(ctx, f.addr)
	if err != nil {
		return nil
	}
	c, err := client.Dial(ctx, addr)
	if err != nil {
		return nil
	}
	defer func() { _ = c.Close() }()
	var names []string
	for session, err := range c.List(ctx, &pipedv1.ListSessionsRequest{NamePrefix: prefix}) {
		if err != nil {
			break
		}
		names = append(names, session.GetName())
	}
	return names
}
