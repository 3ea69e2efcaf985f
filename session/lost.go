package session

import (
	"errors"
	"fmt"
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
