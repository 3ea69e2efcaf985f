package keeper

import (
	"log/slog"
	"time"
)

// UID names the account of a session. The zero UID is the front's own account.
type UID [16]byte

// Options say how a front gets at its keeper.
type Options struct {
	// Socket is the path of the keeper's socket. The keeper's lock and registry
	// are beside it: Socket + ".lock" and Socket + ".registry".
	Socket string
	// Program is the piped-keeper to start when nobody answers at the socket. Empty means to wait for somebody else to start it.
	Program string
	// Front is the argument vector with which the keeper starts the front again when it has died; the first is a path. It gets
	// the environment and the directory that this process has now. Empty means that the keeper starts nobody.
	Front []string
	// Cgroup is where a keeper that is started makes cgroups: "auto", "off" or the
	// path of a cgroup. Empty means auto.
	Cgroup string
	// Version is the front's own, for the keeper's log.
	Version string
	// Log gets what a person should know. Nil discards it.
	Log *slog.Logger
}

// An Item is a descriptor of an account and the key that names it there.
type Item struct {
	Key uint32
	// FD is the caller's, who leaves it open until its key was removed.
	FD int
}

// An Estate is what the front before this one has left.
type Estate struct {
	// Gone is when the keeper saw the front before die; zero if there was none.
	Gone time.Time
	// Own are the descriptors of the front's own account. They are the caller's.
	Own map[uint32]int
	// Sessions are the accounts that were open.
	Sessions []*Remains
	// Lost are the sessions that a keeper knew which died together with its front.
	Lost []Loss
}

// Remains are what is left of a session: its account is open.
type Remains struct {
	Account *Account
	UID     UID
	Name    string
	// Files are the caller's, and in the keeper under the same keys.
	Files map[uint32]int
	// Processes that exited meanwhile are among them, until [Account.Forget].
	Processes map[uint32]Process
}

// A Loss is a session of which nothing is left.
type Loss struct {
	UID  UID
	Name string
	// Reboot says that the system has started anew; otherwise keeper and front were both killed.
	Reboot bool
}

// Info is what a front knows about its keeper.
type Info struct {
	// Pid and Version are those of the keeper; Pid is 0 while it is away.
	Pid     int
	Version string
	// Started is when the keeper's process began.
	Started time.Time
	// Away is since when there is no keeper; zero if there is one.
	Away time.Time
	// Restarts is how many keepers this link has lost.
	Restarts int
	// Cgroups is what the keeper, or the last one, can do with cgroups.
	Cgroups Cgroups
}
