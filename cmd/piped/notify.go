package main

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// notifyTimeout is how long the service manager may take to take a message.
const notifyTimeout = time.Second

// A notifier tells the service manager how the daemon is. Where there is none
// (NOTIFY_SOCKET is not set) its methods do nothing. They are safe for
// concurrent use.
//
// It keeps one socket for all it says. SdNotify of go-systemd opens one each
// time, which fails exactly when descriptors are short, and has the address stay
// in the environment.
type notifier struct {
	log     *slog.Logger
	address string
	// every is within how long the service manager wants to hear that the daemon is
	// alive; 0 if it does not ask.
	every time.Duration

	mu     sync.Mutex // guards what follows
	conn   *net.UnixConn
	warned bool
}

// newNotifier connects to the service manager, and takes its variables out of
// the environment. The caller closes the result.
func newNotifier(log *slog.Logger) *notifier {
	n := &notifier{log: log, address: os.Getenv("NOTIFY_SOCKET")}
	every, err := watchdogDeadline()
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		_ = os.Unsetenv(name) // fails for names with "=" only
	}
	if err != nil {
		log.Warn("watchdog of the service manager not understood", "error", err)
	}
	if n.address != "" {
		n.every = every
		n.mu.Lock()
		n.noteLocked(n.dialLocked())
		n.mu.Unlock()
	}
	return n
}

// watchdogDeadline reads within how long this process has to say that it is
// alive: 0 if it need not, or if another process has to.
func watchdogDeadline() (time.Duration, error) {
	text, pid := os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID")
	if text == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0, nil
	}
	usec, err := strconv.ParseInt(text, 10, 64)
	if err != nil || usec <= 0 || usec > math.MaxInt64/int64(time.Microsecond) {
		return 0, fmt.Errorf("WATCHDOG_USEC=%q: want microseconds", text)
	}
	return time.Duration(usec) * time.Microsecond, nil
}

// managed says whether there is a service manager that listens.
func (n *notifier) managed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.address != ""
}

// ready says that the daemon serves from now on, or again after reloading.
func (n *notifier) ready(status string) { n.send("READY=1\nSTATUS=" + status) }

// status says, for people, what the daemon does.
func (n *notifier) status(text string) { n.send("STATUS=" + text) }

// reloading says that the daemon is reading its configuration again; ready has
// to follow.
func (n *notifier) reloading() {
	// Type=notify-reload tells by the time that this answers its own request.
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // there is this clock
	n.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d\nSTATUS=reading the configuration again", now.Nano()/1000))
}

// stopping says that the daemon has begun to end.
func (n *notifier) stopping(status string) { n.send("STOPPING=1\nSTATUS=" + status) }

// watch tells the service manager that the daemon is alive, until ctx is done,
// each time after healthy has said so. A healthy that answers false, or does not
// return, leaves the service manager without word, and it ends the daemon. So
// healthy has to go the way that a request goes; that it runs proves little.
func (n *notifier) watch(ctx context.Context, healthy func() bool) {
	if n.every <= 0 {
		return
	}
	// Three times as often as asked for, so that being late once does no harm.
	tick := time.NewTicker(n.every / 3)
	defer tick.Stop()
	for {
		if healthy() {
			n.send("WATCHDOG=1")
		} else {
			n.log.Error("not healthy: the watchdog of the service manager is not told", "deadline", n.every)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Close lets go of the socket. Nothing is said afterwards.
func (n *notifier) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.address = ""
	if n.conn == nil {
		return nil
	}
	return n.conn.Close()
}

func (n *notifier) send(state string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.address == "" {
		return
	}
	if n.conn != nil && n.writeLocked(state) == nil {
		return
	}
	// A service manager that began anew may have made its socket anew.
	err := n.dialLocked()
	if err == nil {
		err = n.writeLocked(state)
	}
	n.noteLocked(err)
}

// writeLocked does not wait for long: nobody who serves may hang on a service
// manager that does not read.
func (n *notifier) writeLocked(state string) error {
	if err := n.conn.SetWriteDeadline(time.Now().Add(notifyTimeout)); err != nil {
		return err
	}
	_, err := n.conn.Write([]byte(state))
	return err
}

func (n *notifier) dialLocked() error {
	if n.conn != nil {
		_ = n.conn.Close() // it does not work any more
		n.conn = nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.address, Net: "unixgram"})
	if err == nil {
		n.conn = conn
	}
	return err
}

// noteLocked logs the first error: it is the same one each time.
func (n *notifier) noteLocked(err error) {
	if err != nil && !n.warned {
		n.warned = true
		n.log.Warn("service manager not told", "error", err)
	}
}
