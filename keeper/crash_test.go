package keeper_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/keepertest"
)

// markVariable marks all processes that a worker starts, so that none is overlooked.
const markVariable = "PIPED_TEST_MARK"

// A worker's descriptors and processes, by the keys in its account.
const (
	workerFiles = 6  // keys 1 to this
	longKey     = 50 // a process that runs until it gets a signal
	exitKeys    = 60 // processes that exit with their key
)

// beWorker is a front that goes through everything, and says before and after each step what it does. args are the socket, the mark, and what it
// does to its keeper in the middle: nothing, "upgrade" or "kill".
func beWorker(args []string) {
	ctx := context.Background()
	self, err := os.Executable()
	if err != nil {
		fail("%v", err)
	}
	say("begin connect")
	link, _, err := keeper.Connect(ctx, keeper.Options{Socket: args[0], Program: self}, nil)
	if err != nil {
		fail("%v", err)
	}
	account, err := link.Enter(keeper.UID{1}, "worker")
	if err != nil {
		fail("%v", err)
	}
	say("end connect")
	log, err := unix.MemfdCreate("log", unix.MFD_CLOEXEC)
	if err != nil {
		fail("%v", err)
	}
	w := &worker{link: link, account: account, mark: args[1], log: log, mode: args[2]}
	for round := range 2 {
		w.round(ctx, uint32(round))
	}
	say("end all")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func say(what string) { _, _ = fmt.Fprintln(os.Stdout, what) }

type worker struct {
	link    *keeper.Link
	account *keeper.Account
	mark    string
	mode    string
	log     int
}

// step does something that has to work.
func (w *worker) step(what string, do func() error) {
	say("begin " + what)
	if err := do(); err != nil {
		fail("%s: %v", what, err)
	}
	say("end " + what)
}

func (w *worker) start(ctx context.Context, key uint32, script string) keeper.Process {
	spec := program("/bin/sh", "-c", script)
	spec.Env = append(spec.Env, markVariable+"="+w.mark)
	say(fmt.Sprintf("begin start %d", key))
	p, err := w.account.Start(ctx, key, spec)
	if errors.Is(err, keeper.ErrUncertain) {
		say(fmt.Sprintf("uncertain start %d", key))
		return nil
	}
	if spawn := new(keeper.SpawnError); errors.As(err, &spawn) && spawn.Step == "fork" { // the spawner was killed
		say(fmt.Sprintf("uncertain start %d", key))
		return nil
	}
	if err != nil {
		fail("start %d: %v", key, err)
	}
	say(fmt.Sprintf("end start %d %d", key, p.Pid()))
	return p
}

// round goes through everything once.
func (w *worker) round(ctx context.Context, round uint32) {
	for key := 1 + 3*round; key < 1+3*round+workerFiles/2; key++ {
		w.step(fmt.Sprintf("put %d", key), func() error { return w.account.Put(keeper.Item{Key: key, FD: w.log}) })
	}
	long := w.start(ctx, longKey+round, "exec sleep 1000")
	for key := exitKeys + 3*round; key < exitKeys+3*round+3; key++ {
		if p := w.start(ctx, key, fmt.Sprintf("exit %d", key)); p != nil && key%3 != 0 {
			<-p.Done()
			if exit := p.Exit(); exit.Code != int(key) && !exit.Unknown {
				fail("exit of %d: %+v", key, exit)
			}
			if key%3 == 1 {
				w.step(fmt.Sprintf("forget %d", key), func() error { w.account.Forget(key); return nil })
			}
		}
	}
	w.step(fmt.Sprintf("remove %d", 1+3*round), func() error { w.account.Remove(1 + 3*round); return nil })
	if long != nil && round == 0 {
		w.step("kill", func() error {
			err := long.Signal(unix.SIGTERM)
			if errors.Is(err, keeper.ErrExited) { // it was sent again
				return nil
			}
			return err
		})
		<-long.Done()
	}
	w.step(fmt.Sprintf("drop %d", round), func() error {
		other, err := w.link.Enter(keeper.UID{2}, "other")
		if err != nil {
			return err
		}
		if err := other.Put(keeper.Item{Key: 1, FD: w.log}); err != nil {
			return err
		}
		other.Leave()
		return nil
	})
	sig, pid := map[string]syscall.Signal{"upgrade": unix.SIGHUP, "kill": unix.SIGKILL}[w.mode], w.link.Info().Pid
	if round == 0 && sig != 0 && pid != 0 {
		_ = unix.Kill(pid, sig)
		// It dies, of the signal or at a failpoint on its way to another program.
		for tick := time.NewTicker(time.Millisecond); w.link.Info().Restarts == 0; {
			<-tick.C
		}
	}
}

// outcome is what a worker has said.
type outcome struct {
	ended map[string]string // what was done, and what came of it
	begun string            // what was begun and not ended
}

func read(text string) outcome {
	o := outcome{ended: make(map[string]string)}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		what := strings.Join(words[1:min(len(words), 3)], " ")
		switch words[0] {
		case "begin":
			o.begun = what
		case "end":
			o.ended[what], o.begun = strings.Join(words[min(len(words), 3):], " "), ""
		case "uncertain":
			o.begun = ""
		}
	}
	return o
}

