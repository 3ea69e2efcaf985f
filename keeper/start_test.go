package keeper_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
)

// beListing writes a line "NUMBER TARGET" for each descriptor it was started
// with. Those are not close-on-exec; what the Go runtime has opened since is.
func beListing([]string) {
	dir, err := unix.Open("/proc/self/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		fail("%v", err)
	}
	out := bufio.NewWriter(os.Stdout)
	for buf := make([]byte, 4096); ; {
		n, err := unix.ReadDirent(dir, buf)
		if err != nil {
			fail("%v", err)
		}
		if n == 0 {
			break
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			fd, err := strconv.Atoi(name)
			if err != nil {
				fail("%v", err)
			}
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
				fail("%v", err)
			} else if flags&unix.FD_CLOEXEC == 0 {
				_, _ = fmt.Fprintln(out, name, linkOf(name))
			}
		}
	}
	if err := out.Flush(); err != nil {
		fail("%v", err)
	}
}

// linkOf returns what descriptor name of this process is open on.
func linkOf(name string) string {
	link, err := os.Readlink("/proc/self/fd/" + name)
	if err != nil {
		return err.Error()
	}
	return link
}

// wantList returns what beListing writes for the descriptors given.
func wantList(files []keeper.File) map[int]string {
	want := make(map[int]string)
	for _, f := range files {
		want[f.FD] = os.DevNull
		if f.Source >= 0 {
			want[f.FD] = linkOf(strconv.Itoa(f.Source))
		}
	}
	return want
}

// listed runs a listing child with files, its stdout being a pipe, and returns
// what it has and what it should have.
func listed(k *front, spec keeper.Spec, files []keeper.File) (got, want map[int]string, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	r := os.NewFile(uintptr(p[0]), "pipe")
	defer func() { _ = r.Close() }()
	spec.Files = append([]keeper.File{{FD: 1, Source: p[1]}}, files...)
	want = wantList(spec.Files)
	child, err := k.Start(context.Background(), spec)
	_ = unix.Close(p[1])
	if err != nil {
		return nil, nil, err
	}
	got = make(map[int]string)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		number, target, _ := strings.Cut(lines.Text(), " ")
		fd, err := strconv.Atoi(number)
		if err != nil {
			return nil, nil, err
		}
		got[fd] = target
	}
	<-child.Done()
	if exit := child.Exit(); exit.Code != 0 {
		return nil, nil, fmt.Errorf("exit %+v", exit)
	}
	return got, want, lines.Err()
}

func TestChildHasExactlyTheDeclaredDescriptors(t *testing.T) {
	k := newKeeper(t)
	spec := behaviour(t, "list")
	var sources [6]int
	for i := range sources {
		sources[i] = newMemfd(t)
	}
	std := []keeper.File{{FD: 0, Source: -1}, {FD: 2, Source: 2}}
	for _, test := range []struct {
		name  string
		files []keeper.File
	}{
		{"standard streams only", nil},
		{"gaps stay closed", []keeper.File{{FD: 9, Source: sources[0]}, {FD: 40, Source: sources[1]}}},
		{"one source at several numbers", []keeper.File{{FD: 3, Source: sources[0]}, {FD: 4, Source: sources[0]}}},
		{"several null devices", []keeper.File{{FD: 3, Source: -1}, {FD: 5, Source: -1}}},
		{"source and target are the same number", []keeper.File{{FD: sources[2], Source: sources[2]}}},
		{"two swapped numbers", []keeper.File{
			{FD: sources[2], Source: sources[3]},
			{FD: sources[3], Source: sources[2]},
		}},
		{"a ring of numbers and one that stays", []keeper.File{
			{FD: sources[0], Source: sources[1]},
			{FD: sources[1], Source: sources[2]},
			{FD: sources[2], Source: sources[0]},
			{FD: sources[4], Source: sources[4]},
		}},
		{"the highest number", []keeper.File{{FD: keeper.MaxFD, Source: sources[0]}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, want, err := listed(k, spec, append(test.files, std...))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("descriptors of the child (-want +got):\n%s", diff)
			}
		})
	}
}

