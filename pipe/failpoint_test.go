package pipe

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// failpointNames finds the failpoints in the source.
func failpointNames(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	call := regexp.MustCompile(`failpoint\.Hit\("([^"]+)"\)`)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllSubmatch(text, -1) {
			names = append(names, string(m[1]))
		}
	}
	slices.Sort(names)
	if len(names) == 0 {
		t.Fatal("there are no failpoints")
	}
	if again := slices.Compact(slices.Clone(names)); len(again) != len(names) {
		t.Fatalf("a failpoint has two places: %v", names)
	}
	return names
}

// buildWithFailpoints builds these tests once more, with failpoints.
func buildWithFailpoints(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "pipe.test")
	if out, err := exec.Command("go", "test", "-tags", "failpoints", "-c", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	return program
}

func TestWithFailpoints(t *testing.T) {
	if inMemory {
		return
	}
	program := buildWithFailpoints(t)
	t.Run("nothing is lost or doubled at any of them", func(t *testing.T) { testFailpoints(t, program) })
	t.Run("simulated kernel", func(t *testing.T) {
		t.Parallel()
		cmd := exec.Command(program, "-test.run=^TestSimulated", "-test.v")
		cmd.Env = append(os.Environ(), "PIPED_TEST_LOGS=memory") // once is enough
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "crash_points=") || !strings.Contains(string(out), "mutant=") {
			t.Fatalf("%v\n%s", err, out)
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "=") && !strings.HasPrefix(line, "===") {
				t.Log(strings.TrimSpace(line))
			}
		}
	})
}

func testFailpoints(t *testing.T, program string) {
	names, want := failpointNames(t), 2
	if long {
		want = 50
	}
	var hit atomic.Int64
	t.Run("names", func(t *testing.T) {
		for _, name := range names {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				if dieAt(t, name, program, want) >= want {
					hit.Add(1)
				}
			})
		}
	})
	t.Logf("names_hit=%d names_total=%d", hit.Load(), len(names))
	if int(hit.Load()) != len(names) {
		t.Error("some failpoints were not hit often enough")
	}
}

// failpointScenes are where the failpoints lie that not every pipe comes to.
var failpointScenes = []struct{ name, scene string }{
	{"control.", "duplex-line-cr"},
	{"journal.", "duplex-mp"},
	{"log.after-remove", "-discard"},
	{"inbox.after-shed", "-shed"},
	{"outbox.after-shed", "-shed"},
	{"inbox.after-splice", "stdio-"},
	{"inbox.after-drop", "-drop"},
	{"inbox.after-reset", "duplex-mp-leave"},
	{"inbox.after-close", "-discard"},
	{"inbox.after-free", "-discard"},
	{"inbox.after-end", "-leave"},
	{"outbox.after-break", "-leave"},
	{"outbox.after-closing", ""},
	{"outbox.after-discard", "-discard"},
	{"outbox.after-free", "-discard"},
	{"outbox.after-", ""},
	{"inbox.", "duplex-"},
	{"recover.", "duplex-"},
}

// dieAt lets daemons die at a failpoint in every scene that may come to it.
func dieAt(t *testing.T, name, program string, want int) (deaths int) {
	part := ""
	for _, f := range failpointScenes {
		if strings.HasPrefix(name, f.name) {
			part = f.scene
			break
		}
	}
	kills := 0
	for round := 0; deaths < want && round < 10*want; round++ {
		for _, scene := range crashScenes() {
			if deaths >= want || !strings.Contains(scene.Name, part) {
				continue
			}
			r := newCrashRun(t, scene, uint64(time.Now().UnixNano()))
			r.daemon = program
			starts := 0
			err := r.play(4, func() crashPlan {
				r.failpoint = fmt.Sprintf("%s=kill@%d", name, 1+rand.IntN(2)*rand.IntN(3))
				if starts++; starts%2 == 1 && strings.HasPrefix(name, "recover.") {
					// Then there is something to recover.
					r.failpoint = fmt.Sprintf("inbox.mid-consume=kill@%d", 1+rand.IntN(20))
				}
				return crashPlan{killReady: 10 * time.Millisecond}
			})
			if err != nil {
				t.Fatalf("scene=%s seed=%d, after %d deaths: %v", scene.Name, r.seed, deaths+r.deaths[name], err)
			}
			deaths, kills = deaths+r.deaths[name], kills+r.kills
		}
	}
	t.Logf("failpoint %s kills=%d other_kills=%d violations=0", name, deaths, kills)
	return deaths
}
