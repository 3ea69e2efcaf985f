package session

import (
	"os/user"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// daemonsOwn are variables that a service manager or an operator sets for the
// daemon itself.
var daemonsOwn = []string{
	"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "INVOCATION_ID", "JOURNAL_STREAM",
	"CREDENTIALS_DIRECTORY", "MAINPID", "MANAGERPID", "SYSTEMD_EXEC_PID", "MEMORY_PRESSURE_WATCH", "PIPED_ADDR", "PIPED_FDS", "PIPED_CANARY",
	"GODEBUG", "GOTRACEBACK", "GOMAXPROCS", "GOGC", "GOMEMLIMIT",
}

func TestEnvironmentHoldsNothingOfTheDaemonsOwn(t *testing.T) {
	for _, key := range daemonsOwn {
		t.Setenv(key, "")
	}
	t.Setenv("CANARY", "sings")
	t.Setenv("PATH", "/bin")
	t.Setenv("HOME", "/root")
	t.Setenv("USER", "u")
	t.Setenv("LANG", "C")
	minimal := []string{"PATH=/bin", "HOME=/root", "USER=u", "LANG=C"}
	for _, tc := range []struct {
		name string
		spec ProcessSpec
		want []string
	}{
		{"none", ProcessSpec{Base: EnvironmentNone}, nil},
		{"none and more", ProcessSpec{Base: EnvironmentNone, Env: []string{"A=1", "B=", "A=2"}}, []string{"A=2", "B="}},
		{"minimal is the default", ProcessSpec{}, minimal},
		{"what is given wins", ProcessSpec{Env: []string{"PATH=/x", "AB=1", "A=2"}}, []string{"PATH=/x", "HOME=/root", "USER=u", "LANG=C", "AB=1", "A=2"}},
	} {
		if diff := cmp.Diff(tc.want, tc.spec.environment(nil)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
	all := (&ProcessSpec{Base: EnvironmentAll}).environment(nil)
	if !slices.Contains(all, "CANARY=sings") {
		t.Error("all lacks a variable of the daemon's environment")
	}
	for _, key := range daemonsOwn {
		if slices.Contains(all, key+"=") {
			t.Errorf("%s, which is the daemon's own, reaches the process", key)
		}
	}
}

func TestAnnounceTellsEachEnd(t *testing.T) {
	for _, tc := range []struct {
		name  string
		env   []string
		given []givenEnd
		want  []string
	}{
		{"nothing given", []string{"PIPED_FDS=mine"}, nil, []string{"PIPED_FDS=mine"}},
		{"replaces what was there", []string{"PIPED_FDS=forged"}, []givenEnd{{"ctl", 3, "mp", "mp"}}, []string{"PIPED_FDS=ctl:3:mp"}},
		{"only reads, only writes, differs", nil,
			[]givenEnd{{"in", 3, "line", ""}, {"out", 4, "", "raw"}, {"both", 5, "mp", "line"}},
			[]string{"PIPED_FDS=in:3:line,out:4:raw,both:5:mp/line"}},
	} {
		if diff := cmp.Diff(tc.want, announce(tc.env, tc.given)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestAnotherUserGetsItsOwnPlaceInTheEnvironment(t *testing.T) {
	for key, value := range map[string]string{
		"HOME": "/root", "USER": "root", "LOGNAME": "root", "LANG": "C", "LD_PRELOAD": "/root/evil.so", "XDG_RUNTIME_DIR": "/run/user/0", "SSH_AUTH_SOCK": "/x", "KEPT": "1",
	} {
		t.Setenv(key, value)
	}
	who := &user.User{Uid: "1", Gid: "1", Username: "daemon", HomeDir: "/usr/sbin"}
	all := (&ProcessSpec{Base: EnvironmentAll}).environment(who)
	for _, want := range []string{"HOME=/usr/sbin", "USER=daemon", "LOGNAME=daemon", "LANG=C", "KEPT=1"} {
		if !slices.Contains(all, want) {
			t.Errorf("no %s in %q", want, all)
		}
	}
	for _, never := range []string{"LD_PRELOAD", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK"} {
		if lookup(all, never) != "" {
			t.Errorf("%s is in %q", never, all)
		}
	}
	minimal := (&ProcessSpec{Env: []string{"HOME=/else"}}).environment(who)
	if lookup(minimal, "HOME") != "/else" || lookup(minimal, "USER") != "daemon" {
		t.Errorf("%q", minimal)
	}
	if none := (&ProcessSpec{Base: EnvironmentNone}).environment(who); len(none) > 0 {
		t.Errorf("%q", none)
	}
}
