package session

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"sync"
	"time"
)

// EventType is what happened to a session.
type EventType uint8

// The types of events.
const (
	EventSessionCreated EventType = iota + 1
	EventSessionEnded
	EventSessionDeleted
	EventPipeCreated
	EventProcessStarted
	EventProcessExited
	EventDirectionEnded
	EventLeaseAcquired
	EventLeaseReleased
	EventLeaseLost
	// EventProcessRestarting: it is started again at ProcessInfo.Next; EventProcessGaveUp:
	// it is not, although it was to be.
	EventProcessRestarting
	EventProcessGaveUp
	// EventIncarnationDropped: the oldest incarnation of a process was dropped.
	EventIncarnationDropped
	// EventCreatorLost: the creator of a session has not renewed its lease.
	EventCreatorLost
)

// An Event is something that happened to a session. It is shared by all who
// watch and must not be changed.
type Event struct {
	Type         EventType
	Time         time.Time
	Session, UID string
	Labels       map[string]string
	// Was and Is are the state of the session before and after.
	Was, Is State
	Process *ProcessInfo // of process events
	Pipe    string       // of pipe, direction and lease events
	// Incarnation is that of the pipe, of these events.
	Incarnation uint64
	Unread      *Unread // of a process that is restarting, and of what was dropped
	End         int     // of direction and lease events
	Final       *Final  // of a direction that has ended
	Lease       *Lease  // of lease events; the one that was lost
	Detail      string  // for people; the new holder when a lease was stolen
}

// An eventLog numbers events from 1 and keeps the last of them.
type eventLog struct {
	run  uint64 // tells this log's numbers from those of other runs
	size int

	mu      sync.Mutex
	ring    []Event // number n is at (n-1) % size
	last    uint64  // number of the latest
	closed  bool
	changed chan struct{} // closed when there is more; nil while nobody waits
}

func newEventLog(size int) *eventLog {
	var run [8]byte
	_, _ = rand.Read(run[:]) // it never fails
	return &eventLog{run: binary.BigEndian.Uint64(run[:]), size: max(size, 1)}
}

// add appends an event and sets its time.
func (l *eventLog) add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Time = time.Now()
	if len(l.ring) < l.size {
		l.ring = append(l.ring, e)
	} else {
		l.ring[l.last%uint64(l.size)] = e //nolint:gosec // positive
	}
	l.last++
	l.wakeLocked()
}

// close tells those who wait that nothing more will come.
func (l *eventLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.wakeLocked()
}

func (l *eventLog) wakeLocked() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// latest returns the number of the latest event.
func (l *eventLog) latest() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// beforeOldest returns the number after which everything is retained.
func (l *eventLog) beforeOldest() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last - uint64(len(l.ring))
}

// next returns the first event after the number at that want chooses, and its
// number; or the latest number and no event. It reports false when what comes
// after at is not retained any more.
func (l *eventLog) next(at uint64, want func(*Event) bool) (e *Event, number uint64, retained bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at+uint64(len(l.ring)) < l.last {
		return nil, at, false
	}
	for n := at + 1; n <= l.last; n++ {
		if one := l.ring[(n-1)%uint64(l.size)]; want(&one) { //nolint:gosec // positive
			return &one, n, true
		}
	}
	return nil, l.last, true
}

// more returns a channel that is closed when there is an event after the number
// at, or none will come any more; over reports the latter.
func (l *eventLog) more(at uint64) (changed <-chan struct{}, over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	changed = l.changed
	if at < l.last {
		l.wakeLocked()
	}
	return changed, l.closed
}

// token returns the resume token of a number.
func (l *eventLog) token(number uint64) string {
	b := binary.BigEndian.AppendUint64(nil, l.run)
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(b, number))
}

// number returns what token was made of; known is false for one of another run.
func (l *eventLog) number(token string) (number uint64, known bool, err error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) != 16 {
		return 0, false, argument("resume token %q is not one that a daemon gave", token)
	}
	number = binary.BigEndian.Uint64(b[8:])
	if binary.BigEndian.Uint64(b) != l.run {
		return 0, false, nil
	}
	if number > l.latest() {
		return 0, false, argument("resume token %q is of an event that has not happened", token)
	}
	return number, true, nil
}
