//go:build failpoints

package failpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Hook, if set, is told of every failpoint instead: a simulation decides what
// happens there. Set it before the first Hit.
var Hook func(name string)

// armed is what this process was told to do.
var armed = arm()

// An action is what happens at a failpoint, when it is come to often enough.
type action struct {
	name, do string
	left     atomic.Int64
	hits     string // file for the names at which something was done; may be empty
}

// Hit says that the process has come to the failpoint of that name, which is
// "area.instant". Each name is in one place of the source. It may be called
// concurrently.
func Hit(name string) {
	if Hook != nil {
		Hook(name)
		return
	}
	if armed.name != name || armed.left.Add(-1) != 0 {
		return
	}
	armed.note()
	switch armed.do {
	case "panic":
		panic("failpoint " + name)
	case "kill":
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	}
	select {} // for kill: nothing is done between the signal and its effect
}

// arm reads the environment. A process that cannot do what it was told ends: a
// test that goes on without its failpoint would prove nothing.
func arm() *action {
	text, list := os.Getenv("FAILPOINT"), os.Getenv("FAILPOINT_LIST")
	a := new(action)
	var err error
	if list != "" {
		if text, err = take(list, filepath.Base(os.Args[0])); err != nil {
			fatal(err)
		}
		a.hits = list + ".hit"
	}
	if text == "" {
		return a
	}
	if err := a.parse(text); err != nil {
		fatal(err)
	}
	return a
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "failpoint:", err)
	os.Exit(2)
}

func (a *action) parse(text string) error {
	name, do, ok := strings.Cut(text, "=")
	do, times, counted := strings.Cut(do, "@")
	n := int64(1)
	if counted {
		var err error
		if n, err = strconv.ParseInt(times, 10, 64); err != nil {
			return fmt.Errorf("%q: %w", text, err)
		}
	}
	if !ok || n < 1 || !slices.Contains([]string{"kill", "panic", "hang"}, do) {
		return fmt.Errorf("%q: want NAME=kill|panic|hang@N", text)
	}
	a.name, a.do = name, do
	a.left.Store(n)
	return nil
}

// take takes the first line for a program out of a file, and returns it without
// the program's name; empty where there is none.
func take(file, program string) (line string, err error) {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	at := slices.IndexFunc(lines, func(l string) bool {
		for_, _, named := strings.Cut(l, ":")
		return l != "" && (!named || for_ == program)
	})
	if at < 0 {
		return "", nil
	}
	line = strings.TrimPrefix(lines[at], program+":")
	rest := strings.Join(slices.Delete(lines, at, at+1), "\n")
	if rest != "" {
		rest += "\n"
	}
	if err := f.Truncate(0); err != nil {
		return "", err
	}
	_, err = f.WriteAt([]byte(rest), 0)
	return line, err
}

// note adds the name to the file of those at which something was done.
func (a *action) note() {
	if a.hits == "" {
		return
	}
	f, err := os.OpenFile(a.hits, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, a.name)
	}
	if err != nil {
		fatal(err)
	}
}
