package custody

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// notifyVariable names the socket at which a service manager wants to be told.
const notifyVariable = "NOTIFY_SOCKET"

// A notifier tells a service manager (sd_notify(3)) how things are.
type notifier struct {
	address string
	last    string
}

func newNotifier() *notifier {
	n := &notifier{address: os.Getenv(notifyVariable)}
	_ = os.Unsetenv(notifyVariable) // it is not the spawner's
	return n
}

// say sends a state. Nobody may be listening, and that is no error.
func (n *notifier) say(state string) {
	if n.address == "" || state == n.last {
		return
	}
	n.last = state
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	_ = unix.Sendto(fd, []byte(state), unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: n.address})
}

// status tells what the keeper has.
func (c *custody) status() {
	running := 0
	for _, a := range c.accounts {
		for _, one := range a.processes {
			if !one.Exited {
				running++
			}
		}
	}
	front := "no front"
	if f := c.front; f != nil && f.pidfd >= 0 {
		front = fmt.Sprintf("front %d, epoch %d", f.pid, f.epoch)
	}
	c.notifier.say(fmt.Sprintf("READY=1\nSTATUS=%s; sessions %d, processes %d", front, len(c.accounts)-1, running))
}
