package session

import (
	"errors"
	"os/user"
	"strconv"

	"github.com/piped-dev/piped/keeper"
)

// attributes returns what a process is given besides its program, and who it runs
// as: nil where that is the keeper's own user. Names are looked up in /etc/passwd
// and /etc/group. The error is ErrArgument.
func (s *ProcessSpec) attributes() (keeper.Attributes, *user.User, error) {
	a := keeper.Attributes{Limits: s.Limits, Nice: s.Nice, Umask: s.Umask, NoNewPrivileges: s.NoNewPrivileges}
	if err := a.Check(); err != nil {
		return a, nil, argument("%v", err)
	}
	if s.User == "" {
		if s.Group != "" || len(s.Groups) > 0 {
			return a, nil, argument("groups without a user: name the user too")
		}
		return a, nil, nil
	}
	who, err := lookupUser(s.User, s.Group != "")
	if err != nil {
		return a, nil, err
	}
	if s.Group != "" {
		if who.Gid, err = lookupGroup(s.Group); err != nil {
			return a, nil, err
		}
	}
	groups := []string{who.Gid}
	switch {
	case len(s.Groups) > 0:
		groups = nil
		for _, name := range s.Groups {
			gid, err := lookupGroup(name)
			if err != nil {
				return a, nil, err
			}
			groups = append(groups, gid)
		}
	case who.Username != "":
		if groups, err = who.GroupIds(); err != nil {
			return a, nil, argument("the groups of user %q: %v", s.User, err)
		}
	}
	a.Credential = &keeper.Credential{UID: number(who.Uid), GID: number(who.Gid)}
	for _, gid := range groups {
		a.Credential.Groups = append(a.Credential.Groups, number(gid))
	}
	return a, who, nil
}

// lookupUser returns a user by name or number. A number needs no entry if a group
// is named too; then there is no name and no home.
func lookupUser(name string, hasGroup bool) (*user.User, error) {
	if !isNumber(name) {
		u, err := user.Lookup(name)
		if err != nil {
			return nil, argument("user %q: %v", name, err)
		}
		return u, nil
	}
	u, err := user.LookupId(name)
	if missing := user.UnknownUserIdError(0); errors.As(err, &missing) {
		if !hasGroup {
			return nil, argument("user %s has no entry in /etc/passwd, and so no group: name the group too", name)
		}
		return &user.User{Uid: name}, nil
	}
	if err != nil {
		return nil, argument("user %s: %v", name, err)
	}
	return u, nil
}

// lookupGroup returns the number of a group by name or number.
func lookupGroup(name string) (gid string, err error) {
	if isNumber(name) {
		return name, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return "", argument("group %q: %v", name, err)
	}
	return g.Gid, nil
}

func isNumber(text string) bool {
	_, err := strconv.ParseUint(text, 10, 32)
	return err == nil
}

// number returns what isNumber has found to be one.
func number(text string) uint32 {
	n, _ := strconv.ParseUint(text, 10, 32)
	return uint32(n)
}
