//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A console is a terminal with a person before it: what is typed, and what the
// screen shows.
type console struct {
	t             *testing.T
	screen, under *os.File
	// commands goes to a shell with job control, whose terminal it is.
	commands       *os.File
	started, ended int
	reading        sync.WaitGroup

	// mu guards shown, which is everything that the screen has shown.
	mu    sync.Mutex
	shown strings.Builder
}

func newConsole(t *testing.T) *console {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(screen.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	under, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	orders, commands, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := &console{t: t, screen: screen, under: under, commands: commands}
	// The commands do not come from the terminal, so that the shell leaves its
	// mode alone.
	shell := exec.Command("sh", "-m", "-c", `n=0; while read -r line <&3; do eval "$line"; code=$?; n=$((n+1)); echo "code$n=$code."; done`)
	shell.Stdin, shell.Stdout, shell.Stderr, shell.ExtraFiles = under, under, under, []*os.File{orders}
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	_ = orders.Close()
	c.reading.Go(c.watch)
	t.Cleanup(func() {
		// The end of the shell hangs up on everybody; the last one who has the other
		// side ends the reading.
		_ = commands.Close()
		_ = shell.Process.Kill()
		_ = shell.Wait()
		_ = under.Close()
		c.reading.Wait()
		_ = screen.Close()
	})
	return c
}

func (c *console) watch() {
	buffer := make([]byte, 4096)
	for {
		n, err := c.screen.Read(buffer)
		c.mu.Lock()
		c.shown.Write(buffer[:n])
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (c *console) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shown.String()
}

// sees waits until the screen has shown a text so many times.
func (c *console) sees(text string, times int) {
	c.t.Helper()
	seen := pollUntil(func() bool { return strings.Count(c.text(), text) >= times })
	if !seen {
		c.t.Fatalf("the screen does not show %q %d times:\n%s", text, times, c.text())
	}
}

func (c *console) types(keys string) {
	c.t.Helper()
	if _, err := c.screen.WriteString(keys); err != nil {
		c.t.Fatal(err)
	}
}

func (c *console) mode() unix.Termios {
	c.t.Helper()
	mode, err := unix.IoctlGetTermios(int(c.under.Fd()), unix.TCGETS)
	if err != nil {
		c.t.Fatal(err)
	}
	return *mode
}

// starts runs pipectl in the foreground of the terminal, and returns its pid.
func (c *console) starts(args ...string) int {
	c.t.Helper()
	c.started++
	line := fmt.Sprintf(`sh -c 'echo pid%d=$$.; exec pipectl "$@"' - %s`, c.started, commandText(args))
	if _, err := fmt.Fprintln(c.commands, line); err != nil {
		c.t.Fatal(err)
	}
	return c.reads(fmt.Sprintf("pid%d=", c.started))
}

// exits waits for the exit of what was started last, or its being stopped.
func (c *console) exits(code int) {
	c.t.Helper()
	c.ended++
	if got := c.reads(fmt.Sprintf("code%d=", c.ended)); got != code {
		c.t.Errorf("exit code %d, want %d:\n%s", got, code, c.text())
	}
}

// reads waits for a number behind a text, and a dot behind it.
func (c *console) reads(before string) (number int) {
	c.t.Helper()
	found := pollUntil(func() bool {
		_, rest, _ := strings.Cut(c.text(), before)
		digits, _, whole := strings.Cut(rest, ".")
		var err error
		number, err = strconv.Atoi(digits)
		return whole && err == nil
	})
	if !found {
		c.t.Fatalf("the screen does not show %s:\n%s", before, c.text())
	}
	return number
}

// ready waits until an attach has set the mode of the terminal.
func (c *console) ready() {
	c.t.Helper()
	if !pollUntil(func() bool { return c.mode().Iflag&unix.IXON == 0 }) {
		c.t.Fatalf("the terminal was not set:\n%s", c.text())
	}
}
