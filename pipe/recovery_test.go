package pipe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// long says that the tests take the time that a proof takes.
var long = os.Getenv("EXACT") == "long"

// A crashRun is one pipe of a scene: the test is the keeper, which holds copies of
// the descriptors that it is given, and starts one daemon after another.
type crashRun struct {
	scene   crashScene
	seed    uint64
	mutant  string
	daemon  string // the program that plays the daemon
	words   *crashWords
	vault   *crashVault
	state   *os.File
	process *exec.Cmd
	report  bytes.Buffer
	stop    *os.File

	// failpoint is armed in the daemons that are started.
	failpoint string
	kills     int            // by the test
	deaths    map[string]int // by failpoint
}

// newCrashRun opens the pipe as a daemon does, and takes from it what a keeper
// holds.
func newCrashRun(t testing.TB, scene crashScene, seed uint64) *crashRun {
	t.Helper()
	r := &crashRun{scene: scene, seed: seed, daemon: os.Args[0], deaths: make(map[string]int), vault: &crashVault{files: make(map[Key]*os.File)}}
	t.Cleanup(r.close)
	poller := newTestPoller(t)
	control, err := NewControl(r.vault)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	spec := scene.spec()
	spec.Control, spec.Vault = control, r.vault
	one, two, err := Open(poller, spec)
	if err != nil {
		t.Fatal(err)
	}
	r.state = memory(t, "state")
	if err := r.state.Truncate(pageSize); err != nil {
		t.Fatal(err)
	}
	if r.words, err = newCrashWords(int(r.state.Fd())); err != nil {
		t.Fatal(err)
	}
	first := pack(Position{Message: 1})
	for _, w := range []*atomic.Uint64{r.words.tried, r.words.sent, r.words.had, r.words.acked} {
		w.Store(first)
	}
	r.vault.leave()
	k := one.kill() // before anything flows
	k.close()
	r.vault.back()
	r.startProcess(t, two)
	closeEnd(t, two, false)
	r.vault.leave()
	return r
}

// keep returns a copy of a descriptor.
func keep(t testing.TB, fd int) *os.File {
	t.Helper()
	return os.NewFile(uintptr(dup(t, fd)), "kept")
}

func memory(t testing.TB, name string) *os.File {
	t.Helper()
	fd, err := newMemfd(name)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), name)
}

func (r *crashRun) close() {
	if r.process != nil {
		_ = r.process.Process.Kill()
		_ = r.process.Wait()
	}
	for _, f := range []*os.File{r.state, r.stop} {
		if f != nil {
			_ = f.Close()
		}
	}
	r.vault.close()
	if r.words != nil {
		r.words.close()
	}
}

// command prepares a process that plays a role; files are its descriptors from 3
// on.
func (r *crashRun) command(role *crashRole, files ...*os.File) *exec.Cmd {
	program := os.Args[0]
	if role.Play == "daemon" {
		program = r.daemon
	}
	role.Scene, role.Seed = r.scene, r.seed
	text, err := json.Marshal(role)
	if err != nil {
		panic(err) // a struct of strings and numbers
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), crashEnv+"="+string(text), "GORACE=halt_on_error=1 atexit_sleep_ms=0")
	cmd.ExtraFiles = files
	return cmd
}

