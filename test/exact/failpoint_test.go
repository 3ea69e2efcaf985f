package exact

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/test/daemon"
)

// What passes a failpoint is one of these programs.
const (
	programFront   = "piped"
	programKeeper  = "piped-keeper"
	programSpawner = "piped-spawner"
)

// Failpoints after which the daemon and its keeper are both dead, or one is dead
// and the other has not everything yet. The sessions may be lost then, and each
// must say so.
var fatal = []string{"custody.front-gone", "custody.before-front", "custody.before-serve", "keeper.after-loss", "keeper.before-upload", "keeper.mid-upload"}

// shed ends the names that only a daemon without descriptors comes to. Nobody can
// talk to it as if all were well.
const shed = ".after-shed"

// after says which failpoint must have been hit right before.
var after = map[string]string{"recover.after-note": "inbox.mid-consume"}

// failpoints finds the names in the source, by the program that comes to them.
func failpoints(t *testing.T) map[string][]string {
	t.Helper()
	call := regexp.MustCompile(`failpoint\.Hit\("([^"]+)"\)`)
	found := make(map[string][]string)
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && (strings.HasPrefix(entry.Name(), ".") || slices.Contains([]string{"bin", "test", "gen"}, entry.Name())):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		program := programFront
		switch dir := filepath.ToSlash(filepath.Dir(path)); {
		case strings.HasSuffix(dir, "keeper/custody"):
			program = programKeeper
		case strings.HasSuffix(dir, "keeper/spawner"):
			program = programSpawner
		}
		for _, m := range call.FindAllSubmatch(text, -1) {
			found[program] = append(found[program], string(m[1]))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// withFailpoints returns a directory with programs that have failpoints.
func withFailpoints(t *testing.T) string {
	t.Helper()
	built.Do(func() {
		builtIn = filepath.Join(daemon.Bin(), "failpoints")
		buildError = daemon.BuildOnly(t.Context(), builtIn, []string{programFront, programKeeper}, "-tags", "failpoints")
	})
	if buildError != nil {
		t.Fatal(buildError)
	}
	return builtIn
}

// What built has done.
var (
	built      sync.Once
	builtIn    string
	buildError error
)

func TestD1DaemonThatIsKilledAtEachFailpointLosesNothing(t *testing.T) {
	parallel(t)
	points := failpoints(t)
	bin := withFailpoints(t)
	list := filepath.Join(t.TempDir(), "list")
	r := newChaos(t, "D1", daemon.Options{Bin: bin, Env: []string{"FAILPOINT_LIST=" + list}, Args: []string{"--log-size", "64KiB"}})
	x := r.newStormWith(2, func(x *storm) { x.length = 500 })
	s := r.newScene()
	h := &hunt{row: r, storm: x, list: list, hits: make(map[string]int)}
	total := 0
	for _, names := range points {
		total += len(names)
	}
	safe := func(program string) (names []string) {
		for _, name := range points[program] {
			if !slices.Contains(fatal, name) && !strings.HasSuffix(name, shed) {
				names = append(names, name)
			}
		}
		return names
	}
	h.kill(programFront, safe(programFront), func() { r.d.Kill(syscall.SIGKILL) })
	keeper := func() {
		r.survives(anyKeeper)
		r.d.KillKeeper(syscall.SIGKILL)
	}
	h.kill(programKeeper, safe(programKeeper), keeper)
	h.kill(programSpawner, safe(programSpawner), keeper)
	x.mayLose.Store(true)
	h.killBoth()
	x.end()
	h.kill(programFront, []string{"inbox" + shed, "outbox" + shed}, func() { r.d.Kill(syscall.SIGKILL) })
	s.end()
	hit := 0
	for _, names := range points {
		for _, name := range names {
			if h.hits[name] > 0 {
				hit++
				continue
			}
			t.Errorf("nobody was killed at %s", name)
		}
	}
	r.note("kills=%d names_hit=%d names_total=%d", len(x.kills), hit, total)
	if total < 25 {
		t.Errorf("there are %d failpoints", total)
	}
	r.finish()
}

// A hunt has programs killed at failpoints.
type hunt struct {
	row   *row
	storm *storm
	list  string
	hits  map[string]int
}

// stall is after what time a name that nobody comes to is left for later.
func stall() time.Duration { return dosed(2*time.Second, 6*time.Second, 6*time.Second) }

// kill has a program killed at each of the names. strike kills it, so that the
// next one takes the first of them.
func (h *hunt) kill(program string, names []string, strike func()) {
	left := slices.Clone(names)
	for round := 0; len(left) > 0 && round < 8 && !h.row.t.Failed(); round++ {
		var lines []string
		for _, name := range left {
			if first := after[name]; first != "" {
				lines = append(lines, program+":"+first+"=kill")
			}
			lines = append(lines, program+":"+name+"=kill")
		}
		h.work(program, lines, strike)
		left = slices.DeleteFunc(left, func(name string) bool { return h.hits[name] > 0 })
	}
}

// work goes through the lines of a list.
func (h *hunt) work(program string, lines []string, strike func()) {
	if err := os.WriteFile(h.list, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		h.row.t.Error(err)
		return
	}
	strike()
	state, since := "", time.Now()
	done := 0
	for h.row.t.Context().Err() == nil && !h.row.t.Failed() {
		text, err := os.ReadFile(h.list)
		if err != nil {
			h.row.t.Error(err)
			return
		}
		hits := h.read()
		waiting := bytes.Count(text, []byte("="))
		// The one that is armed is the last that was taken.
		armed := ""
		if n := len(lines) - waiting; n > 0 {
			armed, _, _ = strings.Cut(strings.TrimPrefix(lines[n-1], program+":"), "=")
		}
		if now := string(text) + strings.Join(hits, " "); now != state {
			if len(hits) > done {
				done = len(hits)
				h.storm.struck()
			}
			state, since = now, time.Now()
			if !slices.Contains(hits, armed) {
				h.provoke(armed)
			}
		}
		hit := len(hits) > 0 && hits[len(hits)-1] == armed
		if waiting == 0 && hit {
			break
		}
		if time.Since(since) > stall() {
			if waiting == 0 {
				break
			}
			strike()
			since = time.Now()
		}
		pause(h.row.t.Context(), 2*time.Millisecond)
	}
	for _, name := range h.read() {
		h.hits[name]++
	}
	if err := os.Remove(h.list + ".hit"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.row.t.Error(err)
	}
	if strings.HasSuffix(lines[0], shed+"=kill") {
		strike() // the last one has no descriptors
	}
	h.row.d.Revive()
	h.row.survives(anyKeeper)
}

// read returns the names that were hit since the list was begun, in order.
func (h *hunt) read() []string {
	text, _ := os.ReadFile(h.list + ".hit") // it may not be there yet
	return strings.Fields(string(text))
}

// provoke does what the scene cannot.
func (h *hunt) provoke(armed string) {
	switch {
	case strings.HasSuffix(armed, shed):
		h.row.d.Revive()
		h.scarce()
	case armed == "keeper.after-upload":
		h.row.survives(anyKeeper)
		if !slices.Contains(h.read(), armed) {
			h.row.d.KillKeeper(syscall.SIGKILL)
		}
	case armed == "custody.before-exec":
		h.row.survives(anyKeeper)
		h.row.d.KillKeeper(syscall.SIGHUP)
	case armed == "custody.after-exec":
		h.row.survives(anyKeeper)
		// The one that tries the new program takes a line too.
		line := programKeeper + ":" + armed + "=kill\n"
		if err := os.WriteFile(h.list, []byte(line+line), 0o600); err != nil {
			h.row.t.Error(err)
		}
		h.row.d.KillKeeper(syscall.SIGHUP)
	}
}

// scarce leaves the daemon no descriptor until it is started again.
func (h *hunt) scarce() {
	pid := h.row.d.PID()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil || len(open) == 0 {
		h.row.t.Logf("the daemon was killed before it could be made scarce: %v", err)
		return
	}
	limit := unix.Rlimit{Cur: uint64(len(open)), Max: 20000}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		h.row.t.Logf("prlimit: %v", err)
	}
}

// killBoth goes through the failpoints after which nobody has everything.
func (h *hunt) killBoth() {
	for _, name := range fatal {
		program := programKeeper
		if strings.HasPrefix(name, "keeper.") {
			program = programFront
		}
		for try := 0; h.hits[name] == 0 && try < 3 && !h.row.t.Failed(); try++ {
			if err := os.WriteFile(h.list, []byte(program+":"+name+"=kill\n"), 0o600); err != nil {
				h.row.t.Error(err)
				return
			}
			// One is killed, so that the next is armed, and then the other, so that it
			// comes there.
			h.storm.struck()
			if program == programKeeper {
				h.row.d.AwaitNextKeeper(h.row.d.KillKeeper(syscall.SIGKILL))
				h.row.survives(anyKeeper)
				h.row.d.Kill(syscall.SIGKILL)
			} else {
				h.row.d.Strike()
				h.row.d.KillKeeper(syscall.SIGKILL)
			}
			var once sync.Once
			await(func() bool {
				hit := slices.Contains(h.read(), name)
				once.Do(h.storm.struck)
				return hit
			})
			for _, hit := range h.read() {
				h.hits[hit]++
			}
			_ = os.Remove(h.list + ".hit")
			h.row.d.Revive()
			h.row.survives(anyKeeper)
		}
	}
}
