package session

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/piped-dev/piped/keeper"
)

// ErrLost says that a session is gone with what it held; a *LostError says how.
var ErrLost = errors.New("session lost")

// Why a session was lost.
const (
	// LostBoth: daemon and keeper were killed at the same time.
	LostBoth = "LOST_BOTH"
	// LostReboot: the system has started anew.
	LostReboot = "LOST_REBOOT"
	// LostMemory: its logs were in the memory of a daemon that was killed.
	LostMemory = "LOST_MEMORY"
	// LostCorrupt: what was kept of it cannot be understood.
	LostCorrupt = "LOST_CORRUPT"
)

// A LostError says which session was lost, and why. It is ErrLost.
type LostError struct {
	Name string
	Why  string // one of the constants
}

// Error says which session, and why.
func (e *LostError) Error() string { return fmt.Sprintf("%v: %s: %s", ErrLost, e.Name, e.Why) }

// Unwrap returns the sentinel.
func (e *LostError) Unwrap() error { return ErrLost }

// A lost session is remembered, as long as an ended one is, also by the daemons
// that come after this one: an account that holds nothing but a sign says so.
type lost struct {
	LostError
	uid     string
	since   time.Time
	account *keeper.Account // nil where the keeper did not take it
}

// signKey is the first of the keys of signs; what they stand for is the reason.
const signKey = memoryKey + 1

// reasons are in the order of their signs, which must not change.
var reasons = []string{LostBoth, LostReboot, LostMemory, LostCorrupt}

// signOf returns why a session was lost by the signs that are left of it.
func signOf(files map[uint32]int) (why string, found bool) {
	for i, why := range reasons {
		if _, ok := files[signKey+uint32(i)]; ok {
			return why, true
		}
	}
	return "", false
}

// lose remembers that a session was lost, and has the keeper remember it.
func (r *Registry) lose(name string, uid keeper.UID, why string, err error) {
	r.log.Error("session lost", "session", name, "uid", uuid.UUID(uid), "why", why, "error", err)
	account, entering := r.link.Enter(uid, name)
	if entering != nil {
		r.log.Warn("the keeper does not remember that a session was lost", "session", name, "error", entering)
	} else {
		r.sign(account, name, why)
	}
	r.mourn(&lost{LostError{Name: name, Why: why}, uuid.UUID(uid).String(), time.Now(), account})
}

// sign has the keeper remember that a session was lost.
func (r *Registry) sign(account *keeper.Account, name, why string) {
	key := signKey + uint32(slices.Index(reasons, why)) //nolint:gosec // one of four
	if err := account.Put(keeper.Item{Key: key, FD: int(r.null.Fd())}); err != nil {
		r.log.Warn("the keeper does not remember that a session was lost", "session", name, "error", err)
	}
}

// mourn enters a session among those that were lost.
func (r *Registry) mourn(l *lost) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost[l.Name], r.lost[l.uid] = l, l
}

// forgetLost forgets the lost sessions that forget says, and reports whether there
// were any.
func (r *Registry) forgetLost(forget func(*lost) bool) (some bool) {
	var gone []*lost
	r.mu.Lock()
	for key, l := range r.lost {
		if forget(l) {
			delete(r.lost, key)
			if key == l.uid {
				gone = append(gone, l)
			}
			some = true
		}
	}
	r.mu.Unlock()
	for _, l := range gone {
		if l.account != nil {
			l.account.Leave()
		}
	}
	return some
}
