package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/piped-dev/piped/client"
	"github.com/spf13/cobra"
)

type replayOptions struct {
	speed    replaySpeed
	expect   bool
	keepOpen bool
	timeout  time.Duration
}

func newReplayCommand(f *factory) *cobra.Command {
	opts := replayOptions{speed: 1}
	cmd := &cobra.Command{
		Use:   "replay FILE REF",
		Short: "Send again what a recording has as sent",
		Long: `Send the messages that a recording has in the direction "in" into an end, at the times
at which they were sent, and close that direction where the recording does. A recording
in which some of them are missing is refused before anything is sent.

With --expect receive what comes out meanwhile, and compare it with what the recording
has in the direction "out": each message, byte by byte, and the end; in the framing "raw"
the bytes alone. At the first difference it exits with 1. Times are not compared.`,
		Example: `  pipectl replay calc.jsonl calc
  pipectl replay calc.jsonl calc --speed max --expect --timeout 10s`,
		Args: arguments("FILE", "REF"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return f.completeSessions(cmd, nil, toComplete)
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	flags := cmd.Flags()
	flags.Var(&opts.speed, "speed", "how many times faster than recorded; 0 or max is as fast as possible")
	flags.BoolVar(&opts.expect, "expect", false, "compare what comes out with the recording")
	flags.BoolVar(&opts.keepOpen, "keep-open", false, "do not close the sending direction where the recording does")
	flags.DurationVar(&opts.timeout, "timeout", 0, "how long all of it may take, as 30s (else for ever)")
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		ref, err := parseRef(args[1])
		if err != nil {
			return err
		}
		if cmd.Flags().Changed("timeout") && opts.timeout <= 0 {
			return usageError("--timeout %v must be above 0", opts.timeout)
		}
		recording, err := openRecording(args[0])
		if err != nil {
			return err
		}
		err = replayRun(ctx, f, c.Endpoint(ref), recording, &opts)
		return firstError(err, recording.close())
	})
	return cmd
}

// replaySpeed is how many times faster than recorded; 0 is without any waiting.
type replaySpeed float64

// String returns the value.
func (s *replaySpeed) String() string {
	if *s == 0 {
		return "max"
	}
	return strconv.FormatFloat(float64(*s), 'g', -1, 64)
}

// Set takes a number from 0 on, or "max".
func (s *replaySpeed) Set(text string) error {
	if text == "max" {
		*s = 0
		return nil
	}
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || value < 0 || math.IsNaN(value) || math.IsInf(value, 0) {
		return errors.New("it is a number from 0 on, or max")
	}
	*s = replaySpeed(value)
	return nil
}

// Type names the values in help.
func (s *replaySpeed) Type() string { return "NUMBER|max" }

// due is when something happens that was recorded at a time.
func (s replaySpeed) due(recorded time.Duration) time.Duration {
	if s == 0 {
		return 0
	}
	return time.Duration(float64(recorded) / float64(s))
}

func replayRun(ctx context.Context, f *factory, e *client.Endpoint, recording *recordingFile, opts *replayOptions) error {
	contents, err := recording.survey()
	if err != nil {
		return err
	}
	if err := contents.check(opts); err != nil {
		return fmt.Errorf("%s: %w", recording.name, err)
	}
	if contents.cut != nil {
		f.tell("note", fmt.Sprintf("%s: %v; it is replayed as far as it goes", recording.name, contents.cut))
	}
	whole := ctx
	if opts.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, opts.timeout)
		defer cancel()
	}
	err = replay(ctx, e, recording, contents, opts)
	if errors.Is(err, context.DeadlineExceeded) && whole.Err() == nil {
		return timeoutError("the replay was not over after %v", opts.timeout)
	}
	return err
}

// replay sends, and compares meanwhile if that was asked for.
func replay(ctx context.Context, e *client.Endpoint, recording *recordingFile, contents *recordingContents, opts *replayOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var expected chan error
	if opts.expect {
		x, err := newExpectation(ctx, e, recording)
		if err != nil {
			return err
		}
		expected = make(chan error, 1)
		go func() {
			err := x.run(ctx)
			if err != nil {
				cancel()
			}
			expected <- err
		}()
	}
	err := newReplayer(e, recording, opts).run(ctx, contents)
	if expected == nil {
		return err
	}
	// When nobody reads any more, what came before tells more.
	if err != nil && !errors.Is(err, client.ErrBrokenPipe) {
		cancel()
	}
	differs := <-expected
	if err == nil || differs != nil && !errors.Is(differs, context.Canceled) {
		return differs
	}
	return err
}
