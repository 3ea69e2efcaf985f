// Package spawner is the small process beside the keeper that forks.
//
// The cost of a fork grows with the descriptors of the process that forks, and
// the keeper holds those of all sessions. The spawner holds nearly none. It
// forks with CLONE_PARENT, so that the keeper is the parent of what it makes.
//
// What a fork cannot give, resource limits and the like, the new process gives
// itself: it executes this program first, as a stage ([Stage]), which becomes the
// program that was asked for.
//
// It makes one process at a time. When the keeper dies before it has said that a
// process is on record, the spawner kills that process: nobody else knows it.
package spawner

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/failpoint"
	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/wire"
)

// SocketFD is the number at which the spawner has its socket to the keeper.
const SocketFD = 3

// oomAdjustment is what the kernel adds to the size of this process when it looks
// for one to kill. Children inherit it.
const oomAdjustment = "/proc/self/oom_score_adj"

// Run is the whole life of the spawner. It returns when the keeper is gone.
func Run() error {
	// What the children would inherit: descriptors, ignored signals, the mask.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return os.NewSyscallError("close_range", err)
	}
	// A service manager protects the keeper from running out of memory. The children that are made here are not to be spared before all others.
	if text, err := os.ReadFile(oomAdjustment); err == nil && strings.HasPrefix(string(text), "-") {
		if err := os.WriteFile(oomAdjustment, []byte("0"), 0); err != nil {
			return err
		}
	}
	runtime.LockOSThread()
	var empty unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &empty, nil); err != nil {
		return os.NewSyscallError("rt_sigprocmask", err)
	}
	handled := make(chan os.Signal, 1)
	defer signal.Stop(handled)
	if err := errors.Join(defaultForLibrary(), handleIgnored(handled)); err != nil {
		return err
	}
	conn, err := wire.NewConn(SocketFD)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return serve(conn)
}

// defaultForLibrary gives the signals that belong to the C library, which Go
// leaves alone, their default action.
func defaultForLibrary() error {
	var act [4]uint64 // struct sigaction of the kernel, all zeros: SIG_DFL
	for sig := uintptr(32); sig <= 34; sig++ {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0) //nolint:gosec // it is read only
		if errno != 0 {
			return fmt.Errorf("rt_sigaction of signal %d: %w", sig, errno)
		}
	}
	return nil
}

// serve makes processes until the keeper is gone.
func serve(conn *wire.Conn) error {
	made := -1 // the pidfd of a process that is not yet on record
	defer func() {
		if made >= 0 {
			_ = unix.PidfdSendSignal(made, unix.SIGKILL, nil, 0)
		}
	}()
	for {
		var m wire.Message
		fds, err := conn.Recv(&m)
		if err != nil && !errors.Is(err, wire.ErrDescriptors) {
			return nil // the keeper is gone
		}
		if made >= 0 {
			_ = unix.Close(made)
			made = -1
		}
		if m.Verb == wire.Settled {
			continue
		}
		answer := wire.Message{Verb: wire.Spawn, Reply: true, ID: m.ID}
		var pid, pidfd int
		if err == nil {
			failpoint.Hit("spawner.before-fork")
			pid, pidfd, err = start(fds, m.Args[0] == wire.Placed)
			failpoint.Hit("spawner.after-fork")
		} else {
			err = &keeper.SpawnError{Step: "fork", Err: fmt.Errorf("%w: %w", keeper.ErrDescriptors, err)}
		}
		// Before the answer: whoever hears it may count on our copies being gone.
		wire.CloseAll(fds)
		if err != nil {
			if err := refuse(conn, &answer, err); err != nil {
				return nil
			}
			continue
		}
		made = pidfd
		answer.Args[0] = uint64(pid)
		if err := conn.Send(&answer, pidfd); err != nil {
			return nil
		}
	}
}

// start starts what the blob, the last of the descriptors, says; placed in the cgroup
// that the first of them is.
func start(fds []int, placed bool) (pid, pidfd int, err error) {
	group := -1
	if placed && len(fds) > 0 {
		group, fds = fds[0], fds[1:]
	}
	if len(fds) == 0 {
		return 0, -1, errors.New("a request without a blob")
	}
	sources := fds[:len(fds)-1]
	data, err := wire.ReadBlob(fds[len(fds)-1])
	if err != nil {
		return 0, -1, err
	}
	told, err := wire.DecodeSpec(data)
	if err != nil {
		return 0, -1, err
	}
	spec, err := keeper.SpecOf(told, sources)
	if err != nil {
		return 0, -1, err
	}
	return spawn(spec, fds[len(fds)-1], group)
}

// refuse says why there is no process.
func refuse(conn *wire.Conn, answer *wire.Message, why error) error {
	answer.Code = wire.Failed
	blob, err := wire.NewBlob(keeper.Describe(why).Encode())
	if err != nil {
		answer.Code, answer.Text = wire.Scarce, why.Error()
		return conn.Send(answer)
	}
	defer func() { _ = unix.Close(blob) }()
	return conn.Send(answer, blob)
}
