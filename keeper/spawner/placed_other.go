//go:build !amd64 && !arm64

package spawner

import "syscall"

// Places says that this build can have a process born in a cgroup.
const Places = false

// A newborn is a process that is born in a cgroup.
type newborn struct {
	path, dir string
	args, env []string
	files     []uintptr
	sys       *syscall.SysProcAttr
	group     int
}

func forkPlaced(*newborn) (pid, pidfd int, err error) { return 0, -1, syscall.ENOSYS }
