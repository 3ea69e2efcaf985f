package main

import (
	"fmt"
	"strconv"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
)

// A startFlag is the flag --from: where to begin to look.
type startFlag struct {
	text string
	// message is the number of a message; 0 with the words.
	message uint64
}

// The words of --from.
const (
	fromOldest = "oldest"
	fromNow    = "now"
)

func (s *startFlag) add(cmd *cobra.Command, otherwise string) {
	cmd.Flags().Var(s, "from", "begin with the oldest message that the daemon has, with the next one (now), or with the Nth; "+otherwise)
	_ = cmd.RegisterFlagCompletionFunc("from", cobra.FixedCompletions([]string{fromOldest, fromNow}, cobra.ShellCompDirectiveNoFileComp))
}

// String returns the value.
func (s *startFlag) String() string { return s.text }

// Type names the values in help.
func (s *startFlag) Type() string { return "oldest|now|N" }

// Set takes a word or the number of a message.
func (s *startFlag) Set(text string) error {
	if text == fromOldest || text == fromNow {
		s.text, s.message = text, 0
		return nil
	}
	number, err := strconv.ParseUint(text, 10, 64)
	if err != nil || number == 0 {
		return fmt.Errorf("it is %s, %s, or the number of a message from 1 on", fromOldest, fromNow)
	}
	s.text, s.message = text, number
	return nil
}

// observer returns how an observer starts there.
func (s startFlag) observer() client.ReaderOptions {
	opts := client.ReaderOptions{Observe: true, Start: pipedv1.RecvStart_RECV_START_UNACKED}
	switch {
	case s.text == fromOldest:
		opts.Start = pipedv1.RecvStart_RECV_START_OLDEST
	case s.text == fromNow:
		opts.Start = pipedv1.RecvStart_RECV_START_NOW
	case s.message > 0:
		opts.Start = pipedv1.RecvStart_RECV_START_POSITION
		opts.Position = client.Position{Message: s.message}
	}
	return opts
}
