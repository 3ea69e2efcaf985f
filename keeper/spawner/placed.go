//go:build amd64 || arm64

package spawner

import (
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Places says that this build can have a process born in a cgroup.
const Places = true

// A newborn is a process that is born in a cgroup.
type newborn struct {
	path  string
	args  []string
	env   []string
	dir   string
	files []uintptr            // by their numbers in the child; closedFD: none
	sys   *syscall.SysProcAttr // its user and controlling terminal
	group int                  // the cgroup's directory
}

// prepared is a newborn as the kernel wants it, made before the fork: in the child
// nothing can be allocated.
type prepared struct {
	path, dir *byte
	args, env []*byte
	files     []int
	groups    []uint32
	user      *syscall.Credential
	terminal  int   // the child's number of its controlling terminal; -1: none
	pidfd     int32 // of the child, for the parent; the kernel writes it
	status    int   // to the parent
	limit     *unix.Rlimit
	free      int // a number above all others
}

// cloneArgs is struct clone_args of linux/sched.h.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// forkPlaced does what syscall.ForkExec does with CLONE_PARENT and PidFD, in a
// cgroup. Package syscall cannot: it gives clone3 the exit signal SIGCHLD, which the
// kernel refuses with CLONE_PARENT, because such a child has that of its parent. To
// move a process into a cgroup afterwards takes some 10 ms, and what it has forked
// by then would be missed.
func forkPlaced(n *newborn) (pid, pidfd int, err error) {
	p, err := n.prepare()
	if err != nil {
		return 0, -1, err
	}
	var status [2]int
	syscall.ForkLock.Lock() // nobody else forks while the pipe is not yet ours alone, or while a child shares our memory
	if err := unix.Pipe2(status[:], unix.O_CLOEXEC); err != nil {
		syscall.ForkLock.Unlock()
		return 0, -1, err
	}
	p.status = status[1]
	p.free = max(p.free, p.status+1)
	p.pidfd = -1
	args := &cloneArgs{
		flags:  unix.CLONE_PARENT | unix.CLONE_PIDFD | unix.CLONE_INTO_CGROUP | unix.CLONE_VM | unix.CLONE_VFORK,
		cgroup: uint64(n.group), //nolint:gosec // a descriptor
	}
	child, errno := cloneAndExec(p, args)
	syscall.ForkLock.Unlock()
	_ = unix.Close(status[1])
	fd := int(p.pidfd)
	reader := os.NewFile(uintptr(status[0]), "status")
	defer func() { _ = reader.Close() }()
	runtime.KeepAlive(p)
	runtime.KeepAlive(args)
	runtime.KeepAlive(n)
	if errno != 0 {
		return 0, -1, syscall.Errno(errno)
	}
	var code [4]byte
	if _, err := io.ReadFull(reader, code[:]); err == nil {
		awaitExit(fd) // or its cgroup cannot be removed yet
		_ = unix.Close(fd)
		return 0, -1, syscall.Errno(*(*uint32)(unsafe.Pointer(&code))) //nolint:gosec // as the child has written it
	} else if !errors.Is(err, io.EOF) {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		_ = unix.Close(fd)
		return 0, -1, err
	}
	return int(child), fd, nil
}

func (n *newborn) prepare() (p *prepared, err error) {
	p = &prepared{files: make([]int, len(n.files)), user: n.sys.Credential, terminal: -1, limit: originalFiles()}
	if n.sys.Setctty {
		p.terminal = n.sys.Ctty
	}
	if p.path, err = syscall.BytePtrFromString(n.path); err != nil {
		return nil, err
	}
	if p.dir, err = syscall.BytePtrFromString(n.dir); err != nil {
		return nil, err
	}
	if p.args, err = syscall.SlicePtrFromStrings(n.args); err != nil {
		return nil, err
	}
	if p.env, err = syscall.SlicePtrFromStrings(n.env); err != nil {
		return nil, err
	}
	p.free = max(len(n.files), 3)
	for i, f := range n.files {
		p.files[i] = int(f) // closedFD becomes -1
		p.free = max(p.free, p.files[i]+1)
	}
	if p.user != nil && !p.user.NoSetGroups {
		p.groups = p.user.Groups
	}
	return p, nil
}

// originalFiles returns the limit of open files that this process was started with,
// which package syscall has raised and sets back in children of its own. It does not
// tell what it was, but sets it before it executes a program, also one that is not
// there.
var originalFiles = sync.OnceValue(func() *unix.Rlimit {
	var raised, original unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &raised) != nil {
		return nil
	}
	_ = syscall.Exec("", nil, nil)
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &original) != nil {
		return nil
	}
	_ = unix.Prlimit(0, unix.RLIMIT_NOFILE, &raised, nil)
	return &original
})

