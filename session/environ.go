package session

import (
	"fmt"
	"os"
	"os/user"
	"strings"
)

// An EnvironmentPolicy says which variables of the daemon's processes may have. A
// pattern is a name, or the beginning of names with * at its end.
type EnvironmentPolicy struct {
	// Allow are those of the daemon's own environment that a process may get;
	// what is [EnvironmentBase] of it. Nothing else of it is given.
	Allow []string
	// Deny are those that no process gets: not from the daemon's environment, and a
	// request that sets one is refused.
	Deny []string
}

// foreignVariables are what one user's process must not get from another's: it
// makes programs load or write what is the other's.
var foreignVariables = []string{"LD_*", "GCONV_PATH", "GETCONF_DIR", "XDG_RUNTIME_DIR", "XDG_SESSION_*", "DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK", "MAIL"}

// CheckPattern says what is wrong with a pattern of an [EnvironmentPolicy]; nil if
// nothing is.
func CheckPattern(pattern string) error {
	if pattern == "" || strings.ContainsAny(strings.TrimSuffix(pattern, "*"), "*=\x00") {
		return argument("%q: want the name of a variable, or the beginning of names with * at its end", pattern)
	}
	return nil
}

// matching returns the first pattern that a name matches, or "".
func matching(patterns []string, name string) string {
	for _, p := range patterns {
		if prefix, wild := strings.CutSuffix(p, "*"); p == name || wild && strings.HasPrefix(name, prefix) {
			return p
		}
	}
	return ""
}

// ownVariables are the daemon's own: a process that sees them could take itself
// for the daemon, or read what was meant for it. No configuration gives them away.
var ownVariables = []string{
	// What service managers tell a service of itself, systemd.exec(5).
	"NOTIFY_SOCKET", "LISTEN_*", "WATCHDOG_*", "INVOCATION_ID", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY", "MAINPID", "MANAGERPID", "MANAGERPIDFDID",
	"SYSTEMD_*", "MEMORY_PRESSURE_*", "FDSTORE", "PIDFILE", "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CACHE_DIRECTORY", "LOGS_DIRECTORY",
	"CONFIGURATION_DIRECTORY",
	// Its configuration, and what tests and its runtime are told.
	"PIPED_*", "FAILPOINT*", "GODEBUG", "GOTRACEBACK", "GOMAXPROCS", "GOGC", "GOMEMLIMIT", "GORACE", "GOCOVERDIR",
}

// minimalVariables are those of [EnvironmentMinimal].
var minimalVariables = []string{"PATH", "HOME", "USER", "LANG"}

// base returns what an environment starts from. who is the user if that is another
// than the daemon's.
func (p *EnvironmentPolicy) base(b EnvironmentBase, who *user.User) []string {
	given := func(name string) bool {
		if who != nil && matching(foreignVariables, name) != "" {
			return false
		}
		return matching(ownVariables, name) == "" && matching(p.Allow, name) != "" && matching(p.Deny, name) == ""
	}
	var env []string
	switch b {
	case EnvironmentNone:
	case EnvironmentMinimal:
		for _, name := range minimalVariables {
			if v, ok := os.LookupEnv(name); ok && given(name) {
				env = append(env, name+"="+v)
			}
		}
	case EnvironmentAll:
		for _, kv := range os.Environ() {
			if name, _, ok := strings.Cut(kv, "="); ok && given(name) {
				env = append(env, kv)
			}
		}
	}
	if who != nil && b != EnvironmentNone {
		for _, v := range [...]struct{ name, value string }{{"HOME", existing(who.HomeDir)}, {"USER", who.Username}, {"LOGNAME", who.Username}} {
			if v.value != "" && matching(p.Deny, v.name) == "" {
				env = set(env, v.name+"="+v.value)
			}
		}
	}
	return env
}

// environment builds what a process gets; later entries win over earlier ones. The
// error is an *EnvironmentError. who is the user if that is another than the daemon's.
func (s *ProcessSpec) environment(policy *EnvironmentPolicy, who *user.User) ([]string, error) {
	env := policy.base(s.Base, who)
	for _, kv := range s.Env {
		name, _, _ := strings.Cut(kv, "=")
		if pattern := matching(policy.Deny, name); pattern != "" {
			return nil, &EnvironmentError{Name: name, Pattern: pattern}
		}
		env = set(env, kv)
	}
	return env, nil
}

// set puts kv in the place of an earlier entry of the same key, or at the end.
func set(env []string, kv string) []string {
	key := kv[:strings.IndexByte(kv, '=')+1]
	for i := range env {
		if strings.HasPrefix(env[i], key) {
			env[i] = kv
			return env
		}
	}
	return append(env, kv)
}

// lookup returns the value of key, or "".
func lookup(env []string, key string) string {
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, key+"="); ok {
			return v
		}
	}
	return ""
}

// announce tells a process which ends it has: PIPED_FDS=name:fd:framing,…
// where the framing is that of what the process reads, then, if it differs, of
// what it writes.
func announce(env []string, given []givenEnd) []string {
	if len(given) == 0 {
		return env
	}
	parts := make([]string, len(given))
	for i, g := range given {
		framing := g.reads
		if g.writes != g.reads {
			framing = strings.Trim(g.reads+"/"+g.writes, "/")
		}
		parts[i] = fmt.Sprintf("%s:%d:%s", g.pipe, g.fd, framing)
	}
	return set(env, "PIPED_FDS="+strings.Join(parts, ","))
}

// A givenEnd is what PIPED_FDS says of one end.
type givenEnd struct {
	pipe          string
	fd            int
	reads, writes string
}
