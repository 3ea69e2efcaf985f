package main

import (
	"strconv"
	"strings"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/pflag"
)

// attributeFlags are what a program is given besides its arguments, environment and
// pipes.
type attributeFlags struct {
	user            string
	groups          []string
	limits          []string
	nice            string
	umask           string
	noNewPrivileges bool
}

func (a *attributeFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&a.user, "user", "", "`USER[:GROUP]`, names or numbers, that the program runs as; then it starts in the user's home unless --dir says where")
	flags.StringSliceVar(&a.groups, "groups", nil, "all supplementary `groups` of the program (else those of the user)")
	flags.StringArrayVar(&a.limits, "limit", nil, "`NAME=SOFT[:HARD]`, a resource limit as of prlimit(1), each a number or \"unlimited\"; repeatable")
	flags.StringVar(&a.nice, "nice", "", "nice `value` of the program, -20 to 19")
	flags.StringVar(&a.umask, "umask", "", "`octal` file mode creation mask of the program")
	flags.BoolVar(&a.noNewPrivileges, "no-new-privileges", false, "set-user-ID programs and file capabilities give the program nothing")
}

// fill writes them into a spec.
func (a *attributeFlags) fill(spec *pipedv1.ProcessSpec) error {
	spec.User, spec.Group, _ = strings.Cut(a.user, ":")
	if a.user != "" && (spec.GetUser() == "" || strings.HasSuffix(a.user, ":")) {
		return usageError("--user %q: give USER or USER:GROUP", a.user)
	}
	spec.Groups, spec.NoNewPrivileges = a.groups, a.noNewPrivileges
	if a.nice != "" {
		n, err := strconv.ParseInt(a.nice, 10, 32)
		if err != nil {
			return usageError("--nice %q: give a number from -20 to 19", a.nice)
		}
		spec.Nice = new(int32(n))
	}
	if a.umask != "" {
		n, err := strconv.ParseUint(a.umask, 8, 32)
		if err != nil {
			return usageError("--umask %q: give an octal number, as 027", a.umask)
		}
		spec.Umask = new(uint32(n))
	}
	for _, text := range a.limits {
		limit, err := parseLimit(text)
		if err != nil {
			return err
		}
		spec.Limits = append(spec.Limits, limit)
	}
	return nil
}

// unlimited is a limit that is none.
const unlimited = "unlimited"

// parseLimit reads NAME=SOFT[:HARD]. SOFT alone is both.
func parseLimit(text string) (*pipedv1.ResourceLimit, error) {
	name, values, found := strings.Cut(text, "=")
	if !found || name == "" {
		return nil, usageError("--limit %q is not NAME=SOFT[:HARD], as in nofile=1024:4096", text)
	}
	soft, hard, both := strings.Cut(values, ":")
	if !both {
		hard = soft
	}
	limit := &pipedv1.ResourceLimit{Resource: name}
	for _, v := range []struct {
		text string
		to   **uint64
	}{{soft, &limit.Soft}, {hard, &limit.Hard}} {
		if v.text == unlimited {
			continue
		}
		n, err := strconv.ParseUint(v.text, 10, 64)
		if err != nil {
			return nil, usageError("--limit %q: %q is not a number, nor %q", text, v.text, unlimited)
		}
		*v.to = &n
	}
	return limit, nil
}
