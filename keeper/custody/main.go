package custody

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper/cgroup"
	"github.com/piped-dev/piped/keeper/spawner"
)

// arguments are the command line.
type arguments struct {
	socket      string
	detach      bool
	spawner     bool
	version     bool
	noSupervise bool
	check       string
	state       int
	checkState  int
	ready       int
	noRoot      bool
	users       string
	cgroup      string
	verbose     bool
}

// exitConfig is EX_CONFIG of sysexits.h: starting again does not help.
const exitConfig = 78

// Main is the whole program, with the arguments that follow its name. It returns
// the exit code.
func Main(args []string, version string) int {
	if len(args) > 0 && args[0] == spawner.StageFlag {
		if spawner.Stage(args[1:]) != nil {
			return 1 // said already, and standard error is somebody else's
		}
	}
	a, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case a.version:
		_, _ = fmt.Fprintln(os.Stdout, "piped-keeper", version)
		return 0
	case a.spawner:
		err = spawner.Run()
	case a.check != "":
		err = checkRegistry(a.check)
	case a.checkState >= 0:
		err = checkState(a.checkState)
	case a.noRoot && (os.Getuid() == 0 || os.Geteuid() == 0):
		fmt.Fprintln(os.Stderr, "piped-keeper: every child would run as root, and --no-root refuses that: give it a user, as User= of the unit does")
		return exitConfig
	case a.detach:
		err = detach(a)
	default:
		err = run(a, version)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "piped-keeper: %v\n", err)
		return 1
	}
	return 0
}

func parse(args []string) (*arguments, error) {
	a := &arguments{}
	set := flag.NewFlagSet("piped-keeper", flag.ContinueOnError)
	set.StringVar(&a.socket, "socket", "", "serve at this `path`; the lock and the registry are beside it")
	set.BoolVar(&a.detach, "detach", false, "start a keeper in the background and return when it serves")
	set.BoolVar(&a.noSupervise, "no-supervise", false, "do not start the front again when it dies")
	set.BoolVar(&a.noRoot, "no-root", false, "refuse to run, and so to start children, as root")
	set.BoolVar(&a.version, "version", false, "print the version")
	set.BoolVar(&a.verbose, "verbose", false, "log each process")
	set.StringVar(&a.users, "users", "", "`uids`, separated by commas, that may talk to the keeper beside its own and root")
	set.StringVar(&a.cgroup, "cgroup", cgroup.Auto, "where sessions get cgroups: auto, off, or the `path` of a cgroup in which nobody is")
	set.StringVar(&a.check, "check-registry", "", "tell whether this program understands the registry at this `path`, and exit")
	set.BoolVar(&a.spawner, "spawner", false, "internal: be the process that forks")
	set.IntVar(&a.ready, "ready", -1, "internal: write to this descriptor when serving")
	set.IntVar(&a.state, "state", -1, "internal: go on with the state in this descriptor")
	set.IntVar(&a.checkState, "check-state", -1, "internal: tell whether this program understands the state in this descriptor, and exit")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if set.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "piped-keeper: unknown argument %q\n", set.Arg(0))
		return nil, errors.New("unknown argument")
	}
	return a, nil
}

// options returns what the command line asks for.
func (a *arguments) options(version string) (*options, error) {
	if a.socket == "" {
		return nil, errors.New("no --socket")
	}
	path, err := filepath.Abs(a.socket)
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if a.cgroup != cgroup.Auto && a.cgroup != cgroup.Off && !filepath.IsAbs(a.cgroup) {
		return nil, fmt.Errorf("--cgroup: %q is neither auto nor off nor an absolute path", a.cgroup)
	}
	o := &options{cgroup: a.cgroup, socket: path, supervise: !a.noSupervise, version: version, program: program, args: a.rest(path)}
	for text := range strings.SplitSeq(a.users, ",") {
		if text == "" {
			continue
		}
		uid, err := strconv.Atoi(text)
		if err != nil || uid < 0 {
			return nil, fmt.Errorf("--users: %q is not a user id", text)
		}
		o.users = append(o.users, uid)
	}
	level := slog.LevelInfo
	if a.verbose {
		level = slog.LevelDebug
	}
	o.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("keeper", os.Getpid())
	return o, nil
}

// rest returns the arguments that a keeper passes on to itself.
func (a *arguments) rest(socket string) []string {
	args := []string{"--socket", socket, "--users", a.users}
	if a.noSupervise {
		args = append(args, "--no-supervise")
	}
	if a.noRoot {
		args = append(args, "--no-root")
	}
	if a.verbose {
		args = append(args, "--verbose")
	}
	return append(args, cgroupArgs(a.cgroup)...)
}

// cgroupArgs are left out where they say nothing new: an older program does not know
// them, and refuses the state with them.
func cgroupArgs(setting string) []string {
	if setting == cgroup.Auto {
		return nil
	}
	return []string{"--cgroup", setting}
}