// newMemfd returns a descriptor that is not like any other.
func newMemfd(t *testing.T) int {
	t.Helper()
	fd, err := unix.MemfdCreate(t.Name(), unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func TestStandardStreamsThatAreNotDeclaredAreClosed(t *testing.T) {
	k := newKeeper(t)
	r, w := pipe(t)
	in, inW := blockingPipe(t)
	defer closeFD(t, in)
	defer closeFD(t, inW)
	// The Go runtime would open them again, cat does not.
	p := start(t, k, keeper.Spec{
		Path:  "/bin/cat",
		Args:  []string{"cat", "/proc/self/fd/7"},
		Files: []keeper.File{{FD: 1, Source: w}, {FD: 7, Source: in}},
	})
	closeFD(t, w)
	if _, err := unix.Write(inW, []byte("running\n")); err != nil {
		t.Fatal(err)
	}
	readLine(t, r)
	fds, err := numericNames(fmt.Sprintf("/proc/%d/fd", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	// 0 is what cat itself has opened.
	if diff := cmp.Diff([]int{0, 1, 7}, fds); diff != "" {
		t.Errorf("descriptors of the child (-want +got):\n%s", diff)
	}
}

func TestDescriptorsStayExactWhileSpawnsRace(t *testing.T) {
	k := newKeeper(t)
	spec := behaviour(t, "list")
	const spawners, spawns = 4, 50
	ctx, stop := context.WithCancel(t.Context())
	var openers, starters sync.WaitGroup
	for range 2 {
		openers.Go(func() { openAndClose(ctx, t) })
	}
	for range spawners {
		starters.Go(func() {
			source := newMemfd(t)
			files := []keeper.File{{FD: 0, Source: -1}, {FD: 2, Source: 2}, {FD: 3, Source: source}, {FD: 6, Source: source}}
			for range spawns {
				got, want, err := listed(k, spec, files)
				if err != nil {
					t.Error(err)
					return
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("descriptors of the child (-want +got):\n%s", diff)
					return
				}
			}
		})
	}
	starters.Wait()
	stop()
	openers.Wait()
}

// openAndClose keeps opening descriptors of many kinds until ctx is done.
func openAndClose(ctx context.Context, t *testing.T) {
	for ctx.Err() == nil {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			t.Error(err)
			return
		}
		s, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Error(err)
			return
		}
		_ = f.Close()
		for _, fd := range []int{p[0], p[1], s[0], s[1]} {
			_ = unix.Close(fd)
		}
	}
}

func TestSourcesKeepTheirFlags(t *testing.T) {
	k := newKeeper(t)
	r, w := pipe(t)
	defer func() { _ = unix.Close(w) }()
	conn, err := r.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	flags := func(fd int) [2]int {
		status, err1 := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		own, err2 := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return [2]int{status, own}
	}
	if err := conn.Control(func(fd uintptr) {
		reader, writer := flags(int(fd)), flags(w)
		spec := program("/bin/true")
		spec.Files = []keeper.File{{FD: 0, Source: int(fd)}, {FD: 1, Source: w}, {FD: w, Source: w}}
		waitDone(t, start(t, k, spec))
		if got := flags(int(fd)); got != reader {
			t.Errorf("flags of the reader %#x, were %#x", got, reader)
		}
		if got := flags(w); got != writer {
			t.Errorf("flags of the writer %#x, were %#x", got, writer)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

func TestEnvironmentIsExact(t *testing.T) {
	t.Setenv("PIPED_CANARY", "sings")
	k := newKeeper(t)
	for _, env := range [][]string{nil, {"A=1", "EMPTY=", "no equals sign", "A=2"}} {
		spec := program("/bin/cat", "/proc/self/environ")
		spec.Env = env
		got, exit := output(t, k, spec)
		if exit.Code != 0 {
			t.Fatalf("exit %+v", exit)
		}
		want := strings.Join(env, "\x00")
		if len(env) > 0 {
			want += "\x00"
		}
		if got != want {
			t.Errorf("environment %q, want %q", got, want)
		}
	}
}

func TestWorkingDirectory(t *testing.T) {
	k := newKeeper(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for given, want := range map[string]string{dir: dir, "": "/"} {
		spec := program("/bin/pwd")
		spec.Dir = given
		if got, _ := output(t, k, spec); got != want+"\n" {
			t.Errorf("started in %q: runs in %q, want %q", given, got, want)
		}
	}
}

func TestChildLeadsItsOwnSession(t *testing.T) {
	k := newKeeper(t)
	in, w := blockingPipe(t)
	defer closeFD(t, in)
	defer closeFD(t, w)
	spec := behaviour(t, "block")
	spec.Files = []keeper.File{{FD: 0, Source: in}}
	p := start(t, k, spec)
	sid, err := unix.Getsid(p.Pid())
	if err != nil {
		t.Fatal(err)
	}
	if sid != p.Pid() {
		t.Errorf("session %d of process %d", sid, p.Pid())
	}
}

// writeFile writes an executable file and returns its path.
func writeFile(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStartThatFailsSaysWhyAndLeavesNothing(t *testing.T) {
	k := newKeeper(t)
	dir := t.TempDir()
	plain := writeFile(t, "plain", "#!/bin/sh\n", 0o644)
	ok := program("/bin/true")
	with := func(change func(*keeper.Spec)) keeper.Spec {
		spec := ok
		change(&spec)
		return spec
	}
	for _, test := range []struct {
		name string
		spec keeper.Spec
		step string
		want error
	}{
		{"no program", program(dir + "/none"), "exec", keeper.ErrNotFound},
		{"a file instead of a directory on the way", program(plain + "/x"), "exec", keeper.ErrNotFound},
		{"not executable", program(plain), "exec", keeper.ErrNotExecutable},
		{"a directory", program(dir), "exec", keeper.ErrNotExecutable},
		{"no interpreter", program(writeFile(t, "script", "#!/no/such\n", 0o755)), "exec", keeper.ErrNotExecutable},
		{"no format", program(writeFile(t, "text", "just text", 0o755)), "exec", keeper.ErrNotExecutable},
		{"too many arguments", program("/bin/true", strings.Repeat("x", 1<<20)), "exec", keeper.ErrArguments},
		{"no directory", with(func(s *keeper.Spec) { s.Dir = dir + "/none" }), "chdir", keeper.ErrDirectory},
		{"a file as directory", with(func(s *keeper.Spec) { s.Dir = plain }), "chdir", keeper.ErrDirectory},
		{"relative directory", with(func(s *keeper.Spec) { s.Dir = "x" }), "check", keeper.ErrInvalid},
		{"relative program", program("true"), "check", keeper.ErrInvalid},
		{"no arguments", with(func(s *keeper.Spec) { s.Args = nil }), "check", keeper.ErrInvalid},
		{"zero byte in the environment", with(func(s *keeper.Spec) { s.Env = []string{"A=\x00"} }), "check", keeper.ErrInvalid},
		{"number twice", with(func(s *keeper.Spec) { s.Files = []keeper.File{{3, -1}, {3, -1}} }), "check", keeper.ErrInvalid},
		{"number too high", with(func(s *keeper.Spec) { s.Files = []keeper.File{{keeper.MaxFD + 1, -1}} }), "check", keeper.ErrInvalid},
		{"negative number", with(func(s *keeper.Spec) { s.Files = []keeper.File{{-1, -1}} }), "check", keeper.ErrInvalid},
		{"source that is not open", with(func(s *keeper.Spec) { s.Files = []keeper.File{{3, 9999}} }), "check", syscall.EBADF},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := openFDs()
			_, err := k.Start(t.Context(), test.spec)
			var spawnErr *keeper.SpawnError
			if !errors.As(err, &spawnErr) || spawnErr.Step != test.step || !errors.Is(err, test.want) {
				t.Errorf("error %v, want step %q and %v", err, test.step, test.want)
			}
			if after := openFDs(); len(after) != len(before) {
				t.Errorf("descriptors %v, were %v", after, before)
			}
			k.onlySpawner(t)
		})
	}
}

func TestStartAfterCancelAndAfterClose(t *testing.T) {
	k := newKeeper(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Start(ctx, program("/bin/true")); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want cancelled", err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Start(t.Context(), program("/bin/true")); !errors.Is(err, keeper.ErrClosed) {
		t.Errorf("error %v, want closed", err)
	}
	if _, err := k.Holders(t.Context(), nil); !errors.Is(err, keeper.ErrClosed) {
		t.Errorf("error %v, want closed", err)
	}
}
