package seed

import (
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// cli drives with pipectl.
type cli struct {
	t      testing.TB
	daemon *daemon.Daemon
}

// run runs a pipectl that must succeed and returns its stdout.
func (c *cli) run(stdin string, args ...string) string {
	c.t.Helper()
	r := c.daemon.Pipectl(c.t, stdin, args...)
	if r.Code != 0 || r.Stderr != "" {
		c.t.Fatalf("pipectl %q: exit code %d, stderr %q, stdout %q; want code 0 and no stderr", args, r.Code, r.Stderr, r.Stdout)
	}
	return r.Stdout
}

// runFor is run with a stdout to expect.
func (c *cli) runFor(want string, args ...string) {
	c.t.Helper()
	if got := c.run("", args...); got != want {
		c.t.Fatalf("pipectl %q printed %q, want %q", args, got, want)
	}
}

func (c *cli) pipe(name, framing string) {
	c.t.Helper()
	c.runFor(name+"\n", "pipe", "--name", name, "--framing", framing)
}

func (c *cli) start(name string, args ...string) {
	c.t.Helper()
	c.runFor(name+"\n", slices.Concat([]string{"start", "--name", name, "--fd", "ctl:3:mp", "--"}, args)...)
}

func (c *cli) filter(name string, args ...string) {
	c.t.Helper()
	c.runFor(name+"\n", slices.Concat([]string{"start", "--name", name, "--"}, args)...)
}

func (c *cli) inherit(session string, args ...string) {
	c.t.Helper()
	c.runFor(session+"@child\n", slices.Concat(
		[]string{"start", "--session", session, "--as", "child", "--inherit", "pipe:1:3", "--inherit", "pipe:2:4", "--"}, args)...)
}

func (c *cli) send(ref string, messages ...string) {
	c.t.Helper()
	for _, m := range messages {
		c.run(m, "send", ref, "--file", "-")
	}
}

func (c *cli) recv(ref string, n int) []string {
	c.t.Helper()
	return c.messages(c.run("", "recv", ref, "-n", strconv.Itoa(n), "--timeout", daemon.Patience.String(), "-o", "json"))
}

func (c *cli) recvAll(ref string) []string {
	c.t.Helper()
	return c.messages(c.run("", "recv", ref, "--follow", "-o", "json"))
}

// messages reads what recv printed.
func (c *cli) messages(text string) []string {
	c.t.Helper()
	var all []string
	for decoder := json.NewDecoder(strings.NewReader(text)); ; {
		var m struct{ Data []byte }
		err := decoder.Decode(&m)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			c.t.Fatalf("pipectl recv printed %q: %v", text, err)
		}
		all = append(all, string(m.Data))
	}
}

func (c *cli) ready(ref string) bool {
	c.t.Helper()
	r := c.daemon.Pipectl(c.t, "", "poll", ref, "--timeout", "0")
	if r.Code != 0 && r.Code != 124 {
		c.t.Fatalf("pipectl poll %s: %+v", ref, r)
	}
	return r.Code == 0
}

func (c *cli) closeEnd(ref string) {
	c.t.Helper()
	c.run("", "close", ref, "--wait")
}

func (c *cli) closeSend(ref string) {
	c.t.Helper()
	c.run("", "close", ref, "--send-only")
}

func (c *cli) inspect(session string) *pipedv1.Session {
	c.t.Helper()
	s := &pipedv1.Session{}
	if err := protojson.Unmarshal([]byte(c.run("", "inspect", session, "-o", "json")), s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *cli) signal(session, signal string) {
	c.t.Helper()
	c.run("", "signal", session, signal)
}

func (c *cli) wait(session string) string {
	c.t.Helper()
	return strings.TrimSuffix(c.run("", "wait", session, "--timeout", daemon.Patience.String()), "\n")
}
