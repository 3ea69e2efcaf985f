package failpoint_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/piped-dev/piped/failpoint"
)

// sceneEnv makes the test binary a program that comes to failpoints.
const sceneEnv = "PIPED_TEST_SCENE"

func TestMain(m *testing.M) {
	if scene := os.Getenv(sceneEnv); scene != "" {
		for name := range strings.FieldsSeq(scene) {
			failpoint.Hit(name)
			_, _ = os.Stdout.WriteString(name + "\n")
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// build builds these tests once more, with failpoints.
func build(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "program")
	if out, err := exec.Command("go", "test", "-tags", "failpoints", "-c", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	return program
}

// visit starts a program that comes to three failpoints, and returns those that it
// has come past and how it ended.
func visit(t *testing.T, program string, env ...string) (past string, stderr string, err error) {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), append(env, sceneEnv+"=a.one b.two a.one")...)
	var said, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &complaint
	err = cmd.Run()
	return strings.Join(strings.Fields(said.String()), " "), complaint.String(), err
}

func signalOf(err error) syscall.Signal {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0
	}
	return exit.Sys().(syscall.WaitStatus).Signal()
}

func TestFailpoints(t *testing.T) {
	t.Parallel()
	program := build(t)
	t.Run("nothing happens where nothing is armed", func(t *testing.T) {
		if past, _, err := visit(t, program); err != nil || past != "a.one b.two a.one" {
			t.Errorf("came past %q: %v", past, err)
		}
	})
	t.Run("kill, the first time and the second", func(t *testing.T) {
		for armed, want := range map[string]string{"a.one=kill": "", "b.two=kill@1": "a.one", "a.one=kill@2": "a.one b.two"} {
			if past, _, err := visit(t, program, "FAILPOINT="+armed); past != want || signalOf(err) != syscall.SIGKILL {
				t.Errorf("%s: came past %q: %v", armed, past, err)
			}
		}
	})
	t.Run("panic", func(t *testing.T) {
		if past, stderr, err := visit(t, program, "FAILPOINT=b.two=panic"); past != "a.one" || err == nil || !strings.Contains(stderr, "failpoint b.two") {
			t.Errorf("came past %q: %v\n%s", past, err, stderr)
		}
	})
	t.Run("hang", func(t *testing.T) { hang(t, program) })
	t.Run("what is not understood ends the program", func(t *testing.T) {
		for _, armed := range []string{"a.one", "a.one=explode", "a.one=kill@0", "a.one=kill@x"} {
			if past, stderr, err := visit(t, program, "FAILPOINT="+armed); past != "" || err == nil || !strings.Contains(stderr, "failpoint: ") {
				t.Errorf("%q: came past %q: %v\n%s", armed, past, err, stderr)
			}
		}
	})
	t.Run("a list, one line a process", func(t *testing.T) { list(t, program) })
}

// hang lets the goroutine stop in the middle; the program lives on until it is
// killed.
func hang(t *testing.T, program string) {
	// The other goroutines of this program do nothing, which Go's runtime calls a
	// deadlock: that it says so shows where it stopped.
	past, stderr, err := visit(t, program, "FAILPOINT=b.two=hang")
	if past != "a.one" || err == nil || !strings.Contains(stderr, "failpoint.Hit") {
		t.Errorf("came past %q: %v\n%s", past, err, stderr)
	}
}

func list(t *testing.T, program string) {
	file := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(file, []byte("other:a.one=kill\nb.two=kill\nprogram:a.one=kill@2\nc.never=kill\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := "FAILPOINT_LIST=" + file
	for _, want := range []string{"a.one", "a.one b.two"} {
		if past, _, err := visit(t, program, env); past != want || signalOf(err) != syscall.SIGKILL {
			t.Errorf("came past %q, want %q: %v", past, want, err)
		}
	}
	for range 2 { // the second one finds nothing that is for it
		if past, stderr, err := visit(t, program, env); past != "a.one b.two a.one" || err != nil {
			t.Errorf("came past %q: %v\n%s", past, err, stderr)
		}
	}
	for name, want := range map[string]string{file: "other:a.one=kill\n", file + ".hit": "b.two\na.one\n"} {
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s: %s", filepath.Base(name), diff)
		}
	}
	if past, _, err := visit(t, program, env+"-that-is-not-there"); past != "a.one b.two a.one" || err != nil {
		t.Errorf("without a list: came past %q: %v", past, err)
	}
}

// notOurs are folders that are built or fetched, not part of the repository.
var notOurs = []string{".git", ".tmp", "bin", "node_modules", "gen"}

func TestEachNameIsInOnePlace(t *testing.T) {
	t.Parallel()
	call := regexp.MustCompile(`failpoint\.Hit\(([^)]*)\)`)
	good := regexp.MustCompile(`^"[a-z]+(\.[a-z]+)*\.[a-z]+(-[a-z]+)*"$`)
	places := make(map[string]string)
	err := filepath.WalkDir("..", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains(notOurs, entry.Name()):
			return fs.SkipDir
		case !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for _, m := range call.FindAllSubmatch(text, -1) {
			point := string(m[1])
			if !good.MatchString(point) {
				t.Errorf("%s: failpoint %s: want a literal, area.instant", name, point)
			}
			if before := places[point]; before != "" {
				t.Errorf("%s: failpoint %s is also in %s", name, point, before)
			}
			places[point] = name
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(places) < 25 {
		t.Errorf("there are %d failpoints", len(places))
	}
}
