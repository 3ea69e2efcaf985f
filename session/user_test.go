package session_test

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/session"
)

// says starts a process and returns the first line that it writes.
func says(t *testing.T, reg *session.Registry, spec session.ProcessSpec) string {
	t.Helper()
	s := create(t, reg, session.Spec{Process: &spec})
	return string(receive(t, openReader(t, endpoint(t, s, "stdio", 1), session.ReaderOptions{})).Batch.Data)
}

func TestUserMayBeANameOrANumber(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start a program as somebody else")
	}
	reg := newRegistry(t, nil)
	script := []string{"sh", "-c", "echo $(id -u) $(id -g) $(id -G) $(pwd)"}
	for name, test := range map[string]struct {
		spec session.ProcessSpec
		want string
	}{
		"name":              {session.ProcessSpec{User: "nobody"}, "65534 65534 65534 /"},
		"number":            {session.ProcessSpec{User: "65534"}, "65534 65534 65534 /"},
		"group":             {session.ProcessSpec{User: "nobody", Group: "mail"}, "65534 8 8 /"},
		"groups":            {session.ProcessSpec{User: "nobody", Groups: []string{"mail", "4711"}}, "65534 65534 65534 8 4711 /"},
		"without an entry":  {session.ProcessSpec{User: "4711", Group: "4711"}, "4711 4711 4711 /"},
		"in another place":  {session.ProcessSpec{User: "nobody", Dir: "/usr"}, "65534 65534 65534 /usr"},
		"with other limits": {session.ProcessSpec{User: "nobody", Limits: []keeper.Limit{{Resource: "core"}}}, "65534 65534 65534 /"},
	} {
		t.Run(name, func(t *testing.T) {
			test.spec.Args, test.spec.Stderr = script, session.StdioNull
			if got := says(t, reg, test.spec); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestAttributesThatMakeNoSenseAreRefused(t *testing.T) {
	reg := newRegistry(t, nil)
	for says, spec := range map[string]session.ProcessSpec{
		`user "none-such"`:               {User: "none-such"},
		"user 4711 has no entry":         {User: "4711"},
		`group "none-such"`:              {User: "0", Group: "none-such"},
		"groups without a user":          {Groups: []string{"0"}},
		"nice value 99: want -20 to 19":  {Nice: new(99)},
		"umask 01000: want 0 to 0777":    {Umask: new(0o1000)},
		`no resource "files": want one`:  {Limits: []keeper.Limit{{Resource: "files"}}},
		"the soft limit is above the ha": {Limits: []keeper.Limit{{Resource: "core", Soft: 2, Hard: 1}}},
	} {
		spec.Args = []string{"true"}
		_, err := reg.Create(t.Context(), session.Spec{Process: &spec})
		if !errors.Is(err, session.ErrArgument) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

// A daemon that is updated must know the requests again that the one before remembers.
func TestSpecWithoutAttributesIsWrittenAsBeforeThereWereAny(t *testing.T) {
	text, err := json.Marshal(session.ProcessSpec{})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"User", "Group", "Limits", "Nice", "Umask", "NoNewPrivileges"} {
		if strings.Contains(string(text), key) {
			t.Errorf("%s is in %s", key, text)
		}
	}
}
