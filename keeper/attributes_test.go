package keeper_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/piped-dev/piped/keeper"
)

// nobody is a user that root can be instead.
const nobody = 65534

func asNobody(t *testing.T) *keeper.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	return &keeper.Credential{UID: nobody, GID: nobody, Groups: []uint32{12, 4711}}
}

func TestChildHasItsAttributes(t *testing.T) {
	k := newKeeper(t)
	for _, test := range []struct {
		name       string
		attributes keeper.Attributes
		script     string
		want       string
	}{
		{"umask", keeper.Attributes{Umask: new(0o027)}, "umask", "0027"},
		{"no mask", keeper.Attributes{Umask: new(0)}, "umask", "0000"},
		{"nice value", keeper.Attributes{Nice: new(7)}, "nice", "7"},
		{"soft and hard limit", keeper.Attributes{Limits: []keeper.Limit{{"nofile", 40, 50}}}, "echo $(ulimit -Sn) $(ulimit -Hn)", "40 50"},
		{"limits", keeper.Attributes{Limits: []keeper.Limit{{"core", 0, 0}, {"stack", 1 << 20, keeper.Unlimited}, {"as", 200 << 20, 200 << 20}}},
			"echo $(ulimit -c) $(ulimit -s) $(ulimit -v)", "0 1024 204800"},
		{"no new privileges", keeper.Attributes{NoNewPrivileges: true}, "grep NoNewPrivs /proc/self/status | tr -d '\\t'", "NoNewPrivs:1"},
		{"signals as without a stage", keeper.Attributes{Nice: new(0)}, "echo $(grep -E '^Sig(Blk|Ign):' /proc/self/status)", "SigBlk: 0000000000000000 SigIgn: 0000000000000000"},
		{"nothing", keeper.Attributes{}, "grep NoNewPrivs /proc/self/status | tr -d '\\t'", "NoNewPrivs:0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := program("/bin/sh", "-c", test.script)
			spec.Env = []string{"PATH=/usr/bin:/bin"}
			spec.Attributes = test.attributes
			got, exit := output(t, k, spec)
			if exit.Code != 0 || strings.TrimSpace(got) != test.want {
				t.Errorf("%q, %+v, want %q", got, exit, test.want)
			}
		})
	}
}

