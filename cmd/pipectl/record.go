package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/piped-dev/piped/client"
	"github.com/spf13/cobra"
)

type recordOptions struct {
	file     string
	force    bool
	retained bool
}

func newRecordCommand(f *factory) *cobra.Command {
	var opts recordOptions
	cmd := &cobra.Command{
		Use:   "record REF -o FILE",
		Short: "Record the messages of an end in a file, with their times",
		Long: `Record what clients send into an end and what comes out of it, from the oldest message
that the daemon still has until both directions have ended or an interrupt (^C).
Nothing is consumed, and nobody is disturbed: what this is too slow for is a gap in
the recording, and stderr says so. Of what was sent and read before, the daemon has
the last 64 KiB.

Each message is in the file as soon as it has come. The format is JSON Lines, for jq and
others; docs/recording.md describes it. The file is readable by its owner alone.`,
		Example: `  pipectl record calc -o calc.jsonl
  pipectl record calc/stderr --retained -o - | jq -r .text`,
		Args:              arguments("REF"),
		ValidArgsFunction: f.completeSessions,
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.file, "output", "o", "", "write to this `FILE`; - is stdout")
	flags.BoolVar(&opts.force, "force", false, "overwrite the file if it exists")
	flags.BoolVar(&opts.retained, "retained", false, "stop at what the daemon has now, instead of following until the end")
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		ref, err := parseRef(args[0])
		if err != nil {
			return err
		}
		if opts.file == "" {
			return usageError("record needs -o FILE; - is stdout")
		}
		return recordRun(ctx, f, c.Endpoint(ref), &opts)
	})
	return cmd
}

func recordRun(ctx context.Context, f *factory, e *client.Endpoint, opts *recordOptions) error {
	// From before the file is there: an interrupt must not leave half a line.
	interrupted, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	recorderOpts := client.RecorderOptions{Retained: opts.retained}
	if opts.retained {
		recorderOpts.ReconnectFor = comeBackFor
	}
	recorder, err := e.NewRecorder(ctx, recorderOpts)
	if err != nil {
		return err
	}
	if len(recorder.Unobserved()) > 0 {
		f.tell("note", "this daemon cannot show what clients send: the recording has only what comes out")
	}
	file, err := createRecording(f, opts)
	if err != nil {
		return firstError(err, recorder.Close(ctx))
	}
	err = recorder.Record(interrupted, file)
	if interrupted.Err() != nil && ctx.Err() == nil && errors.Is(err, context.Canceled) {
		f.tell("note", "stopped before the end")
		err = nil
	}
	if gaps := recorder.Gaps(); gaps > 0 {
		f.tell("note", fmt.Sprintf("messages are missing, in %s: the recording says which", countText(gaps, "gap")))
	}
	return firstError(err, file.Close(), recorder.Close(ctx))
}

// createRecording opens the file that is recorded into.
func createRecording(f *factory, opts *recordOptions) (io.WriteCloser, error) {
	if opts.file == "-" {
		return keptOpen{f.out}, nil
	}
	mode := os.O_EXCL
	if opts.force {
		mode = os.O_TRUNC
	}
	file, err := os.OpenFile(opts.file, os.O_WRONLY|os.O_CREATE|mode, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s is there already: give another name, or --force to overwrite it", opts.file)
	}
	if err != nil {
		return nil, err
	}
	// A file that was there may be readable by others.
	info, err := file.Stat()
	if err == nil && info.Mode().IsRegular() {
		err = file.Chmod(0o600)
	}
	if err != nil {
		return nil, firstError(err, file.Close())
	}
	return file, nil
}

// keptOpen is a writer that somebody else closes.
type keptOpen struct{ io.Writer }

// Close does nothing.
func (keptOpen) Close() error { return nil }
