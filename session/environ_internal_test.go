package session

import (
	"errors"
	"os"
	"os/user"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// daemonsOwn are variables that a service manager or an operator sets for the
// daemon itself.
var daemonsOwn = []string{
	"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "INVOCATION_ID", "JOURNAL_STREAM",
	"CREDENTIALS_DIRECTORY", "MAINPID", "MANAGERPID", "SYSTEMD_EXEC_PID", "MEMORY_PRESSURE_WATCH", "PIPED_ADDR", "PIPED_FDS", "PIPED_CANARY",
	"RUNTIME_DIRECTORY", "STATE_DIRECTORY", "FAILPOINT", "FAILPOINT_SEED", "GODEBUG", "GOTRACEBACK", "GOMAXPROCS", "GOGC", "GOMEMLIMIT",
}

// everything is the policy of a daemon that was told nothing.
var everything = DefaultConfig().Environment

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
		got, err := tc.spec.environment(&everything, nil)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
	all, err := (&ProcessSpec{Base: EnvironmentAll}).environment(&everything, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(all, "CANARY=sings") {
		t.Error("all lacks a variable of the daemon's environment")
	}
	for _, key := range daemonsOwn {
		if slices.Contains(all, key+"=") {
			t.Errorf("%s, which is the daemon's own, reaches the process", key)
		}
	}
}

func TestPolicyBoundsTheBaseAndDenialAlsoTheRequest(t *testing.T) {
	for _, kv := range os.Environ() { // t.Setenv brings each back
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	os.Clearenv()
	for _, kv := range []string{"PATH=/bin", "HOME=/root", "LC_ALL=C", "LC_TIME=C", "LC=x", "AWS_KEY=secret", "NOTIFY_SOCKET=own"} {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	for _, tc := range []struct {
		name        string
		allow, deny []string
		base        EnvironmentBase
		env, want   []string
		denied      *EnvironmentError
	}{
		{name: "nothing is allowed", base: EnvironmentAll},
		{name: "a name", allow: []string{"LC"}, base: EnvironmentAll, want: []string{"LC=x"}},
		{name: "beginnings", allow: []string{"LC_*", "PATH"}, base: EnvironmentAll, want: []string{"LC_ALL=C", "LC_TIME=C", "PATH=/bin"}},
		{name: "denial wins", allow: []string{"LC_*", "AWS_KEY"}, deny: []string{"AWS_*", "LC_TIME"}, base: EnvironmentAll, want: []string{"LC_ALL=C"}},
		{name: "the daemon's own is not to be allowed", allow: []string{"NOTIFY_SOCKET", "LC"}, base: EnvironmentAll, want: []string{"LC=x"}},
		{name: "the minimal base too", allow: []string{"*"}, deny: []string{"HOME"}, want: []string{"PATH=/bin"}},
		{name: "a request may set what is not allowed", base: EnvironmentNone, env: []string{"AWS_KEY=mine", "GODEBUG=x=1"},
			want: []string{"AWS_KEY=mine", "GODEBUG=x=1"}},
		{name: "but not what is denied", allow: []string{"*"}, deny: []string{"X", "AWS_*"}, base: EnvironmentNone, env: []string{"A=1", "AWS_KEY=mine"},
			denied: &EnvironmentError{Name: "AWS_KEY", Pattern: "AWS_*"}},
		{name: "everything is denied", allow: []string{"*"}, deny: []string{"*"}, env: []string{"A=1"}, denied: &EnvironmentError{Name: "A", Pattern: "*"}},
	} {
		spec := ProcessSpec{Base: tc.base, Env: tc.env}
		got, err := spec.environment(&EnvironmentPolicy{Allow: tc.allow, Deny: tc.deny}, nil)
		slices.Sort(got)
		denied, _ := errors.AsType[*EnvironmentError](err)
		if diff := cmp.Diff(tc.want, got) + cmp.Diff(tc.denied, denied); diff != "" || (err == nil) != (denied == nil) {
			t.Errorf("%s: error %v (-want +got):\n%s", tc.name, err, diff)
		}
	}
}

func TestPatternIsANameOrABeginning(t *testing.T) {
	for pattern, right := range map[string]bool{
		"A": true, "A_*": true, "*": true, "a.b": true, "": false, "A=1": false, "A=*": false, "*A": false, "A*B": false, "A**": false, "A\x00": false,
	} {
		if err := CheckPattern(pattern); (err == nil) != right {
			t.Errorf("%q: %v", pattern, err)
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
		"HOME": "/home/me", "USER": "me", "LOGNAME": "me", "LANG": "C", "LD_PRELOAD": "/home/me/evil.so", "XDG_RUNTIME_DIR": "/run/user/0", "SSH_AUTH_SOCK": "/x", "KEPT": "1",
	} {
		t.Setenv(key, value)
	}
	who := &user.User{Uid: "1", Gid: "1", Username: "daemon", HomeDir: "/usr/sbin"}
	given := func(spec ProcessSpec) []string {
		t.Helper()
		env, err := spec.environment(&everything, who)
		if err != nil {
			t.Fatal(err)
		}
		return env
	}
	all := given(ProcessSpec{Base: EnvironmentAll})
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
	strict := EnvironmentPolicy{Allow: []string{"*"}, Deny: []string{"HOME", "LOG*"}}
	if env := strict.base(EnvironmentAll, who); lookup(env, "HOME")+lookup(env, "LOGNAME") != "" || lookup(env, "USER") != "daemon" {
		t.Errorf("with HOME and LOG* denied: %q", env)
	}
	minimal := given(ProcessSpec{Env: []string{"HOME=/else"}})
	if lookup(minimal, "HOME") != "/else" || lookup(minimal, "USER") != "daemon" {
		t.Errorf("%q", minimal)
	}
	if none := given(ProcessSpec{Base: EnvironmentNone}); len(none) > 0 {
		t.Errorf("%q", none)
	}
}