// vfork is clone3. It returns twice, in the child with 0; the parent stands still
// until the child has executed a program or is gone.
//
//go:noescape
func vfork(args, size uintptr) (pid, errno uintptr)

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// cloneAndExec forks, and in the child becomes the program. Between the two the
// runtime is not what it was: nothing may be allocated and no stack may grow, so only
// raw system calls are made.
//
//nolint:gosec // addresses and numbers for system calls
//go:noinline
//go:norace
//go:nocheckptr
func cloneAndExec(p *prepared, args *cloneArgs) (pid, errno uintptr) {
	beforeFork()
	// From here on no stack moves, so that an address stays what it is.
	args.pidfd = uint64(uintptr(unsafe.Pointer(&p.pidfd)))
	pid, errno = vfork(uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args))
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, errno
	}
	becomeProgram(p)
	return 0, 0 // it does not come here
}

// becomeProgram is the child: it says why if it cannot.
//
//nolint:gosec // addresses and numbers for system calls
//go:noinline
//go:norace
//go:nocheckptr
//go:nosplit
func becomeProgram(p *prepared) {
	afterForkInChild()
	var errno syscall.Errno
	if _, _, errno = syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0); errno != 0 {
		fail(p, errno)
	}
	if p.user != nil {
		if !p.user.NoSetGroups {
			var list unsafe.Pointer
			if len(p.groups) > 0 {
				list = unsafe.Pointer(&p.groups[0])
			}
			if _, _, errno = syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(p.groups)), uintptr(list), 0); errno != 0 {
				fail(p, errno)
			}
		}
		if _, _, errno = syscall.RawSyscall(unix.SYS_SETGID, uintptr(p.user.Gid), 0, 0); errno != 0 {
			fail(p, errno)
		}
		if _, _, errno = syscall.RawSyscall(unix.SYS_SETUID, uintptr(p.user.Uid), 0, 0); errno != 0 {
			fail(p, errno)
		}
	}
	if _, _, errno = syscall.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(p.dir)), 0, 0); errno != 0 {
		fail(p, errno)
	}
	placeFiles(p)
	if p.terminal >= 0 {
		if _, _, errno = syscall.RawSyscall(unix.SYS_IOCTL, uintptr(p.terminal), unix.TIOCSCTTY, 1); errno != 0 {
			fail(p, errno)
		}
	}
	if p.limit != nil {
		if _, _, errno = syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(p.limit)), 0, 0, 0); errno != 0 {
			fail(p, errno)
		}
	}
	_, _, errno = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(p.path)), uintptr(unsafe.Pointer(&p.args[0])),
		uintptr(unsafe.Pointer(&p.env[0])))
	fail(p, errno)
}

// placeFiles gives the child its descriptors at their numbers. What is in the way of
// another one goes up first.
//
//go:noinline
//go:norace
//go:nocheckptr
//go:nosplit
func placeFiles(p *prepared) {
	var errno syscall.Errno
	if _, _, errno = syscall.RawSyscall(unix.SYS_DUP3, uintptr(p.status), uintptr(p.free), unix.O_CLOEXEC); errno != 0 {
		fail(p, errno)
	}
	p.status = p.free
	p.free++
	for i := range p.files {
		if p.files[i] < 0 || p.files[i] >= i {
			continue
		}
		if _, _, errno = syscall.RawSyscall(unix.SYS_DUP3, uintptr(p.files[i]), uintptr(p.free), unix.O_CLOEXEC); errno != 0 {
			fail(p, errno)
		}
		p.files[i] = p.free
		p.free++
	}
	for i := range p.files {
		switch {
		case p.files[i] < 0:
			_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, uintptr(i), 0, 0)
		case p.files[i] == i:
			_, _, errno = syscall.RawSyscall(unix.SYS_FCNTL, uintptr(i), unix.F_SETFD, 0)
		default:
			_, _, errno = syscall.RawSyscall(unix.SYS_DUP3, uintptr(p.files[i]), uintptr(i), 0)
		}
		if errno != 0 {
			fail(p, errno)
		}
	}
	for i := len(p.files); i < 3; i++ {
		_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, uintptr(i), 0, 0)
	}
}

// fail tells the parent why there is no program, and ends the child.
//
//nolint:gosec // addresses and numbers for system calls
//go:noinline
//go:norace
//go:nocheckptr
//go:nosplit
func fail(p *prepared, errno syscall.Errno) {
	code := uint32(errno)
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, uintptr(p.status), uintptr(unsafe.Pointer(&code)), unsafe.Sizeof(code))
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT, 253, 0, 0)
	}
}
