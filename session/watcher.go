package session

import (
	"context"
	"io"
)

// WatchOptions say what to watch.
type WatchOptions struct {
	Filter
	// Token is the News.Token behind which to go on. Empty, of another run of the
	// daemon, or older than what is retained: begin with a snapshot.
	Token string
	// Retained begins, without a token, with the events that are retained instead
	// of a snapshot.
	Retained bool
	// StopAtNow stops when everything up to now was told.
	StopAtNow bool
}

// News is one thing that a watcher tells: exactly one of Snapshot, SnapshotEnd
// and Event.
type News struct {
	// Token is where to go on behind it; empty inside a snapshot, which can only
	// begin again.
	Token       string
	Snapshot    *Info // a session of a snapshot
	SnapshotEnd bool
	Event       *Event
}

// A Watcher tells what happens to sessions: each event once and in order, or,
// when it was too slow, a fresh snapshot. The first events after a snapshot may
// tell what it shows already. It belongs to one goroutine and needs no closing.
type Watcher struct {
	reg    *Registry
	filter Filter
	at     uint64 // number of the event that was told last
	until  uint64 // StopAtNow: the number to stop at
	stop   bool
	// snapshot is under way, left are its sessions that were not told yet.
	snapshot bool
	left     []*Session
}

// Watch returns a watcher; ErrArgument for a token that no daemon gave.
func (r *Registry) Watch(o WatchOptions) (*Watcher, error) {
	w := &Watcher{reg: r, filter: o.Filter, stop: o.StopAtNow, until: r.events.latest()}
	switch {
	case o.Token != "":
		at, known, err := r.events.number(o.Token)
		if err != nil {
			return nil, err
		}
		if w.at = at; !known {
			w.begin()
		}
	case o.Retained:
		w.at = r.events.beforeOldest()
	default:
		w.begin()
	}
	return w, nil
}

// begin begins a snapshot. What happens after this number is told as events; what
// had happened before shows in the sessions.
func (w *Watcher) begin() {
	w.at = w.reg.events.latest()
	w.snapshot = true
	w.left = w.reg.List(Filter{Prefix: w.filter.Prefix, Labels: w.filter.Labels})
}

// Next returns what is next without waiting; false when there is nothing yet. It
// returns io.EOF when a watcher that stops has told everything, and ErrShutdown
// when nothing will come any more because the daemon ends.
func (w *Watcher) Next(ctx context.Context) (News, bool, error) {
	if !w.snapshot {
		news, found, err := w.nextEvent()
		if found || err != nil || !w.snapshot {
			return news, found, err
		}
	}
	for len(w.left) > 0 {
		s := w.left[0]
		w.left = w.left[1:]
		info, err := s.Info(ctx, false)
		if err != nil {
			return News{}, false, err
		}
		if w.filter.State == 0 || w.filter.State == info.State() {
			return News{Snapshot: &info}, true, nil
		}
	}
	w.snapshot, w.left = false, nil
	return News{Token: w.Token(), SnapshotEnd: true}, true, nil
}

// nextEvent begins a snapshot where the next event is not retained any more.
func (w *Watcher) nextEvent() (News, bool, error) {
	if w.stop && w.at >= w.until {
		return News{}, false, io.EOF
	}
	e, number, retained := w.reg.events.next(w.at, w.wants)
	switch {
	case !retained:
		w.begin()
		return News{}, false, nil
	case w.stop && number > w.until:
		w.at = w.until
		return News{}, false, io.EOF
	}
	w.at = number
	if e != nil {
		return News{Token: w.Token(), Event: e}, true, nil
	}
	if w.stop {
		return News{}, false, io.EOF
	}
	if _, over := w.reg.events.more(w.at); over {
		return News{}, false, ErrShutdown
	}
	return News{}, false, nil
}

// wants reports whether the filter chooses an event. One that takes a session
// out of the state that was asked for belongs to it.
func (w *Watcher) wants(e *Event) bool {
	want := w.filter.State
	return w.filter.chooses(e.Session, e.Labels) && (want == 0 || want == e.Was || want == e.Is)
}

// Changed returns a channel that is closed when Next may find more.
func (w *Watcher) Changed() <-chan struct{} {
	changed, _ := w.reg.events.more(w.at)
	return changed
}

// Token is where to go on behind what was told; empty inside a snapshot.
func (w *Watcher) Token() string {
	if w.snapshot {
		return ""
	}
	return w.reg.events.token(w.at)
}
