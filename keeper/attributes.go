package keeper

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper/wire"
)

// Attributes are what a process is given besides its program, and has to be given
// before it is executed. The zero value is nothing: it gets what the spawner has.
type Attributes struct {
	// Credential is who it runs as; nil means as the keeper.
	Credential *Credential
	// Limits are resource limits, setrlimit(2).
	Limits []Limit
	// Nice is the nice value, -20 to 19; nil means the keeper's.
	Nice *int
	// Umask is the file mode creation mask, 0 to 0777; nil means the keeper's.
	Umask *int
	// NoNewPrivileges takes away, for ever, what a set-user-ID program would give,
	// PR_SET_NO_NEW_PRIVS.
	NoNewPrivileges bool
	// Terminal is a terminal that was made for it; nil means none.
	Terminal *Terminal
}

// A Terminal is one that belongs to a process: to the user that it runs as, as far
// as the keeper may give it away.
type Terminal struct {
	// FD is its number in the child, one of [Spec.Files].
	FD int
	// Controlling: it is the controlling terminal of the child's session, whose
	// keys signal the child, and which hangs up on it.
	Controlling bool
}

// A Credential is a user with its groups.
type Credential struct {
	UID, GID uint32
	// Groups are all supplementary groups.
	Groups []uint32
}

// A Limit is a resource limit.
type Limit struct {
	// Resource is one of the names of [Resources].
	Resource string
	// Soft is what holds and Hard up to what the process may raise it, in the unit
	// of setrlimit(2); [Unlimited] means none.
	Soft, Hard uint64
}

// Unlimited is a limit that is none, RLIM_INFINITY.
const Unlimited = math.MaxUint64

// resources are the resources of setrlimit(2), by the names of prlimit(1).
var resources = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE,
	"locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE,
	"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// Resources returns the names of the resources that can be limited, in order.
func Resources() []string { return slices.Sorted(maps.Keys(resources)) }

// Number returns the number of the limit's resource, RLIMIT_*.
func (l Limit) Number() (n int, known bool) {
	n, known = resources[l.Resource]
	return n, known
}

// Check refuses what no kernel takes.
func (a *Attributes) Check() error {
	if n := a.Nice; n != nil && (*n < -20 || *n > 19) {
		return fmt.Errorf("nice value %d: want -20 to 19", *n)
	}
	if m := a.Umask; m != nil && (*m < 0 || *m > 0o777) {
		return fmt.Errorf("umask %#o: want 0 to 0777", *m)
	}
	if t := a.Terminal; t != nil && (t.FD < 0 || t.FD > MaxFD) {
		return fmt.Errorf("terminal at descriptor %d: want 0 to %d", t.FD, MaxFD)
	}
	if c := a.Credential; c != nil {
		for _, id := range append([]uint32{c.UID, c.GID}, c.Groups...) {
			if id == math.MaxUint32 { // it means that nothing is to change
				return fmt.Errorf("%d is no user and no group", id)
			}
		}
	}
	seen := make(map[string]bool)
	for _, l := range a.Limits {
		switch _, known := l.Number(); {
		case !known:
			return fmt.Errorf("no resource %q: want one of %s", l.Resource, strings.Join(Resources(), ", "))
		case seen[l.Resource]:
			return fmt.Errorf("two limits of %s", l.Resource)
		case l.Soft > l.Hard:
			return fmt.Errorf("limit of %s: the soft limit is above the hard one", l.Resource)
		}
		seen[l.Resource] = true
	}
	return nil
}

// Staged says whether a fork alone cannot give all of it.
func (a *Attributes) Staged() bool {
	return len(a.Limits) > 0 || a.Nice != nil || a.Umask != nil || a.NoNewPrivileges
}

// wire returns what travels. A resource that is not known is left out.
func (a *Attributes) wire() []wire.Attribute {
	var all []wire.Attribute
	if c := a.Credential; c != nil {
		all = append(all, wire.Attribute{Kind: wire.AttributeUser, A: uint64(c.UID), B: uint64(c.GID)})
		for _, g := range c.Groups {
			all = append(all, wire.Attribute{Kind: wire.AttributeGroup, A: uint64(g)})
		}
	}
	for _, l := range a.Limits {
		if n, known := l.Number(); known {
			all = append(all, wire.Attribute{Kind: wire.AttributeLimit, A: uint64(n), B: l.Soft, C: l.Hard}) //nolint:gosec // small
		}
	}
	if a.Nice != nil {
		all = append(all, wire.Attribute{Kind: wire.AttributeNice, A: uint64(*a.Nice)}) //nolint:gosec // the same bits
	}
	if a.Umask != nil {
		all = append(all, wire.Attribute{Kind: wire.AttributeUmask, A: uint64(*a.Umask)}) //nolint:gosec // checked
	}
	if a.NoNewPrivileges {
		all = append(all, wire.Attribute{Kind: wire.AttributeNoNewPrivileges})
	}
	if t := a.Terminal; t != nil {
		all = append(all, wire.Attribute{Kind: wire.AttributeTerminal, A: uint64(t.FD), B: controlling(t)}) //nolint:gosec // checked
	}
	return all
}

func controlling(t *Terminal) uint64 {
	if t.Controlling {
		return 1
	}
	return 0
}

// attributesOf is the inverse of wire.
//
//nolint:gosec // the same bits
func attributesOf(all []wire.Attribute) (a Attributes, err error) {
	for _, w := range all {
		switch w.Kind {
		case wire.AttributeUser:
			a.Credential = &Credential{UID: uint32(w.A), GID: uint32(w.B)}
		case wire.AttributeGroup:
			if a.Credential == nil {
				return a, errors.New("groups without a user")
			}
			a.Credential.Groups = append(a.Credential.Groups, uint32(w.A))
		case wire.AttributeLimit:
			l := Limit{Soft: w.B, Hard: w.C}
			for name, n := range resources {
				if n == int(w.A) {
					l.Resource = name
				}
			}
			a.Limits = append(a.Limits, l)
		case wire.AttributeNice:
			a.Nice = new(int(w.A))
		case wire.AttributeUmask:
			a.Umask = new(int(w.A))
		case wire.AttributeNoNewPrivileges:
			a.NoNewPrivileges = true
		case wire.AttributeTerminal:
			a.Terminal = &Terminal{FD: int(w.A), Controlling: w.B != 0}
		default:
			return a, fmt.Errorf("this keeper does not know attribute %d: it is older than what asks for it", w.Kind)
		}
	}
	return a, a.Check()
}

// SpecOf returns the spec that a blob told of; sources are the descriptors that came with it.
func SpecOf(told *wire.Spec, sources []int) (Spec, error) {
	spec := Spec{Path: told.Path, Args: told.Args, Env: told.Env, Dir: told.Dir}
	for _, f := range told.Files {
		file := File{FD: f.FD, Source: -1}
		if f.Source >= 0 {
			if f.Source >= len(sources) {
				return spec, errors.New("a request with too few descriptors")
			}
			file.Source = sources[f.Source]
		}
		spec.Files = append(spec.Files, file)
	}
	var err error
	if spec.Attributes, err = attributesOf(told.Attributes); err != nil {
		return spec, &SpawnError{Step: "check", Path: spec.Path, Err: wrap(ErrInvalid, err)}
	}
	return spec, nil
}