// check compares the estate with what the worker has said.
func (o outcome) check(t *testing.T, s *keeper.Remains) {
	t.Helper()
	for key := range uint32(workerFiles + 1) {
		put, removed := fmt.Sprintf("put %d", key), fmt.Sprintf("remove %d", key)
		_, wasPut := o.ended[put]
		_, wasRemoved := o.ended[removed]
		if _, there := s.Files[key]; o.begun != put && o.begun != removed && there != (wasPut && !wasRemoved) {
			t.Errorf("descriptor %d is there: %t; put: %t, removed: %t", key, there, wasPut, wasRemoved)
		}
	}
	for key := range uint32(100) {
		started, forgotten := fmt.Sprintf("start %d", key), fmt.Sprintf("forget %d", key)
		pid, wasStarted := o.ended[started]
		_, wasForgotten := o.ended[forgotten]
		p, there := s.Processes[key]
		if o.begun == started || o.begun == forgotten {
			continue
		}
		if there != (wasStarted && !wasForgotten) {
			t.Errorf("process %d is there: %t; started: %t, forgotten: %t", key, there, wasStarted, wasForgotten)
			continue
		}
		if there && strconv.Itoa(p.Pid()) != pid {
			t.Errorf("process %d has pid %d, had %s", key, p.Pid(), pid)
		}
		if there && key >= exitKeys {
			if exit := waitDone(t, p); exit.Code != int(key) && !exit.Unknown {
				t.Errorf("process %d has exit %+v", key, exit)
			}
		}
	}
}

