package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
)

// What outlives the daemon of a session, beside the bytes of its pipes, are
// records in the journal of its control file: JSON, one a key. Fields are only
// added. Whoever finds a higher version in the session's record leaves the
// session alone.

const recordVersion = 1

// The keys of records. Behind the name of a pipe or process stands its incarnation,
// from the second on: NAME~2. A client's id, the only part that can have any bytes, comes last.
const (
	keySession   = "session"
	prefixPipe   = "pipe/"
	prefixProc   = "process/"
	prefixLease  = "lease/"
	prefixSender = "sender/"
	prefixWriter = "writer/"
	prefixOrigin = "origin/"
)

type sessionRecord struct {
	Version int               `json:"version"`
	Name    string            `json:"name"`
	UID     string            `json:"uid"`
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
	Ended   time.Time         `json:"ended,omitzero"`
	Request string            `json:"request,omitempty"`
	Digest  []byte            `json:"digest,omitempty"`
	// Ready: it has all that it was created with, so that clients know of it.
	Ready bool `json:"ready,omitempty"`
	// Gone: it is being deleted.
	Gone bool `json:"gone,omitempty"`
	// Shed: its logs are in memory by now, because descriptors were scarce.
	Shed bool `json:"shed,omitempty"`
	// Resources are its limits.
	Resources keeper.SessionLimits `json:"resources,omitzero"`
	// Lease is that of its creator.
	Lease *creatorRecord `json:"lease,omitempty"`
}

type pipeRecord struct {
	// Order is where the pipe stands in its session.
	Order int `json:"order"`
	Slot  int `json:"slot"`
	// Kind and framings are told again after the pipe is closed, when nothing else
	// knows them.
	Kind pipe.Kind       `json:"kind"`
	In   pipe.Framing    `json:"in"`
	Out  pipe.Framing    `json:"out"`
	Ends [2][]keeper.End `json:"ends"`
	// For names the process for whose start it was made.
	For     string `json:"for,omitempty"`
	Request string `json:"request,omitempty"`
	Digest  []byte `json:"digest,omitempty"`
	// Incarnation is left out for the first.
	Incarnation uint64 `json:"incarnation,omitempty"`
}

// An endRecord names an end.
type endRecord struct {
	Pipe string `json:"pipe"`
	End  int    `json:"end"`
	// HandOver: the daemon has no copy of an end that a process was given.
	HandOver bool `json:"hand_over,omitempty"`
	// Incarnation of the pipe is left out for the first.
	Incarnation uint64 `json:"incarnation,omitempty"`
}

type processRecord struct {
	Order int `json:"order"`
	// Key names the process among those of the session.
	Key      uint32      `json:"key"`
	Args     []string    `json:"args"`
	Created  time.Time   `json:"created"`
	Inherits []Inherit   `json:"inherits,omitempty"`
	Inputs   []endRecord `json:"inputs,omitempty"`
	Given    []endRecord `json:"given,omitempty"`
	// Started: the keeper has started it. Without it the keeper knows whether.
	Started bool   `json:"started,omitempty"`
	Request string `json:"request,omitempty"`
	Digest  []byte `json:"digest,omitempty"`
	// Stop is how it is stopped, Deadline when its time is over, Ladder how far a
	// ladder has come.
	Stop     StopPolicy `json:"stop,omitzero"`
	Deadline time.Time  `json:"deadline,omitzero"`
	Ladder   *ladder    `json:"ladder,omitempty"`
	// Signals are those that clients have sent.
	Signals []syscall.Signal `json:"signals,omitempty"`
	// AfterExit is what becomes of pipes that somebody holds after the exit.
	AfterExit AfterExit `json:"after_exit,omitzero"`
	// Incarnation is left out for the first. Restarts counts all starts after it,
	// Streak those in a row by the policy.
	Incarnation uint64 `json:"incarnation,omitempty"`
	Restarts    uint64 `json:"restarts,omitempty"`
	Streak      uint32 `json:"streak,omitempty"`
	// Fate is what a client wants to follow the exit, Again its request when that is
	// another start; Plan is the start to come once it has exited.
	Fate  fate  `json:"fate,omitempty"`
	Again *plan `json:"again,omitempty"`
	Plan  *plan `json:"plan,omitempty"`
	// Failure is why it was not started again although it was to be.
	Failure string `json:"failure,omitempty"`
	// Unread counts the messages of its input that it has not read, by pipe, once
	// another incarnation is there.
	Unread map[string]uint64 `json:"unread,omitempty"`
}