// taken is what is written for --ready when another keeper is there.
const (
	readyServing = "serving\n"
	readyTaken   = "taken\n"
)

// run is the keeper.
func run(a *arguments, version string) error {
	o, err := a.options(version)
	if err != nil {
		return err
	}
	debug.SetGCPercent(50)
	// A log that nobody reads any more must not end the keeper.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	passed := -1
	if a.state < 0 {
		passed = passedListener()
	}
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return os.NewSyscallError("close_range", err)
	}
	var c *custody
	if a.state >= 0 {
		c, err = resume(o, a.state)
	} else {
		c, err = begin(o, passed)
	}
	if errors.Is(err, errTaken) && a.ready >= 0 {
		a.tell(readyTaken)
		return nil
	}
	if err != nil {
		return err
	}
	c.log.Info("the keeper serves", "version", version, "socket", o.socket, "upgraded", a.state >= 0)
	a.tell(readyServing)
	c.serveAll()
	return nil
}

// begin takes the place, and what an earlier keeper has left.
func begin(o *options, passed int) (*custody, error) {
	o.passed = passed >= 0
	place, err := takePlace(o.socket, passed)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.socket, err)
	}
	reg, held, err := openRegistry(registryPath(o.socket), o.log)
	if err != nil {
		return nil, err
	}
	c, err := newCustody(o, place, reg)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.load(held)
	return c, nil
}

func newCustody(o *options, place *place, reg *registry) (*custody, error) {
	w, err := newWatcher()
	if err != nil {
		return nil, err
	}
	c := &custody{
		o: *o, log: o.log, started: time.Now(), watcher: w, place: place, done: make(chan struct{}), reg: reg, notifier: newNotifier(),
		accounts: make(map[[16]byte]*account), children: make(map[int]func()), wards: make(map[int]int), peers: make(map[*peer]struct{}),
	}
	c.starter = newStarter(c)
	c.openTree()
	return c, nil
}

// serveAll runs the keeper until it has ended.
func (c *custody) serveAll() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	exits := make(chan os.Signal, 1) // one says as much as many
	signal.Notify(exits, syscall.SIGCHLD)
	exits <- syscall.SIGCHLD // the one of a child that has exited during an upgrade is lost
	go c.starter.run()
	go c.accept()
	go c.tend()
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := c.watcher.run(); err != nil {
			c.log.Error("exits are not seen any more", "error", err)
		}
	})
	c.mu.Lock()
	c.status()
	c.mu.Unlock()
	for {
		select {
		case sig := <-signals:
			switch sig {
			case syscall.SIGTERM, syscall.SIGINT:
				c.order()
			case syscall.SIGHUP:
				go c.upgrade()
			}
		case <-exits:
			c.mu.Lock()
			c.starter.sweep()
			c.mu.Unlock()
		case <-c.done:
			c.watcher.close()
			watching.Wait()
			return
		}
	}
}

// tell writes to whoever waits for the keeper to serve.
func (a *arguments) tell(text string) {
	if a.ready >= 0 {
		_, _ = unix.Write(a.ready, []byte(text))
		_ = unix.Close(a.ready)
	}
}

// passedListener returns the socket that a service manager has passed, or -1.
func passedListener() int {
	pid, count := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(name)
	}
	if n, err := strconv.Atoi(count); err != nil || n != 1 || pid != strconv.Itoa(os.Getpid()) {
		return -1
	}
	return 3
}

// detach starts a keeper that belongs to nobody, and returns when it serves, or
// another one does. One that is killed before it comes so far is not the last
// attempt.
func detach(a *arguments) error {
	var err error
	for range 3 {
		var killed bool
		if killed, err = detachOnce(a); !killed {
			return err
		}
	}
	return err
}

func detachOnce(a *arguments) (killed bool, err error) {
	path, err := os.Executable()
	if err != nil {
		return false, err
	}
	var ready [2]int
	if err := unix.Pipe2(ready[:], unix.O_CLOEXEC); err != nil {
		return false, os.NewSyscallError("pipe2", err)
	}
	reader := os.NewFile(uintptr(ready[0]), "ready")
	defer func() { _ = reader.Close() }()
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = unix.Close(ready[1])
		return false, &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	defer func() { _ = unix.Close(null) }()
	args := append([]string{"piped-keeper", "--ready", "3"}, a.rest(a.socket)...)
	pid, err := syscall.ForkExec(path, args, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{uintptr(null), uintptr(null), 2, uintptr(ready[1])}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	_ = unix.Close(ready[1])
	if err != nil {
		return false, fmt.Errorf("start %s: %w", path, err)
	}
	text, err := io.ReadAll(reader)
	if err != nil || len(text) > 0 {
		return false, err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		return false, os.NewSyscallError("wait4", err)
	}
	return status.Signaled(), errors.New("the keeper did not start")
}