// marked returns the processes that have the mark and run.
func marked(mark string) (pids []int) {
	all, _ := numericNames("/proc")
	for _, pid := range all {
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if bytes.Contains(env, []byte(markVariable+"="+mark+"\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestKilledAt is run by TestNothingIsLostWithKillsAtFailpoints, with the name of a failpoint in the variable.
func TestKilledAt(t *testing.T) {
	name := os.Getenv("PIPED_TEST_KILL")
	if name == "" {
		t.Skip("it is run by another test")
	}
	o := keepertest.Options(t)
	list := filepath.Join(t.TempDir(), "list")
	mode, before := "", ""
	switch {
	case strings.Contains(name, "-exec"):
		mode = "upgrade"
	case strings.Contains(name, "upload"), strings.Contains(name, "loss"):
		mode = "kill"
	}
	if strings.Contains(name, "after-exec") {
		before = "piped-keeper:none.none=kill\n" // for the program before the upgrade
	}
	if err := os.WriteFile(list, []byte(before+name+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := behaviour(t, "worker", o.Socket, t.Name()+name, mode)
	// All processes have it, also the keeper that this one may start.
	t.Setenv("FAILPOINT_LIST", list)
	spec.Env = append(spec.Env, "FAILPOINT_LIST="+list)
	in, inW := blockingPipe(t)
	out, outW := pipe(t)
	pid, err := syscall.ForkExec(spec.Path, append([]string{"worker"}, spec.Args[1:]...), &syscall.ProcAttr{
		Env: spec.Env, Files: []uintptr{uintptr(in), uintptr(outW), 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	closeFD(t, in)
	closeFD(t, outW)
	text := ""
	for buf := make([]byte, 4096); !strings.Contains(text, "end all\n"); {
		n, err := out.Read(buf)
		text += string(buf[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v after %q", err, text)
		}
	}
	_ = unix.Kill(pid, unix.SIGKILL)
	_, _ = syscall.Wait4(pid, nil, 0, nil)
	closeFD(t, inW)

	_, estate := connect(t, o, nil)
	o2 := read(text)
	running := make(map[int]bool)
	for _, s := range estate.Sessions {
		if s.UID == (keeper.UID{1}) {
			o2.check(t, s)
		} else if !strings.HasPrefix(o2.begun, "drop") {
			t.Errorf("a session that was dropped: %+v", s)
		}
		for _, p := range s.Processes {
			select {
			case <-p.Done():
			default:
				running[p.Pid()] = true
			}
		}
	}
	_, entered := o2.ended["connect"]
	_, bare, _ := strings.Cut(strings.TrimSuffix(name, "=kill"), ":")
	switch lost := len(estate.Lost) > 0; {
	case lost && !slices.Contains(lossy, bare):
		t.Errorf("lost: %+v", estate.Lost)
	case !lost && entered && len(estate.Sessions) == 0:
		t.Errorf("nothing is there, and nothing was lost")
	}
	eventually(t, "no process runs that nobody knows", func() bool {
		return !slices.ContainsFunc(marked(t.Name()+name), func(pid int) bool { return !running[pid] })
	})
	hits, _ := os.ReadFile(list + ".hit")
	t.Logf("HIT %s", strings.Join(strings.Fields(string(hits)), " "))
}

// lossy are the failpoints at which one of the two dies while the other one is dead, too, or has not been told everything.
var lossy = []string{
	"custody.front-gone", "custody.before-front", "custody.before-serve",
	"keeper.after-loss", "keeper.before-upload", "keeper.mid-upload",
}

// hitPattern finds failpoints in the source.
var hitPattern = regexp.MustCompile(`failpoint\.Hit\("([a-z-]+\.[a-z-]+)"\)`)

func TestNothingIsLostWithKillsAtFailpoints(t *testing.T) {
	behaviour(t, "worker")
	if os.Getenv("PIPED_TEST_KILL") != "" {
		t.Skip("it runs this one")
	}
	var names []string
	for _, pattern := range []string{"*.go", "*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, match := range hitPattern.FindAllSubmatch(text, -1) {
				names = append(names, string(match[1]))
			}
		}
	}
	if len(names) < 20 {
		t.Fatalf("failpoints %q", names)
	}
	binary := filepath.Join(t.TempDir(), "keeper.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "failpoints", "-o", binary, ".")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	hit := 0
	for _, name := range names {
		program := "worker"
		switch area, _, _ := strings.Cut(name, "."); area {
		case "custody", "registry":
			program = "piped-keeper"
		case "spawner":
			program = "piped-spawner"
		}
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			run := exec.CommandContext(ctx, binary, "-test.run=^TestKilledAt$", "-test.v")
			run.Env = append(os.Environ(), "PIPED_TEST_KILL="+program+":"+name+"=kill")
			run.WaitDelay = 5 * time.Second
			text, err := run.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if bytes.Contains(text, []byte("HIT "+name)) {
				hit++
			} else {
				t.Errorf("it was not come to:\n%s", text)
			}
		})
	}
	t.Logf("failpoints: %d, hit: %d", len(names), hit)
}