type leaseRecord struct {
	Holder   string        `json:"holder,omitempty"`
	Named    bool          `json:"named,omitempty"`
	Token    []byte        `json:"token,omitempty"`
	Epoch    uint64        `json:"epoch"`
	Life     string        `json:"life,omitempty"`
	Last     string        `json:"last,omitempty"`
	Duration time.Duration `json:"duration,omitempty"`
	Kept     bool          `json:"kept,omitempty"`
	Force    bool          `json:"force,omitempty"`
}

// A writerState is what outlives the daemon of a writer id. Next is what its
// sequence had come to when the direction's next message was At.
type writerState struct {
	ID    string `json:"id"`
	Epoch uint64 `json:"epoch,omitempty"`
	Next  uint64 `json:"next"`
	At    uint64 `json:"at"`
	Used  uint64 `json:"used,omitempty"` // higher: more recent
	Kept  bool   `json:"kept,omitempty"`
}

// put writes a record into the journal; where logs are in memory nothing outlives the daemon anyway.
func (s *Session) put(key string, record any) error {
	journal := s.journal()
	if journal == nil {
		return nil
	}
	text, err := json.Marshal(record)
	if err != nil {
		return err
	}
	err = journal.Put(key, text)
	switch {
	case errors.Is(err, pipe.ErrClosed): // with the control file
		return fmt.Errorf("%w: %s was deleted", ErrSessionNotFound, s.name)
	case err != nil:
		return descriptorError(fmt.Errorf("record %q of session %s: %w", key, s.name, err))
	}
	return nil
}

// note is put where the caller can do nothing about an error: the record before stays in force.
func (s *Session) note(key string, record any) {
	if err := s.put(key, record); err != nil && !errors.Is(err, ErrSessionNotFound) {
		s.reg.log.Error("record not written", "session", s.name, "uid", s.uid, "error", err)
	}
}

// strike removes a record.
func (s *Session) strike(key string) {
	if err := s.journal().Remove(key); err != nil && !errors.Is(err, pipe.ErrClosed) {
		s.reg.log.Error("record not removed", "session", s.name, "uid", s.uid, "error", err)
	}
}

func (s *Session) journal() *pipe.Journal { return s.control.Journal() }

// record returns the session's own record; s.mu is held.
func (s *Session) recordLocked() sessionRecord {
	return sessionRecord{Version: recordVersion, Name: s.name, UID: s.uid, Labels: s.labels, Created: s.created, Ended: s.ended,
		Request: s.request, Digest: s.digest, Ready: s.ready, Gone: s.gone, Shed: s.shedLogs, Resources: s.resources,
		Lease: s.creator.recordLocked()}
}

func (e *Endpoint) key(prefix string) string {
	return fmt.Sprintf("%s%s/%d", prefix, e.pipe.recordKey(), e.num)
}

func (l *lease) key() string { return fmt.Sprintf("%s/%d", l.e.key(prefixLease), l.role) }

// save writes down what the lease is now. What counts while a stream holds it is
// who has it: streams end with the daemon.
func (l *lease) save() {
	if l.e.forgotten {
		return
	}
	r := leaseRecord{Holder: l.holder, Named: l.named, Epoch: l.epoch, Life: l.life, Last: l.last, Duration: l.duration, Kept: l.kept, Force: l.force}
	if l.taken() {
		r.Token = l.token[:]
	}
	l.e.session.note(l.key(), r)
}

// restore makes the lease again that a stream or nobody held when the daemon
// died: its streams were cut. The endpoint's mutex is held.
func (l *lease) restore(r *leaseRecord) error {
	if r.Holder != "" && len(r.Token) != len(l.token) {
		return fmt.Errorf("%w: a lease token of %d bytes", pipe.ErrCorrupt, len(r.Token))
	}
	l.holder, l.named, l.epoch, l.life, l.last = r.Holder, r.Named, r.Epoch, r.Life, r.Last
	l.duration, l.kept, l.force, l.silent = r.Duration, r.Kept, r.Force, true
	copy(l.token[:], r.Token)
	switch {
	case !l.taken():
	case l.e.ep.Closing(), l.duration == 0:
		l.end(EventLeaseReleased, "")
	default:
		l.wait()
		l.silent = false
	}
	return nil
}

// decode reads a record.
func decode(text []byte, record any) error {
	if err := json.Unmarshal(text, record); err != nil {
		return fmt.Errorf("%w: a record: %w", pipe.ErrCorrupt, err)
	}
	return nil
}

// decodeAll reads the records whose key begins with a prefix, by the rest of the key.
func decodeAll[R any](all map[string][]byte, prefix string) (map[string]*R, error) {
	found := make(map[string]*R)
	for key, text := range all {
		name, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		r := new(R)
		if err := decode(text, r); err != nil {
			return nil, err
		}
		found[name] = r
	}
	return found, nil
}
