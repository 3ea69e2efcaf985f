package server

import (
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/session"
)

type watchStream = grpc.ServerStreamingServer[pipedv1.WatchSessionsResponse]

var sessionStates = map[pipedv1.Session_State]session.State{
	pipedv1.Session_STATE_UNSPECIFIED: 0,
	pipedv1.Session_STATE_ACTIVE:      session.Active,
	pipedv1.Session_STATE_ENDED:       session.Ended,
}

// WatchSessions tells what happens until the client has enough. Flow control is
// the client's: while it does not read, this waits in Send.
func (v *sessionService) WatchSessions(req *pipedv1.WatchSessionsRequest, stream watchStream) error {
	every, err := v.s.heartbeat(req.GetHeartbeatInterval())
	if err != nil {
		return statusError(err)
	}
	state, ok := sessionStates[req.GetState()]
	if !ok {
		return statusError(argument("state %v", req.GetState()))
	}
	w, err := v.s.reg.Watch(session.WatchOptions{
		Filter: session.Filter{Prefix: req.GetNamePrefix(), Labels: req.GetLabels(), State: state},
		Token:  req.GetResumeToken(), Retained: req.GetRetained(), StopAtNow: req.GetStopAtNow()})
	if err != nil {
		return statusError(err)
	}
	return statusError(watch(w, stream, every))
}

func watch(w *session.Watcher, stream watchStream, every time.Duration) error {
	beat := time.NewTimer(every)
	defer beat.Stop()
	for {
		changed := w.Changed()
		news, found, err := w.Next(stream.Context())
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case found:
			beat.Reset(every)
			if err := stream.Send(fromNews(&news)); err != nil {
				return err
			}
			continue
		}
		select {
		case <-changed:
		case <-beat.C:
			beat.Reset(every)
			if err := stream.Send(&pipedv1.WatchSessionsResponse{ResumeToken: w.Token(),
				Response: &pipedv1.WatchSessionsResponse_Heartbeat{Heartbeat: &pipedv1.Heartbeat{}}}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func fromNews(n *session.News) *pipedv1.WatchSessionsResponse {
	m := &pipedv1.WatchSessionsResponse{ResumeToken: n.Token}
	switch {
	case n.Snapshot != nil:
		m.Response = &pipedv1.WatchSessionsResponse_Snapshot{Snapshot: fromInfo(*n.Snapshot)}
	case n.SnapshotEnd:
		m.Response = &pipedv1.WatchSessionsResponse_SnapshotEnd{SnapshotEnd: &pipedv1.SnapshotEnd{}}
	default:
		m.Response = &pipedv1.WatchSessionsResponse_Event{Event: fromEvent(n.Event)}
	}
	return m
}

var eventTypes = map[session.EventType]pipedv1.SessionEvent_Type{
	session.EventSessionCreated: pipedv1.SessionEvent_TYPE_SESSION_CREATED,
	session.EventSessionEnded:   pipedv1.SessionEvent_TYPE_SESSION_ENDED,
	session.EventSessionDeleted: pipedv1.SessionEvent_TYPE_SESSION_DELETED,
	session.EventPipeCreated:    pipedv1.SessionEvent_TYPE_PIPE_CREATED,
	session.EventProcessStarted: pipedv1.SessionEvent_TYPE_PROCESS_STARTED,
	session.EventProcessExited:  pipedv1.SessionEvent_TYPE_PROCESS_EXITED,
	session.EventDirectionEnded: pipedv1.SessionEvent_TYPE_DIRECTION_ENDED,
	session.EventLeaseAcquired:  pipedv1.SessionEvent_TYPE_LEASE_ACQUIRED,
	session.EventLeaseReleased:  pipedv1.SessionEvent_TYPE_LEASE_RELEASED,
	session.EventLeaseLost:      pipedv1.SessionEvent_TYPE_LEASE_LOST,

	session.EventProcessRestarting:  pipedv1.SessionEvent_TYPE_PROCESS_RESTARTING,
	session.EventProcessGaveUp:      pipedv1.SessionEvent_TYPE_PROCESS_GAVE_UP,
	session.EventIncarnationDropped: pipedv1.SessionEvent_TYPE_INCARNATION_DROPPED,
	session.EventCreatorLost:        pipedv1.SessionEvent_TYPE_SESSION_LEASE_ENDED,
}

func fromEvent(e *session.Event) *pipedv1.SessionEvent {
	m := &pipedv1.SessionEvent{Type: eventTypes[e.Type], Time: timestamp(e.Time), Session: e.Session, Uid: e.UID, Labels: e.Labels,
		Pipe: e.Pipe, End: uint32(e.End), Lease: fromLease(e.Lease), Detail: e.Detail} //nolint:gosec // 0, 1 or 2
	if e.Process != nil {
		m.Process = fromProcess(*e.Process)
	}
	if e.Final != nil {
		m.Final = fromFinal(e.Final)
	}
	m.Incarnation = e.Incarnation
	if u := e.Unread; u != nil {
		m.Unread = &pipedv1.Unread{InputMessages: u.Input, OutputMessages: u.Output, OutputBytes: u.OutputBytes}
	}
	return m
}

func fromFinal(f *session.Final) *pipedv1.Final {
	return &pipedv1.Final{Pipe: f.Pipe, End: uint32(f.End), Sent: f.Sent, Last: fromEnd(&f.Last, f.Incarnation), AllRead: f.AllRead} //nolint:gosec // 1 or 2
}
