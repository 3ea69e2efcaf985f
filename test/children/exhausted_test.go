package children

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// A shortage is something that one of the three processes cannot have.
type shortage struct {
	who, calls, how string
	// reason is why no session can be created meanwhile.
	reason client.Reason
	// process is what is asked for; nil: cat with its streams on pipes.
	process *pipedv1.ProcessSpec
	// records says that sessions that are there cannot take messages either, because
	// a new sender is put on record; they say the same reason.
	records bool
}

// wanted is the process that is asked for.
func (s shortage) wanted() *pipedv1.ProcessSpec {
	if s.process == nil {
		return cat()
	}
	return s.process
}

// cat returns what it is sent.
func cat() *pipedv1.ProcessSpec { return &pipedv1.ProcessSpec{Args: []string{"/bin/cat"}} }

// pid returns the process that who names.
func (h *host) pid(who string) int {
	switch who {
	case "front":
		return h.PID()
	case "keeper":
		return h.KeeperPID()
	}
	return spawnerOf(h.KeeperPID())
}

// echo sends one message through a session of cat and waits until it is back.
func (h *host) echo(ctx context.Context, session string) error {
	if err := h.c.Endpoint(client.Ref{Session: session}).Send(ctx, []byte("there and back")); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return h.hear(ctx, session)
}

// hear waits for the message of echo.
func (h *host) hear(ctx context.Context, session string) error {
	r, err := h.c.Endpoint(client.Ref{Session: session}).NewReader(ctx, client.ReaderOptions{})
	if err != nil {
		return err
	}
	m, err := r.Next(ctx)
	if err == nil && string(m.Data) != "there and back" {
		err = fmt.Errorf("%q came back", m.Data)
	}
	if err == nil {
		err = r.Ack(m.After)
	}
	return errors.Join(err, r.Close(ctx))
}

// patient is for calls that must not take longer than the patience of a test.
func patient(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), 2*patience)
}

// steady creates a session that is to go on whatever is refused.
func (h *host) steady(name string) {
	h.t.Helper()
	ctx, cancel := patient(h.t)
	defer cancel()
	if _, err := h.c.Create(ctx, &pipedv1.CreateSessionRequest{Name: name, Process: cat()}); err != nil {
		h.t.Fatal(err)
	}
	if err := h.echo(ctx, name); err != nil {
		h.t.Fatal(err)
	}
}

// ready creates the session "steady", and returns what there is beside others that
// have come and gone.
func (h *host) ready() usage {
	h.t.Helper()
	h.steady("steady")
	const much = 1 << 20
	h.relieved("at the beginning", cat(), usage{much, much, much, 1})
	return h.use()
}

// refused tries to create a session while something is short, and looks that the
// others go on.
func (h *host) refused(what string, s shortage) {
	h.t.Helper()
	ctx, cancel := patient(h.t)
	defer cancel()
	if name, err := h.create(ctx, s.wanted()); !errors.Is(err, s.reason) {
		h.t.Errorf("%s: session %q, %v; want %s", what, name, err, s.reason)
	}
	if err := h.echo(ctx, "steady"); err != nil && (!s.records || !errors.Is(err, s.reason)) {
		h.t.Errorf("%s: a session that was there: %v", what, err)
	}
}

// relieved creates and ends a session as when nothing was short, and looks that
// nothing is left.
func (h *host) relieved(what string, process *pipedv1.ProcessSpec, before usage) {
	h.t.Helper()
	ctx, cancel := patient(h.t)
	defer cancel()
	name, err := h.create(ctx, process)
	if err == nil {
		err = errors.Join(h.echo(ctx, "steady"), h.c.Delete(ctx, name, true))
	}
	if err != nil {
		h.t.Errorf("%s, when there is enough again: %v", what, err)
	}
	h.wantNoMore(before)
}

func TestR1RefusalsOfTheKernelHaveNamesAndPass(t *testing.T) {
	mayTrace(t)
	h := start(t, daemon.Options{})
	before := h.ready()
	nice := cat()
	nice.Nice = new(int32(1)) // takes a stage
	injected := 0
	list := []shortage{
		{who: "spawner", calls: "clone,clone3,vfork,fork", how: "error=EAGAIN", reason: client.ErrProcessLimit},
		{who: "spawner", calls: "clone,clone3,vfork,fork", how: "error=ENOMEM", reason: client.ErrMemoryLimit},
		{who: "spawner", calls: "execve", how: "error=ENOMEM", reason: client.ErrMemoryLimit},
		{who: "spawner", calls: "openat", how: "error=ENFILE", reason: client.ErrDescriptorLimit, process: quiet(cat())},
		{who: "spawner", calls: "pipe2", how: "error=ENFILE", reason: client.ErrDescriptorLimit, process: nice},
		{who: "keeper", calls: "epoll_ctl", how: "error=ENOMEM", reason: client.ErrMemoryLimit},
		{who: "front", calls: "memfd_create", how: "error=ENFILE", reason: client.ErrDescriptorLimit},
		{who: "front", calls: "memfd_create", how: "error=ENOMEM", reason: client.ErrMemoryLimit},
		{who: "front", calls: "pipe2", how: "error=ENFILE", reason: client.ErrDescriptorLimit},
		{who: "front", calls: "fcntl", how: "error=EMFILE", reason: client.ErrDescriptorLimit},
		{who: "front", calls: "fallocate", how: "error=ENOSPC", reason: client.ErrLogSpace},
		{who: "front", calls: "fallocate", how: "error=ENOMEM", reason: client.ErrLogSpace},
		{who: "front", calls: "pwrite64", how: "error=ENOSPC", reason: client.ErrLogSpace, records: true},
		{who: "front", calls: "pwrite64", how: "error=EIO", reason: client.ErrLogSpace, records: true},
	}
	for _, s := range list {
		what := fmt.Sprintf("%s of the %s with %s", s.calls, s.who, s.how)
		i := inject(t, h.pid(s.who), s.calls, s.how)
		h.refused(what, s)
		n := i.relieve()
		if n == 0 {
			t.Errorf("%s: nothing was refused", what)
		}
		injected += n
		h.relieved(what, s.wanted(), before)
	}
	say("R1", "refusals: kinds=%d injected=%d named=%d left=0", len(list), injected, len(list))
}