func TestChildIsTheUserWithExactlyTheGroups(t *testing.T) {
	k := newKeeper(t)
	for name, more := range map[string]keeper.Attributes{"by the fork": {}, "by the stage": {Umask: new(0o022), NoNewPrivileges: true}} {
		t.Run(name, func(t *testing.T) {
			spec := program("/bin/sh", "-c", `grep -E '^(Uid|Gid|Groups|CapEff):' /proc/self/status | tr '\t' ' '; kill -0 1 2>/dev/null && echo privileged`)
			spec.Env = []string{"PATH=/usr/bin:/bin"}
			spec.Attributes = more
			spec.Attributes.Credential = asNobody(t)
			got, _ := output(t, k, spec)
			want := "Uid: 65534 65534 65534 65534\nGid: 65534 65534 65534 65534\nGroups: 12 4711 \nCapEff: 0000000000000000\n"
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}

// The keeper's own user may always be asked for, also where the keeper may change nothing.
func TestOwnUserNeedsNoPrivilege(t *testing.T) {
	k := newKeeper(t)
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	own := &keeper.Credential{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	for _, g := range groups {
		own.Groups = append(own.Groups, uint32(g))
	}
	spec := program("/usr/bin/id", "-u")
	spec.Attributes.Credential = own
	if got, exit := output(t, k, spec); got != strconv.Itoa(os.Geteuid())+"\n" {
		t.Errorf("%q, %+v", got, exit)
	}
}

func TestKeeperThatIsNotRootStartsOnlyItsOwnUser(t *testing.T) {
	if os.Geteuid() == 0 {
		runAsNobody(t)
		return
	}
	k := newKeeper(t)
	spec := program("/bin/true")
	for _, c := range []*keeper.Credential{{UID: 4711, GID: 4711}, {UID: 0, GID: 0}, {UID: uint32(os.Geteuid()), GID: 0}} {
		spec.Attributes.Credential = c
		_, err := k.Start(t.Context(), spec)
		if spawnErr := (*keeper.SpawnError)(nil); !errors.As(err, &spawnErr) || spawnErr.Step != "user" || !errors.Is(err, keeper.ErrNotPermitted) {
			t.Errorf("as %+v: %v, want step user and not permitted", c, err)
		}
	}
}

// runAsNobody runs this test, and no other, as nobody.
func runAsNobody(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "nobody-") //nolint:usetesting // only we may enter that of the test
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	binary := filepath.Join(dir, "test")
	if err := errors.Join(os.WriteFile(binary, text, 0o755), os.Chown(dir, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Dir, cmd.Env = dir, []string{"TMPDIR=" + dir, "PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("%v: %s", err, out)
	}
}

func TestStagedChildHasExactlyTheDeclaredDescriptors(t *testing.T) {
	k := newKeeper(t)
	std := []keeper.File{{FD: 0, Source: -1}, {FD: 2, Source: 2}}
	memfd := newMemfd(t)
	for _, files := range [][]keeper.File{nil, {{3, memfd}, {5, -1}}, {{4, -1}, {1000, memfd}}} {
		spec := behaviour(t, "list")
		spec.Attributes.Nice = new(1)
		got, want, err := listed(k, spec, append(files, std...))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("descriptors (-want +got):\n%s", diff)
		}
	}
}

func TestAttributesThatCannotBeGivenSayWhichAndLeaveNothing(t *testing.T) {
	k := newKeeper(t)
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	secret := writeFile(t, "secret", "#!/bin/sh\n", 0o700)
	for _, test := range []struct {
		name   string
		change func(*keeper.Spec)
		step   string
		want   error
		says   string
	}{
		{"nice value", func(s *keeper.Spec) { s.Attributes.Nice = new(20) }, "check", keeper.ErrInvalid, "want -20 to 19"},
		{"umask", func(s *keeper.Spec) { s.Attributes.Umask = new(0o1000) }, "check", keeper.ErrInvalid, "want 0 to 0777"},
		{"resource", func(s *keeper.Spec) { s.Attributes.Limits = []keeper.Limit{{"files", 1, 1}} }, "check", keeper.ErrInvalid, "want one of as, core,"},
		{"twice", func(s *keeper.Spec) { s.Attributes.Limits = []keeper.Limit{{"core", 1, 1}, {"core", 1, 1}} }, "check", keeper.ErrInvalid, "two limits of core"},
		{"soft above hard", func(s *keeper.Spec) { s.Attributes.Limits = []keeper.Limit{{"core", 2, 1}} }, "check", keeper.ErrInvalid, "soft limit is above"},
		{"terminal", func(s *keeper.Spec) { s.Attributes.Terminal = &keeper.Terminal{FD: 4000} }, "check", keeper.ErrInvalid, "terminal at descriptor 4000"},
		{"terminal that is not there", func(s *keeper.Spec) { s.Attributes.Terminal = &keeper.Terminal{FD: 9} }, "terminal", keeper.ErrInvalid, "descriptor 9, the terminal"},
		// Not even root may have more than fs.nr_open.
		{"limit", func(s *keeper.Spec) { s.Attributes.Limits = []keeper.Limit{{"nofile", 5, 1 << 40}} }, "limit", keeper.ErrNotPermitted, "hard limit of nofile"},
		{"user", func(s *keeper.Spec) { s.Attributes.Credential = &keeper.Credential{UID: 1<<32 - 1} }, "check", keeper.ErrInvalid, "4294967295 is no user"},
		{"directory of another", func(s *keeper.Spec) { s.Attributes.Credential, s.Dir = asNobody(t), closed }, "chdir", keeper.ErrDirectory, closed},
		{"program of another", func(s *keeper.Spec) { s.Attributes.Credential, s.Path = asNobody(t), secret }, "exec", keeper.ErrNotExecutable, secret},
		{"no program", func(s *keeper.Spec) { s.Attributes.Nice, s.Path = new(1), "/none" }, "exec", keeper.ErrNotFound, "/none"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := openFDs()
			spec := program("/bin/true")
			test.change(&spec)
			_, err := k.Start(t.Context(), spec)
			var spawnErr *keeper.SpawnError
			if !errors.As(err, &spawnErr) || spawnErr.Step != test.step || !errors.Is(err, test.want) || !strings.Contains(fmt.Sprint(err), test.says) {
				t.Errorf("error %v, want step %q, %v and %q", err, test.step, test.want, test.says)
			}
			if after := openFDs(); len(after) != len(before) {
				t.Errorf("descriptors %v, were %v", after, before)
			}
			k.onlySpawner(t)
		})
	}
}