func (r *crashRun) startProcess(t testing.TB, two *Endpoint) {
	t.Helper()
	read, write := two.Descriptors()
	files := []*os.File{keep(t, read)}
	role := &crashRole{Play: "process", Read: 3, Write: 3, Stop: 4}
	if write != read {
		files = append(files, keep(t, write))
		role.Write, role.Stop = 4, 5
	}
	hear, stop, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.stop = stop
	files = append(files, hear)
	r.process = r.command(role, files...)
	r.process.Stdout, r.process.Stderr = &r.report, &r.report
	err = r.process.Start()
	for _, f := range files {
		_ = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A crashPlan is what becomes of one daemon.
type crashPlan struct {
	finish, verify bool
	// kill it so long after it was started, or after it said that it has recovered.
	kill, killReady time.Duration
}

// start runs one daemon, and reports whether it came to its own end.
func (r *crashRun) start(plan crashPlan) (ended bool, err error) {
	ready, said, err := os.Pipe()
	if err != nil {
		return false, err
	}
	defer ready.Close()
	near, far, err := vaultPair()
	if err != nil {
		return false, err
	}
	role := &crashRole{Play: "daemon", Finish: plan.finish, Verify: plan.verify, Mutant: r.mutant,
		State: 3, Ready: 4, Vault: 5, Kept: make(map[Key]int)}
	files := []*os.File{r.state, said, far}
	for _, key := range r.vault.keys() {
		role.Kept[key] = 3 + len(files)
		files = append(files, r.vault.files[key])
	}
	cmd := r.command(role, files...)
	if r.failpoint != "" {
		cmd.Env = append(cmd.Env, "FAILPOINT="+r.failpoint)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = cmd.Start()
	_, _ = said.Close(), far.Close()
	if err != nil {
		_ = near.Close()
		return false, err
	}
	served := make(chan struct{})
	defer func() { <-served }()
	go r.vault.serve(near, served)
	died := make(chan error, 1)
	go func() { died <- cmd.Wait() }()
	if plan.killReady > 0 {
		_, _ = io.ReadFull(ready, make([]byte, 1)) // or it died
	}
	return r.outcome(cmd, died, plan, &stderr)
}

// outcome kills the daemon when its time has come.
func (r *crashRun) outcome(cmd *exec.Cmd, died chan error, plan crashPlan, stderr *bytes.Buffer) (ended bool, err error) {
	patient := time.After(2 * patience)
	var timer <-chan time.Time
	if d := max(plan.kill, plan.killReady); d > 0 {
		timer = time.After(d)
	}
	killed := false
	for {
		select {
		case err = <-died:
		case <-timer:
			killed = true
			_ = cmd.Process.Kill()
			continue
		case <-patient:
			_ = cmd.Process.Signal(syscall.SIGQUIT)
			err = <-died
			return false, fmt.Errorf("the daemon does not come to an end (%w): flags %#x, sent %v, had %v\n%s", err, r.words.flags.Load(),
				unpack(r.words.sent.Load()), unpack(r.words.had.Load()), stderr)
		}
		break
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
		if killed {
			r.kills++
		} else {
			name, _, _ := strings.Cut(r.failpoint, "=")
			r.deaths[name]++
		}
		return false, nil
	}
	return false, fmt.Errorf("daemon: %w\n%s", err, stderr)
}

// random returns when to kill a daemon: while it starts and recovers, or while it
// works.
func random() crashPlan {
	if rand.IntN(4) == 0 {
		return crashPlan{kill: time.Duration(1+rand.IntN(12_000)) * time.Microsecond}
	}
	return crashPlan{killReady: time.Duration(1+rand.IntN(4000)) * time.Microsecond}
}

// play kills daemons until there were enough, and some more while the pipe comes
// to its end, and compares what everybody has seen.
func (r *crashRun) play(kills int, plan func() crashPlan) (err error) {
	defer func() {
		if err != nil && r.process != nil {
			_ = r.stop.Close()
			_ = r.process.Process.Kill()
			_ = r.process.Wait()
			r.process = nil
			err = fmt.Errorf("%w\nthe process says %q", err, r.report.String())
		}
	}()
	ended := false
	for i := 0; i < kills && !ended; i++ {
		if ended, err = r.start(plan()); err != nil {
			return err
		}
	}
	_ = r.stop.Close()
	for last := 3; !ended; last-- {
		p := plan()
		p.finish = true
		if r.failpoint != "" {
			p.killReady *= 20 // what is armed may lie at the very end
		}
		if last <= 0 {
			p.kill, p.killReady = 0, 0
			r.failpoint = ""
		}
		if ended, err = r.start(p); err != nil {
			return err
		}
	}
	return r.compare(plan)
}

// compare is after the end: daemons find everything as it was, and the process
// has seen what it should have.
func (r *crashRun) compare(plan func() crashPlan) error {
	for range 2 {
		p := plan()
		p.verify = true
		if _, err := r.start(p); err != nil {
			return fmt.Errorf("after the end: %w", err)
		}
	}
	r.failpoint = ""
	if ended, err := r.start(crashPlan{verify: true}); err != nil || !ended {
		return fmt.Errorf("after the end: %w", err)
	}
	if err := r.judgeVault(); err != nil {
		return err
	}
	r.vault.close()
	err := r.process.Wait()
	r.process = nil
	var report processReport
	if err == nil {
		err = json.Unmarshal(r.report.Bytes(), &report)
	}
	if err != nil {
		return fmt.Errorf("process: %w\n%s", err, r.report.String())
	}
	return r.judge(&report)
}

// judgeVault looks for copies that nobody has removed: whatever instant daemons
// were killed at, the next one knows what has to go.
func (r *crashRun) judgeVault() error {
	for _, key := range r.vault.keys() {
		if key == ControlKey {
			continue
		}
		slot, end, part, err := key.Split()
		switch descriptor := part == PartRead || part == PartWrite; {
		case err != nil:
			return err
		case slot != 0:
			return fmt.Errorf("the vault has part %d of end %d of pipe %d, which is closed", part, end, slot)
		case r.scene.Kind.IsTerminal() && key == masterKey(0) && !r.scene.Retire && !r.scene.Discard:
		case end == 2:
			return fmt.Errorf("the vault has part %d of end 2, which was handed over", part)
		case descriptor && r.scene.Retire:
			return fmt.Errorf("the vault has part %d of the end, which was retired", part)
		case r.scene.Shed:
			return fmt.Errorf("the vault has part %d of the end, whose logs were given back", part)
		case part == PartWrite && r.words.flags.Load()&closedSend != 0:
			return errors.New("the vault has what was closed for sending")
		case r.scene.Discard:
			return fmt.Errorf("the vault has part %d of the end, which is closed", part)
		}
	}
	return nil
}

func (r *crashRun) judge(report *processReport) error {
	w := r.words
	flags, given, had, out := w.flags.Load(), w.given.Load(), unpack(w.had.Load()), unpack(w.out.Load())
	switch {
	case flags&sawFinished == 0:
		return errors.New("it never ended")
	case r.scene.Discard && given != report.Read:
		return fmt.Errorf("%d bytes count as handed over, the process has read %d", given, report.Read)
	case r.scene.Discard:
		return nil
	case had.Message != report.Messages+1 || had.Offset != 0:
		return fmt.Errorf("received up to %v, the process has sent %d", had, report.Messages)
	case r.scene.Drop && w.skipped.Load() > w.dropped.Load():
		return fmt.Errorf("%d messages were skipped, %d dropped", w.skipped.Load(), w.dropped.Load())
	case r.scene.Leave && r.scene.Kind == Duplex && (flags&sawReset != 0) != (report.Unread > 0):
		return fmt.Errorf("the process has left %d bytes unread, the end was seen as %#x", report.Unread, flags)
	case r.scene.Leave:
		return nil
	case flags&sawReset != 0:
		return errors.New("the end was seen as a reset")
	case given != report.Read || !report.Whole:
		return fmt.Errorf("%d bytes were handed over, the process has read %d, to a message end %t", given, report.Read, report.Whole)
	case out.Offset != 0 || out.Before(unpack(w.sent.Load())):
		return fmt.Errorf("sent up to %v, the outbox ended at %v", unpack(w.sent.Load()), out)
	}
	return nil
}

// crashScenes are the pipes that are killed.
func crashScenes() []crashScene {
	const small, tail = 64 << 10, 10_000
	return []crashScene{
		{Name: "duplex-mp", Kind: Duplex, Framing: "mp", LogSize: small, TailSize: tail},
		{Name: "stdio-line", Kind: Stdio, Framing: "line", LogSize: small, TailSize: tail},
		{Name: "duplex-line-cr", Kind: Duplex, Framing: "line", StripCR: true, LogSize: small, Opens: true},
		{Name: "stdio-raw", Kind: Stdio, Framing: "raw", LogSize: 4 << 20, TailSize: 1 << 20},
		{Name: "duplex-raw-drop", Kind: Duplex, Framing: "raw", LogSize: small, Drop: true},
		{Name: "stdio-mp-drop", Kind: Stdio, Framing: "mp", LogSize: small, TailSize: tail, Drop: true},
		{Name: "duplex-mp-leave", Kind: Duplex, Framing: "mp", LogSize: small, TailSize: tail, Leave: true, Retire: true},
		{Name: "stdio-line-leave", Kind: Stdio, Framing: "line", LogSize: small, Leave: true, Retire: true},
		{Name: "duplex-line-shed", Kind: Duplex, Framing: "line", LogSize: small, Leave: true, Retire: true, Shed: true},
		{Name: "stdio-mp-shed", Kind: Stdio, Framing: "mp", LogSize: small, TailSize: tail, Leave: true, Retire: true, Shed: true},
		{Name: "terminal-out-line", Kind: TerminalOut, Framing: "line", LogSize: small, TailSize: tail},
		{Name: "terminal-raw-leave", Kind: Terminal, Framing: "raw", LogSize: small, Leave: true, Retire: true},
		{Name: "terminal-line-leave", Kind: Terminal, Framing: "line", LogSize: small, TailSize: tail, Leave: true},
		{Name: "duplex-mp-discard", Kind: Duplex, Framing: "mp", LogSize: small, Discard: true},
		{Name: "stdio-line-discard", Kind: Stdio, Framing: "line", LogSize: small, Discard: true},
	}
}

func TestNothingIsLostOrDoubledWhateverInstantTheDaemonIsKilledAt(t *testing.T) {
	if inMemory {
		return
	}
	kills := 500
	if long {
		kills = 10_000
	}
	scenes := crashScenes()
	for i, scene := range scenes {
		t.Run(scene.Name, func(t *testing.T) {
			t.Parallel()
			done, runs, steps := 0, 0, uint64(0)
			for done < kills/len(scenes) {
				each := 25
				if scene.Leave || scene.Discard {
					each = 3
				}
				r := newCrashRun(t, scene, uint64(time.Now().UnixNano())+uint64(i))
				if err := r.play(each, random); err != nil {
					t.Fatalf("seed %d, after %d kills: %v", r.seed, r.kills, err)
				}
				done, runs, steps = done+r.kills, runs+1, steps+r.words.kept.Load()
				if runs == 1 {
					t.Logf("had=%v sent=%v", unpack(r.words.had.Load()), unpack(r.words.sent.Load()))
				}
			}
			t.Logf("scene=%s runs=%d kills=%d journal_steps=%d violations=0", scene.Name, runs, done, steps)
		})
	}
}

func TestWrongOrderOfMovesIsFoundByKills(t *testing.T) {
	if inMemory {
		return
	}
	for _, mutant := range slices.Concat(portMutants, vaultMutants, []string{journalMutant}) {
		t.Run(mutant, func(t *testing.T) {
			t.Parallel()
			most, kills := 400, 0
			for kills < most {
				scene := crashScenes()[0]
				if mutant != "ignore-peek-offset" && rand.IntN(2) == 0 {
					scene = crashScenes()[1]
				}
				r := newCrashRun(t, scene, uint64(time.Now().UnixNano()))
				r.mutant = mutant
				err := r.play(20, random)
				kills += r.kills
				if err != nil {
					t.Logf("mutant=%s kills=%d found=%q", mutant, kills, strings.ReplaceAll(err.Error(), "\n", "; "))
					return
				}
			}
			t.Errorf("mutant %s was killed %d times and nobody noticed", mutant, kills)
		})
	}
}

// A resetPort is told of the reset when it sends, as the kernel may do.
type resetPort struct{ port }

func (resetPort) sendfile(int) (int, error) { return 0, unix.ECONNRESET }

func TestResetThatASendWasToldOfIsHowTheInboxEnds(t *testing.T) {
	if inMemory {
		return
	}
	poller := newTestPoller(t)
	spec := exactly(t, testSpec(Duplex, "mp", true))
	one, two, err := Open(poller, spec)
	if err != nil {
		t.Fatal(err)
	}
	p := takePeer(t, two)
	one.out.port = resetPort{one.out.port}
	if err := trySend(one, []byte("x")); !errors.Is(err, ErrBrokenPipe) {
		t.Errorf("sending: %v", err)
	}
	kept := Kept{Control: spec.Control, Ends: [2]KeptEnd{one.kill(), two.kill()}}
	p.close()
	one, two, err = Recover(poller, kept, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer closeEnd(t, two, true)
	defer closeEnd(t, one, true)
	poll(t, "the end", func() bool { return one.in.End() != nil })
	if got := one.in.End().Cause; got != CauseReset {
		t.Errorf("it ended as %v", got)
	}
}