func TestR1BytesWaitUntilTheKernelTakesThemAgain(t *testing.T) {
	mayTrace(t)
	h := start(t, daemon.Options{})
	list := []shortage{
		{who: "front", calls: "sendfile", how: "error=ENOMEM"},
		{who: "front", calls: "sendfile", how: "error=ENOBUFS"},
		{who: "front", calls: "splice", how: "error=ENOMEM"},
		{who: "front", calls: "splice", how: "error=ENOSPC"},
	}
	for n, s := range list {
		ctx, cancel := patient(t)
		name := fmt.Sprint("flow-", n)
		h.steady(name)
		what := s.calls + " with " + s.how
		i := inject(t, h.pid(s.who), s.calls, s.how)
		if err := h.c.Endpoint(client.Ref{Session: name}).Send(ctx, []byte("there and back")); err != nil {
			t.Errorf("%s: %v, and it was to be accepted", what, err)
		}
		if !await(func() bool { return i.count() > 1 }) {
			t.Errorf("%s: it is not tried again", what)
		}
		i.relieve()
		if err := h.hear(ctx, name); err != nil {
			t.Errorf("%s, when there is memory again: %v", what, err)
		}
		cancel()
	}
	say("R1", "moves: kinds=%d lost=0", len(list))
}

// limited sets the soft limit of descriptors of a process to what it has and some
// more, and returns what sets it back.
func (h *host) limited(pid, more int) (relieve func()) {
	h.t.Helper()
	var was unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &was); err != nil {
		h.t.Fatal(err)
	}
	now := unix.Rlimit{Cur: uint64(descriptors(pid) + more), Max: was.Max}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &now, nil); err != nil {
		h.t.Fatal(err)
	}
	return func() {
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &was, nil); err != nil {
			h.t.Fatal(err)
		}
	}
}

func TestR1LimitsOfDescriptorsHaveANameAndPass(t *testing.T) {
	h := start(t, daemon.Options{})
	before := h.ready()
	tries := 0
	for _, who := range []string{"front", "keeper", "spawner"} {
		for more := range 8 { // wherever in the way it runs out
			relieve := h.limited(h.pid(who), more)
			ctx, cancel := patient(t)
			name, err := h.create(ctx, cat())
			relieve()
			switch {
			case err == nil:
				err = h.c.Delete(ctx, name, true)
			case errors.Is(err, client.ErrDescriptorLimit):
				tries, err = tries+1, nil
			}
			if err != nil {
				t.Errorf("%s with %d more descriptors: %v; want %s", who, more, err, client.ErrDescriptorLimit)
			}
			if err := h.echo(ctx, "steady"); err != nil {
				t.Errorf("%s with %d more descriptors: a session that was there: %v", who, more, err)
			}
			cancel()
			h.relieved(who, cat(), before)
		}
	}
	say("R1", "emfile: processes=3 refused=%d left=0", tries)
	if tries == 0 {
		t.Error("nothing was refused")
	}
}

// pids is where the kernel counts processes of control groups, version 1.
const pids = "/sys/fs/cgroup/pids"

func TestR1LimitOfProcessesHasANameAndPasses(t *testing.T) {
	if _, err := os.Stat(pids + "/cgroup.procs"); err != nil || os.Geteuid() != 0 {
		t.Skipf("there is no %s that may be written to", pids)
	}
	h := start(t, daemon.Options{})
	before := h.ready()
	group, err := os.MkdirTemp(pids, "piped-test-") //nolint:usetesting // a control group is where the kernel has them
	if err != nil {
		t.Fatal(err)
	}
	write := func(dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if !await(func() bool { return os.Remove(group) == nil }) {
			t.Errorf("%s is left", group)
		}
	})
	spawner := strconv.Itoa(h.pid("spawner"))
	home := "/"
	if text, err := os.ReadFile("/proc/" + spawner + "/cgroup"); err == nil {
		for line := range strings.Lines(string(text)) {
			if _, path, ok := strings.Cut(strings.TrimSpace(line), ":pids:"); ok {
				home = path
			}
		}
	}
	write(group, "cgroup.procs", spawner)
	now, err := os.ReadFile(filepath.Join(group, "pids.current"))
	if err != nil {
		t.Fatal(err)
	}
	write(group, "pids.max", strings.TrimSpace(string(now)))
	began := time.Now()
	const tries = 20
	for range tries {
		h.refused("pids.max", shortage{reason: client.ErrProcessLimit})
	}
	write(group, "pids.max", "max")
	h.relieved("pids.max", cat(), before)
	write(filepath.Join(pids, home), "cgroup.procs", spawner)
	say("R1", "pids: refused=%d left=0 seconds=%.1f", tries, time.Since(began).Seconds())
}
