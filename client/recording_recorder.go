package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// RecorderOptions say what is recorded.
type RecorderOptions struct {
	// Retained stops at what the daemon has now, instead of following until the
	// end.
	Retained bool
	// ReconnectFor is as in ReaderOptions.
	ReconnectFor time.Duration
}

// A Recorder makes a recording of an endpoint, of both directions where it has
// both. It is an observer: nobody is delayed by it, and what it is too slow for is
// a gap in the recording.
type Recorder struct {
	header     RecordingHeader
	observed   []*observed
	unobserved []RecordedDirection
}

// featureObserveSent is what a daemon names that understands ReaderOptions.Sent;
// others would show what comes out instead.
const featureObserveSent = "observe/sent"

// observed is one direction that is recorded.
type observed struct {
	direction RecordedDirection
	reader    *Reader
	// gaps counts those that were recorded.
	gaps atomic.Int64
}

// NewRecorder begins to observe the endpoint, at the oldest messages that the
// daemon retains. ctx governs the Recorder for its whole life. The caller closes
// it.
func (e *Endpoint) NewRecorder(ctx context.Context, opts RecorderOptions) (*Recorder, error) {
	session, err := e.client.Get(ctx, e.ref.Session)
	if err != nil {
		return nil, err
	}
	header, err := newRecordingHeader(session, e.ref)
	if err != nil {
		return nil, err
	}
	info, err := e.client.Info(ctx)
	if err != nil {
		return nil, err
	}
	r := &Recorder{header: header}
	seesSent := slices.Contains(info.GetFeatures(), featureObserveSent)
	var refused error
	for _, direction := range []struct {
		name RecordedDirection
		opts ReaderOptions
	}{
		{RecordedIn, ReaderOptions{Observe: true, Sent: true, StopAtNow: opts.Retained, ReconnectFor: opts.ReconnectFor}},
		{RecordedOut, ReaderOptions{Observe: true, StopAtNow: opts.Retained, ReconnectFor: opts.ReconnectFor}},
	} {
		if direction.opts.Sent && !seesSent {
			r.unobserved = append(r.unobserved, direction.name)
			continue
		}
		reader, err := e.NewReader(ctx, direction.opts)
		if errors.Is(err, ErrWrongDirection) {
			refused = err
			continue
		}
		if err != nil {
			return nil, errors.Join(err, r.Close(ctx))
		}
		r.observed = append(r.observed, &observed{direction: direction.name, reader: reader})
		r.header.Directions = append(r.header.Directions, direction.name)
	}
	if len(r.observed) == 0 {
		return nil, refused
	}
	return r, nil
}

// Unobserved returns the directions that are not recorded because the daemon is
// too old to show them: what clients send, or nothing.
func (r *Recorder) Unobserved() []RecordedDirection { return r.unobserved }

// newRecordingHeader says what an endpoint is.
func newRecordingHeader(session *pipedv1.Session, ref Ref) (RecordingHeader, error) {
	for _, pipe := range session.GetPipes() {
		if ref.Pipe != "" && ref.Pipe != pipe.GetName() {
			continue
		}
		header := RecordingHeader{
			Session:     session.GetName(),
			UID:         session.GetUid(),
			Pipe:        pipe.GetName(),
			End:         max(ref.End, 1),
			Kind:        strings.ToLower(strings.TrimPrefix(pipe.GetKind().String(), "KIND_")),
			Incarnation: pipe.GetIncarnation(),
			FramingIn:   recordedFraming(pipe.GetFramingIn()),
			FramingOut:  recordedFraming(pipe.GetFramingOut()),
		}
		if header.End == 2 {
			header.FramingIn, header.FramingOut = header.FramingOut, header.FramingIn
		}
		return header, nil
	}
	return RecordingHeader{}, fmt.Errorf("session %s has no pipe %q: %w", session.GetName(), ref.Pipe, ErrPipeNotFound)
}

