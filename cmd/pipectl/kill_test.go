//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// restart kills the daemon and returns when the next one answers.
func restart(t *testing.T, addr string) {
	t.Helper()
	daemon, keeper := pids(t, addr)
	if err := syscall.Kill(daemon, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return isDead(daemon) })
	next, still := pids(t, addr)
	if next == daemon || still != keeper {
		t.Fatalf("daemon %d with keeper %d follows daemon %d with keeper %d", next, still, daemon, keeper)
	}
}

// rekeep kills the keeper and returns when the next one has everything.
func rekeep(t *testing.T, addr string) {
	t.Helper()
	daemon, keeper := pids(t, addr)
	if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		info := daemonInfo(t, addr)
		if int(info.GetPid()) != daemon {
			t.Fatalf("daemon %d follows daemon %d", info.GetPid(), daemon)
		}
		return int(info.GetKeeper().GetPid()) != keeper && info.GetSurvivesDaemonDeath()
	})
}

// feed writes numbered lines, some between two kills, and closes the input behind
// the last. It returns all of it.
func feed(t *testing.T, kills int, kill func(), verbs ...*verb) string {
	t.Helper()
	const between = 400
	var all bytes.Buffer
	for i := range kills + 1 {
		var some bytes.Buffer
		for n := range between {
			fmt.Fprintf(&some, "%d\n", i*between+n)
		}
		all.Write(some.Bytes())
		written := make(chan error, len(verbs))
		for _, v := range verbs {
			go func() {
				_, err := v.in.Write(some.Bytes())
				if err != nil {
					err = fmt.Errorf("%v ended: %w, stderr %q", v.args, err, v.errOut.String())
				}
				written <- err
			}()
		}
		if i < kills {
			kill()
		}
		for range verbs {
			if err := <-written; err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, v := range verbs {
		_ = v.in.Close()
	}
	return all.String()
}

// A verb is a pipectl that goes on while the daemon is killed.
type verb struct {
	*background
	args []string
	in   *io.PipeWriter
}

// begin runs pipectl with a stdin that the test writes.
func begin(t *testing.T, addr string, args ...string) *verb {
	t.Helper()
	in, writes := io.Pipe()
	v := &verb{background: &background{t: t, exited: make(chan exitCode, 1)}, args: args, in: writes}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	t.Cleanup(func() {
		_ = writes.Close()
		cancel()
		<-ended
	})
	go func() {
		defer close(ended)
		v.exited <- run(ctx, append([]string{"--addr", addr}, args...), in, &v.out, &v.errOut)
		_ = in.Close()
	}()
	return v
}

// ends waits for the end of a verb, which must have written this.
func (v *verb) ends(name, want string) {
	v.t.Helper()
	if code := <-v.exited; code != exitOK {
		v.t.Errorf("%s exits with %d", name, code)
	}
	if got := v.out.String(); got != want {
		v.t.Errorf("%s wrote %d bytes, want %d: %s", name, len(got), len(want), difference(got, want))
	}
	if v.t.Failed() {
		v.t.Logf("stderr of %s: %s", name, v.errOut.String())
	}
}

// difference says where two texts of lines part.
func difference(got, want string) string {
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i, line := range gotLines {
		if i >= len(wantLines) || line != wantLines[i] {
			return "line " + strconv.Itoa(i) + " is " + strconv.Quote(line)
		}
	}
	return "the rest is missing"
}

func dialDaemon(t *testing.T, addr string) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func createSession(t *testing.T, c *client.Client, req *pipedv1.CreateSessionRequest) {
	t.Helper()
	if _, err := c.Create(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

func countSessions(t *testing.T, c *client.Client) int {
	t.Helper()
	n := 0
	for _, err := range c.List(t.Context(), &pipedv1.ListSessionsRequest{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

const manyKills = 6

func TestVerbsComeThroughKills(t *testing.T) {
	t.Run("of the daemon", func(t *testing.T) {
		addr, _ := newDaemon(t)
		recv := comeThrough(t, addr, func() { restart(t, addr) })
		if said := recv.errOut.String(); !strings.HasPrefix(said, saysLost+saysAgain) {
			t.Errorf("recv told %q", said)
		}
	})
	t.Run("of the keeper", func(t *testing.T) {
		addr, _ := newDaemon(t)
		recv := comeThrough(t, addr, func() { rekeep(t, addr) })
		if said := recv.errOut.String(); said != "" {
			t.Errorf("recv told %q", said)
		}
	})
	t.Run("of both in turn", func(t *testing.T) {
		addr, _ := newDaemon(t)
		turn := 0
		comeThrough(t, addr, func() {
			if turn++; turn%2 == 0 {
				restart(t, addr)
			} else {
				rekeep(t, addr)
			}
		})
	})
}

// comeThrough runs verbs while somebody is killed again and again, and wants of each
// exactly what it writes in peace. It returns the one that receives.
func comeThrough(t *testing.T, addr string, kill func()) (recv *verb) {
	t.Helper()
	c := dialDaemon(t, addr)
	for _, req := range []*pipedv1.CreateSessionRequest{
		{Name: "cat", Process: &pipedv1.ProcessSpec{Args: []string{"cat"}}},
		{Name: "q", Process: &pipedv1.ProcessSpec{Args: []string{"cat"}}},
		{Name: "w", Process: &pipedv1.ProcessSpec{Args: []string{"sh", "-c", "read x; exit $x"}}},
	} {
		createSession(t, c, req)
	}
	run := begin(t, addr, "run", "-q", "--", "cat")
	// A creation that a keeper's death cuts is told to its caller, not made twice.
	eventually(t, func() bool { return countSessions(t, c) == 4 })
	attach := begin(t, addr, "attach", "cat", "--close-input")
	send := begin(t, addr, "send", "q", "--wait", "read")
	recv = begin(t, addr, "recv", "q", "--follow")
	tail := begin(t, addr, "tail", "q", "--follow")
	wait := begin(t, addr, "wait", "w")
	events := begin(t, addr, "events", "--follow", "--name", "later")

	all := feed(t, manyKills, kill, run, attach, send)
	run.ends("run", all)
	attach.ends("attach", all)
	send.ends("send", "")
	for _, words := range [][]string{{"send", "w", "7"}, {"close", "q", "--send-only"}, {"pipe", "--name", "later"}} {
		begin(t, addr, words...).ends(words[0], map[string]string{"pipe": "later\n"}[words[0]])
	}
	recv.ends("recv", all)
	tail.ends("tail", all)
	wait.ends("wait", "exit 7\n")
	events.says(&events.out, "later")
	return recv
}

func TestDoctorAndInfoTellWhatSurvivedAndWhy(t *testing.T) {
	addr, _ := newDaemon(t)
	createSession(t, dialDaemon(t, addr), &pipedv1.CreateSessionRequest{Name: "q", Pipes: []*pipedv1.PipeSpec{{}}})
	restart(t, addr)
	_, keeper := pids(t, addr)
	for _, test := range []struct {
		words []string
		want  []string
	}{
		{[]string{"info"}, []string{"survives its death", "yes: ", "front epoch", "pid " + strconv.Itoa(keeper), "after a pause of ", "1 session found again, 0 lost"}},
		{[]string{"info", "-o", "json"}, []string{`"survivesDaemonDeath":true`, `"frontEpoch":"2"`, `"recoveredSessions":1`, `"pid":` + strconv.Itoa(keeper)}},
		{[]string{"doctor"}, []string{"keeper ", "front epoch 2", "restart ", "1 session found again", "by SIGKILL at any instant"}},
		{[]string{"doctor", "-o", "json"}, []string{`"survives":true`, `"front_epoch":2`, `"keeper_pid":` + strconv.Itoa(keeper), `"pause":0.`, `"recovered":1`, `"lost":0`}},
	} {
		v := begin(t, addr, test.words...)
		if code := <-v.exited; code != exitOK {
			t.Errorf("%v exits with %d", test.words, code)
		}
		for _, want := range test.want {
			if !strings.Contains(v.out.String(), want) {
				t.Errorf("%v does not say %q: %s", test.words, want, v.out.String())
			}
		}
	}
}
