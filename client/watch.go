package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"google.golang.org/protobuf/proto"
)

// Watch yields what happens to sessions. It begins with a snapshot (responses
// with snapshot, then one with snapshot_end), with the events that are retained,
// or behind the resume token, as the request says; heartbeats are left out. It
// ends when ctx ends or the loop is left, with stop_at_now after what there was,
// and otherwise with an error as the last thing that it yields.
//
// When the connection is lost, it connects again for as long as ctx lasts (before
// the first response, and with stop_at_now, for as long as RepeatFor says) and goes
// on behind the last response. Where the daemon cannot do that, because it was
// started again or too much has happened since, a new snapshot comes, which replaces
// everything that was known.
func (c *Client) Watch(ctx context.Context, req *pipedv1.WatchSessionsRequest) iter.Seq2[*pipedv1.WatchSessionsResponse, error] {
	return func(yield func(*pipedv1.WatchSessionsResponse, error) bool) {
		limits, err := c.Limits(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		w := &watch{client: c, req: proto.CloneOf(req), silence: longestSilence(limits)}
		if d := req.GetHeartbeatInterval().AsDuration(); d > 0 {
			w.silence = d + heartbeatGrace
		}
		w.retry.limit = c.repeatFor
		for {
			err := w.stream(ctx, yield)
			switch {
			case err == nil, errors.Is(err, io.EOF) && req.GetStopAtNow():
				return
			case w.begun && !req.GetStopAtNow():
				w.retry.limit = 0
			}
			if err = c.comeBack(ctx, &w.retry, err); err != nil {
				if ctx.Err() == nil {
					yield(nil, err)
				}
				return
			}
		}
	}
}

// A watch is the streams of one Watch, one after another.
type watch struct {
	client  *Client
	req     *pipedv1.WatchSessionsRequest
	silence time.Duration
	retry   retry
	// begun says that a stream has brought something.
	begun bool
	// inSnapshot says that a snapshot is not complete. Whoever resumes in the
	// middle of it would not get the rest, so it is asked for again.
	inSnapshot bool
}

// stream yields what one stream brings. It returns nil when the loop was left.
func (w *watch) stream(ctx context.Context, yield func(*pipedv1.WatchSessionsResponse, error) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx, at := withPlace(ctx)
	stream, err := w.client.sessions.WatchSessions(ctx, w.req)
	if err != nil {
		return err
	}
	silence := newSilence(w.silence, cancel)
	silence.distrust = func() { w.client.pool.distrust(at) }
	for {
		resp, err := listen(silence, w.silence, stream.Recv)
		if err != nil {
			return err
		}
		w.begun = true
		w.retry.succeeded()
		switch {
		case resp.GetSnapshot() != nil:
			w.inSnapshot = true
		case resp.GetSnapshotEnd() != nil:
			w.inSnapshot = false
		}
		if token := resp.GetResumeToken(); token != "" && !w.inSnapshot {
			w.req.ResumeToken = token
		}
		if resp.GetHeartbeat() == nil && !yield(resp, nil) {
			return nil
		}
	}
}