func recordedFraming(f *pipedv1.Framing) RecordedFraming {
	framing := RecordedFraming{Name: f.GetName()}
	if cr := f.GetCarriageReturn(); cr != pipedv1.CarriageReturn_CARRIAGE_RETURN_UNSPECIFIED {
		framing.CarriageReturn = strings.ToLower(strings.TrimPrefix(cr.String(), "CARRIAGE_RETURN_"))
	}
	return framing
}

// Record writes a recording to out, each event as it happens, until all
// directions have ended, which is no error, or until ctx ends, or something
// fails. The last line of the recording says which it was. It is called once.
func (r *Recorder) Record(ctx context.Context, out io.Writer) error {
	w, err := NewRecordingWriter(out, r.header)
	if err != nil {
		return err
	}
	stop := RecordingStop{Reason: RecordingEnded}
	err = r.follow(ctx, w)
	switch {
	case err == nil:
		for _, o := range r.observed {
			if o.reader.End() == nil {
				stop.Reason = RecordingRetained
			}
		}
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		stop.Reason = RecordingInterrupted
	default:
		stop.Reason, stop.Detail = RecordingFailed, err.Error()
	}
	stopErr := w.WriteNow(RecordingEvent{Stop: &stop})
	if err != nil {
		return err
	}
	return stopErr
}

// follow records all directions until all have ended or one fails. An error that
// is not of ctx comes first.
func (r *Recorder) follow(ctx context.Context, w *RecordingWriter) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(r.observed))
	var directions sync.WaitGroup
	for i, o := range r.observed {
		directions.Go(func() {
			if errs[i] = o.record(ctx, w); errs[i] != nil {
				cancel()
			}
		})
	}
	directions.Wait()
	var canceled error
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		if err != nil {
			canceled = err
		}
	}
	return canceled
}

// record records one direction until it ends.
func (o *observed) record(ctx context.Context, w *RecordingWriter) error {
	first := Position{Incarnation: o.reader.Position().Incarnation, Message: 1}
	if at := o.reader.Position(); at.Compare(first) > 0 {
		if err := o.write(w, RecordingEvent{Gap: &GapError{From: first, To: at}}); err != nil {
			return err
		}
	}
	for {
		m, err := o.reader.NextPart(ctx)
		event := RecordingEvent{Message: &m}
		gap, isGap := errors.AsType[*GapError](err)
		switch {
		case isGap:
			event = RecordingEvent{Gap: gap}
		case err != nil:
			return o.ended(w, err)
		}
		if err := o.write(w, event); err != nil {
			return err
		}
	}
}

// ended records how a direction ended, and returns nil if it is whole.
func (o *observed) ended(w *RecordingWriter, err error) error {
	missing, incomplete := errors.AsType[*IncompleteError](err)
	if incomplete && missing.Have.Compare(missing.Want) > 0 {
		// Seen as it was accepted, and never handed over: what was sent is whole.
		err, incomplete = io.EOF, false
	}
	if incomplete {
		gap := &GapError{From: missing.Have, To: missing.Want}
		if err := o.write(w, RecordingEvent{Gap: gap}); err != nil {
			return err
		}
	}
	if end := o.reader.End(); end != nil {
		if err := o.write(w, RecordingEvent{End: end}); err != nil {
			return err
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (o *observed) write(w *RecordingWriter, event RecordingEvent) error {
	event.Direction = o.direction
	if event.Gap != nil {
		o.gaps.Add(1)
	}
	return w.WriteNow(event)
}

// Gaps returns how many gaps have been recorded. It may be called at any time.
func (r *Recorder) Gaps() int {
	var n int64
	for _, o := range r.observed {
		n += o.gaps.Load()
	}
	return int(n)
}

// Close ends the observing; the endpoint stays as it is.
func (r *Recorder) Close(ctx context.Context) error {
	errs := make([]error, len(r.observed))
	for i, o := range r.observed {
		errs[i] = o.reader.Close(ctx)
	}
	return errors.Join(errs...)
}
