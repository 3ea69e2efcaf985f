package custody

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/wire"
)

// A front that dies is started again: at once if it had lived for a while, and
// after a pause otherwise, which grows while none comes as far as serving.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = 5 * time.Second
	longLife   = 5 * time.Second
)

// slower returns the pause after so many fronts in a row that did not come to
// serve. A few of them may just have been killed.
func slower(failed int) time.Duration {
	return min(firstPause*time.Duration(failed)*time.Duration(failed), lastPause)
}

// A revival is the state of starting fronts again.
type revival struct {
	pending bool // one is about to be started, or was and has not yet connected
	pid     int  // of that one
	pause   time.Duration
	since   time.Time // when the front began to serve
	failed  int       // how many in a row did not come to serve
}

// died says that a front is gone.
func (r *revival) died(f *frontier) {
	switch {
	case r.since.IsZero():
		r.failed++
		r.pause = slower(r.failed)
	case time.Since(r.since) > longLife:
		r.pause = 0
	default:
		r.pause = firstPause
	}
	r.since = time.Time{}
	if r.pid == f.pid {
		r.pending = false
	}
}

// served says that a front has come to serve.
func (r *revival) served() {
	r.since, r.failed, r.pending = time.Now(), 0, false
}

// revive starts the front again if it is gone and nobody waits to be the next.
func (c *custody) revive() {
	f := c.front
	if f == nil || f.pidfd >= 0 || f.left || c.ending || c.revival.pending || !c.o.supervise || len(c.again.Args) == 0 {
		return
	}
	if !c.place.intact() {
		c.finish(nil)
		return
	}
	if len(c.accounts) == 1 && len(c.accounts[own].files) == 0 && len(c.losses) == 0 && !c.o.passed {
		c.log.Info("the front has died and there is nothing to keep")
		c.finish(nil)
		return
	}
	c.revival.pending, c.revival.pid = true, 0
	c.log.Info("the front is started again", "pause", c.revival.pause)
	time.AfterFunc(c.revival.pause, c.launchFront)
}

// launchFront starts a front.
func (c *custody) launchFront() {
	c.mu.Lock()
	defer c.mu.Unlock()
	fds, err := c.frontSources()
	if err != nil {
		c.log.Error("the front cannot be started", "error", err)
		c.unrevived()
		return
	}
	c.starter.add(spawn{
		fds: fds,
		wanted: func() bool {
			return !c.ending && len(c.waiting) == 0 && c.front != nil && c.front.pidfd < 0
		},
		done: func(pid, pidfd int, _ uint64, failure *wire.Failure) {
			if failure != nil {
				c.log.Error("the front was not started", "error", failure.Text)
				c.unrevived()
				return
			}
			c.revival.pid = pid
			c.watchFrontChild(pid, pidfd)
		},
	})
}

// watchFrontChild watches over a front that was started here. It takes over the
// pidfd.
func (c *custody) watchFrontChild(pid, pidfd int) {
	err := c.watchChild(pid, pidfd, func(wire.Process) {
		if c.front != nil && c.front.pid == pid {
			return // it came to be the front, which is watched too
		}
		if c.revival.pending && c.revival.pid == pid {
			c.log.Warn("the front that was started has ended before it was one", "pid", pid)
			c.unrevived()
		}
	})
	if err != nil {
		c.log.Error("the front cannot be watched", "pid", pid, "error", err)
	}
}

// unrevived tries again later.
func (c *custody) unrevived() {
	c.revival.failed++
	c.revival.pause = slower(c.revival.failed)
	c.revival.pending = false
	if len(c.waiting) == 0 {
		c.revive()
	}
}

// frontSources returns what the spawner needs to start a front. The streams are
// the keeper's own.
func (c *custody) frontSources() ([]int, error) {
	args := slices.Clone(c.again.Args)
	path := args[0]
	if !filepath.IsAbs(path) {
		var search string
		for _, v := range c.again.Env {
			if value, found := strings.CutPrefix(v, "PATH="); found {
				search = value
			}
		}
		var err error
		if path, err = keeper.LookPath(path, search, c.again.Dir); err != nil {
			return nil, err
		}
	}
	spec := wire.Spec{Path: path, Args: args, Env: c.again.Env, Dir: c.again.Dir,
		Files: []wire.File{{FD: 0, Source: -1}, {FD: 1, Source: 0}, {FD: 2, Source: 1}}}
	var fds []int
	for fd := 1; fd <= 2; fd++ {
		again, err := duplicate(fd)
		if err != nil {
			wire.CloseAll(fds)
			return nil, err
		}
		fds = append(fds, again)
	}
	blob, err := wire.NewBlob(spec.Encode())
	if err != nil {
		wire.CloseAll(fds)
		return nil, err
	}
	return append(fds, blob), nil
}

// watchChild reaps a child of the keeper that belongs to no account, and tells
// ended how it has exited. It takes over the pidfd.
func (c *custody) watchChild(pid, pidfd int, ended func(wire.Process)) error {
	over := false
	var token int32
	look := func() {
		exit := wire.Process{Pid: pid}
		if over || !gone(pidfd) {
			return
		}
		over = true
		if exited, err := childExit(pidfd, &exit); err != nil || !exited {
			unknownExit(&exit)
		}
		reap(pidfd)
		delete(c.children, pid)
		delete(c.wards, pid)
		c.watcher.forget(token)
		_ = unix.Close(pidfd)
		ended(exit)
	}
	c.children[pid], c.wards[pid] = look, pidfd
	var err error
	token, err = c.watcher.add(pidfd, unix.EPOLLIN, func(uint32) {
		c.mu.Lock()
		defer c.mu.Unlock()
		look()
	})
	return err
}
