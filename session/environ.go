package session

import (
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"
)

// ownVariables are the daemon's own, by name or prefix: a process that sees
// them could take itself for the daemon.
var ownVariables = []string{
	"NOTIFY_SOCKET=", "LISTEN_", "WATCHDOG_", "INVOCATION_ID=", "JOURNAL_STREAM=", "CREDENTIALS_DIRECTORY=",
	"MAINPID=", "MANAGERPID=", "SYSTEMD_", "MEMORY_PRESSURE_", "PIPED_", "FAILPOINT", "GODEBUG=", "GOTRACEBACK=", "GOMAXPROCS=", "GOGC=", "GOMEMLIMIT=",
}

// foreignVariables are, by name or prefix, what one user's process must not get
// from another's: it makes programs load or write what is the other's.
var foreignVariables = []string{"LD_", "GCONV_PATH=", "GETCONF_DIR=", "XDG_RUNTIME_DIR=", "XDG_SESSION_", "DBUS_SESSION_BUS_ADDRESS=", "SSH_AUTH_SOCK=", "MAIL="}

// environment builds what a process gets; later entries win over earlier ones. who
// is the user if that is another than the daemon's.
func (s *ProcessSpec) environment(who *user.User) []string {
	withheld := ownVariables
	if who != nil {
		withheld = slices.Concat(ownVariables, foreignVariables)
	}
	var env []string
	switch s.Base {
	case EnvironmentNone:
	case EnvironmentMinimal:
		for _, key := range []string{"PATH", "HOME", "USER", "LANG"} {
			if v, ok := os.LookupEnv(key); ok {
				env = append(env, key+"="+v)
			}
		}
	case EnvironmentAll:
		for _, kv := range os.Environ() {
			if !slices.ContainsFunc(withheld, func(prefix string) bool { return strings.HasPrefix(kv, prefix) }) {
				env = append(env, kv)
			}
		}
	}
	if who != nil && s.Base != EnvironmentNone {
		env = set(env, "HOME="+home(who))
		if who.Username != "" {
			env = set(set(env, "USER="+who.Username), "LOGNAME="+who.Username)
		}
	}
	for _, kv := range s.Env {
		env = set(env, kv)
	}
	return env
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
