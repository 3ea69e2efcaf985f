package exact

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/piped-dev/piped/test/daemon"
)

// A change replaces a piece of the source, which is there exactly once.
type change struct{ file, old, new string }

// Between two steps a changed build waits, so that kills come there.
const (
	fillOld = `	in.filled(n, err)
	failpoint.Hit("inbox.after-commit")
	return in.consume(n)
`
	sendOld = `		moved, err := unix.Sendfile(p.d.fd(), p.file(), nil, n)
`
	commitOld = `		o.rec.head.Store(o.log.end)
`
	fenceOld = `			return // it may still be at work
`
)

// unhurried builds make the right moves with the same waiting as the wrong ones.
var unhurried = []change{
	{"pipe/fill.go", fillOld, `	in.filled(n, err)
	time.Sleep(time.Millisecond)
	return in.consume(n)
`},
	{"pipe/port.go", sendOld, sendOld + `		time.Sleep(time.Millisecond)
`},
	{"pipe/port.go", `	"sync"
`, `	"sync"
	"time"
`},
}

// mutants are builds that are wrong on purpose. Each works as long as nobody is
// killed.
var mutants = []struct {
	name    string
	changes []change
}{
	{"publish-after-consume", []change{{"pipe/fill.go", fillOld, `	if err == nil && n > 0 {
		if err := in.consume(n); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	in.filled(n, err)
	return nil
`}}},
	{"write-then-record", []change{{"pipe/port.go", sendOld, `		at, err := unix.Seek(p.file(), 0, unix.SEEK_CUR)
		if err != nil {
			return 0, err
		}
		b := make([]byte, min(n, 16<<10))
		if n, err = unix.Pread(p.file(), b, at); err != nil {
			return 0, err
		}
		moved, err := unix.Write(p.d.fd(), b[:n])
		if moved > 0 {
			time.Sleep(time.Millisecond)
			_, _ = unix.Seek(p.file(), at+int64(moved), unix.SEEK_SET)
		}
`}, unhurried[2]}},
	{"acknowledge-before-commit", []change{{"pipe/outbox.go", commitOld, `		end, head := o.log.end, o.rec.head
		time.AfterFunc(20*time.Millisecond, func() {
			for old := head.Load(); old < end && !head.CompareAndSwap(old, end); old = head.Load() {
			}
		})
`}}},
	{"no-fence", []change{{"keeper/custody/custody.go", fenceOld, `			c.log.Warn("no fence")
		}
		if f.peer != nil {
			f.peer.close()
`}}},
}

func TestD7BuildsThatAreWrongOnPurposeAreFound(t *testing.T) {
	parallel(t)
	// In the short form one of them, by turns.
	chosen := mutants
	if dosed(true, false, false) {
		turn := time.Now().YearDay() % len(mutants)
		chosen = mutants[turn : turn+1]
	}
	for _, m := range chosen {
		found := tryBuild(t, m.name, m.changes)
		fmt.Fprintf(os.Stdout, "D7 mutant=%s found=%t by=%q\n", m.name, found != "", found)
		if found == "" {
			t.Errorf("the build %s was not found to be wrong", m.name)
		}
	}
	if found := tryBuild(t, "slow", unhurried); found != "" {
		t.Errorf("the build that is slow and right: %s", found)
	}
	fmt.Fprintf(os.Stdout, "D7 mutants=%d of=%d and the same kills without them: zeros\n", len(chosen), len(mutants))
}

// tryBuild lets a changed build run in a storm of kills, and returns what was
// found wrong first.
func tryBuild(t *testing.T, name string, changes []change) string {
	t.Helper()
	bin := t.TempDir()
	programs := []string{programFront}
	if name == "no-fence" {
		programs = []string{programKeeper}
	}
	if err := daemon.BuildOnly(t.Context(), bin, programs, "-overlay", overlay(t, changes)); err != nil {
		t.Fatal(err)
	}
	w := &witness{TB: t}
	var verdict string
	w.watch(func() {
		r := newChaos(w, "D7/"+name, daemon.Options{Bin: bin, Args: []string{"--log-size", "256KiB"}})
		x := r.newStormWith(4, func(x *storm) { x.length, x.lasts = 500, 10*time.Second })
		if name == "no-fence" {
			await(func() bool { x.mu.Lock(); defer x.mu.Unlock(); return x.sessions >= 4 })
			if owners := r.rival(x, 0); owners > 0 {
				w.Errorf("two_owners=%d", owners)
			}
		} else {
			x.killAtRandom(dosed(4*time.Second, 15*time.Second, 30*time.Second), 60*time.Millisecond)
		}
		kills := len(x.kills)
		x.end()
		if r.v.faults() > 0 {
			w.Errorf("%d faults: %s", r.v.faults(), r.v.explain())
		}
		verdict = fmt.Sprintf("after %d kills: ", kills)
	})
	if first := w.first(); first != "" {
		line, _, _ := strings.Cut(first, "\n")
		return verdict + line
	}
	return ""
}

// overlay writes changed copies of files, and what go build needs to take them.
func overlay(t *testing.T, changes []change) string {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	texts := make(map[string]string)
	for _, c := range changes {
		path := filepath.Join(root, filepath.FromSlash(c.file))
		if texts[path] == "" {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			texts[path] = string(text)
		}
		if strings.Count(texts[path], c.old) != 1 {
			t.Fatalf("%s has no longer, once:\n%s", c.file, c.old)
		}
		texts[path] = strings.Replace(texts[path], c.old, c.new, 1)
	}
	replace := make(map[string]string)
	for path, text := range texts {
		changed := filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[path] = changed
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, list, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A witness stands in for a test whose failure is wanted.
type witness struct {
	testing.TB

	mu       sync.Mutex
	errors   []string
	cleanups []func()
}

// watch calls f, which may end with Fatal, and then what it wants to be cleaned
// up.
func (w *witness) watch(f func()) {
	contained(f)
	for {
		w.mu.Lock()
		n := len(w.cleanups)
		if n == 0 {
			w.mu.Unlock()
			return
		}
		last := w.cleanups[n-1]
		w.cleanups = w.cleanups[:n-1]
		w.mu.Unlock()
		contained(last)
	}
}

// contained calls f where it may end its goroutine.
func contained(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

func (w *witness) first() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errors) == 0 {
		return ""
	}
	return w.errors[0]
}

func (w *witness) add(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errors = append(w.errors, text)
}

func (w *witness) Helper()                           {}
func (w *witness) Log(...any)                        {}
func (w *witness) Logf(string, ...any)               {}
func (w *witness) Failed() bool                      { return w.first() != "" }
func (w *witness) Error(args ...any)                 { w.add(fmt.Sprintln(args...)) }
func (w *witness) Errorf(format string, args ...any) { w.add(fmt.Sprintf(format, args...)) }

func (w *witness) Fatal(args ...any) {
	w.Error(args...)
	runtime.Goexit()
}

func (w *witness) Fatalf(format string, args ...any) {
	w.Errorf(format, args...)
	runtime.Goexit()
}

func (w *witness) Cleanup(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cleanups = append(w.cleanups, f)
}
