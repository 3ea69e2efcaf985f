package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/piped-dev/piped/client"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"
)

// factory is what the verbs share: where they read and write, and how they reach
// the daemon.
type factory struct {
	in          io.Reader
	out, errOut io.Writer

	// addr is --addr, spawn is --spawn.
	addr  string
	spawn bool

	// connection tells when the daemon is gone for a while.
	connection connection

	// ran says that the command line was in order and a verb has begun.
	ran bool
}

// client connects to the first daemon that answers. The caller closes it.
func (f *factory) client(ctx context.Context) (*client.Client, error) {
	addr, err := client.FindAddress(ctx, f.addr)
	if errors.Is(err, client.ErrUnavailable) && f.spawn {
		addr, err = spawnDaemon(ctx, f.addr)
	}
	if err != nil {
		return nil, err
	}
	f.connection.tell = f.tell
	return client.Dial(ctx, addr, client.RepeatFor(comeBackFor), grpc.WithStatsHandler(&f.connection))
}

// connected is a verb's work, with a client that is closed after it.
type connected func(ctx context.Context, c *client.Client, args []string) error

// runE makes a verb of its work.
func (f *factory) runE(work connected) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		f.ran = true
		// As from an unset variable; the usual places would be a surprise.
		if f.addr == "" && cmd.Flags().Changed("addr") {
			return &client.AddressError{Problem: "it is empty: give unix:///PATH"}
		}
		c, err := f.client(cmd.Context())
		if err != nil {
			return err
		}
		f.connection.goOn(true)
		err = work(cmd.Context(), c, args)
		f.connection.goOn(false)
		return errors.Join(err, c.Close())
	}
}

// isTerminal says whether a stream is a terminal.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// completionTimeout bounds how long a Tab waits for the daemon.
const completionTimeout = time.Second

// completeSessions offers the names of sessions for the first argument.
func (f *factory) completeSessions(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return f.sessionNames(cmd, toComplete), cobra.ShellCompDirectiveNoFileComp
}

// completeMoreSessions offers them for every argument.
func (f *factory) completeMoreSessions(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return f.sessionNames(cmd, toComplete), cobra.ShellCompDirectiveNoFileComp
}
