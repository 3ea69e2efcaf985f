package system

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// startLimited starts a daemon that may have so many descriptors, and returns
// its pid.
func startLimited(t *testing.T, limit uint64) (int, *peer) {
	t.Helper()
	programs := daemon.Start(t).Bin
	dir, err := os.MkdirTemp("/tmp", "piped-") //nolint:usetesting // the path of a socket has little room
	if err != nil {
		t.Fatal(err)
	}
	addr := "unix://" + filepath.Join(dir, "s")
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `ulimit -n "$1" && shift && exec "$@"`, "sh",
		strconv.FormatUint(limit, 10), filepath.Join(programs, "piped"), "--listen", addr, "--log-level", "warn")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Env = append(os.Environ(), "HOME="+dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the context of the test has ended by now
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 0 {
			t.Errorf("the daemon: %v", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	p := dial(t, addr)
	eventually(t, "the daemon serves", func() bool {
		_, err := healthpb.NewHealthClient(p.conn).Check(p.ctx(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
		return err == nil
	})
	return cmd.Process.Pid, p
}

func TestAsManySessionsAsTheDescriptorLimitAllows(t *testing.T) {
	var own syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own); err != nil {
		t.Fatal(err)
	}
	limits := []uint64{2048}
	if os.Getenv("PIPED_LONG_TESTS") != "" {
		limits = append(limits, own.Max)
	}
	for _, limit := range limits {
		for _, kind := range []struct {
			name    string
			process *pipedv1.ProcessSpec
			pipes   []*pipedv1.PipeSpec
			most    float64 // descriptors of a session through which nothing has flowed
		}{
			{"pipes", nil, []*pipedv1.PipeSpec{framed("", "line")}, 3},
			{"processes", &pipedv1.ProcessSpec{Args: []string{"sh", "-c", "cat; exec cat >&2"}}, nil, 5},
		} {
			t.Run(kind.name+" at "+strconv.FormatUint(limit, 10), func(t *testing.T) {
				pid, p := startLimited(t, limit)
				before := descriptors(t, pid)
				names, err := createAll(p, &pipedv1.CreateSessionRequest{Process: kind.process, Pipes: kind.pipes})
				wantReason(t, "one session more", err, "DESCRIPTOR_LIMIT")
				if code := status.Code(err).String(); code != "ResourceExhausted" {
					t.Errorf("code %s, want ResourceExhausted", code)
				}
				t.Log(status.Convert(err).Message())
				used := descriptors(t, pid)
				each := float64(used-before) / float64(len(names))
				t.Logf("%d sessions at once, %.2f descriptors each; %d of %d in use", len(names), each, used, limit)
				// The daemon may have opened one or two of its own meanwhile.
				if allowed := kind.most*float64(len(names)) + 2; float64(used-before) > allowed {
					t.Errorf("%d descriptors for %d sessions, want at most %.0f", used-before, len(names), allowed)
				}
				flowThroughAll(p, names)
				used = descriptors(t, pid)
				t.Logf("%.2f descriptors each after something has flowed; %d of %d in use", float64(used-before)/float64(len(names)), used, limit)
				if uint64(used) < limit/2 {
					t.Errorf("%d of %d descriptors in use, want most", used, limit)
				}
				wantAlive(p, names)
				for _, name := range names {
					p.remove(name)
				}
				if now := descriptors(t, pid); now > before {
					t.Errorf("%d descriptors are left of %d", now, before)
				}
				p.remove(p.create(kind.process, kind.pipes...))
			})
		}
	}
}

// createAll creates sessions until it is refused.
func createAll(p *peer, req *pipedv1.CreateSessionRequest) ([]string, error) {
	var names []string
	for {
		resp, err := p.sessions.CreateSession(p.ctx(), req)
		if err != nil {
			return names, err
		}
		names = append(names, resp.GetSession().GetName())
	}
}

// flowThroughAll sends something each way through every session: at the limit,
// what was created has room for its logs.
func flowThroughAll(p *peer, names []string) {
	p.t.Helper()
	for _, name := range names {
		if len(p.get(name).GetProcesses()) > 0 {
			p.write(at(name, "", 1), "there and back")
			if got := p.read(at(name, "", 1)); got != "there and back" {
				p.t.Fatalf("%s: read %q", name, got)
			}
			continue
		}
		for from, to := range map[uint32]uint32{1: 2, 2: 1} {
			p.write(at(name, "", from), "through")
			if got := p.read(at(name, "", to)); got != "through" {
				p.t.Fatalf("%s: read %q", name, got)
			}
		}
	}
}

// wantAlive checks that a daemon at its limit still takes connections and moves
// messages, and that room for one session is room for one.
func wantAlive(p *peer, names []string) {
	p.t.Helper()
	again, err := connect(p.conn.Target())
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() {
		if err := again.Close(); err != nil {
			p.t.Error(err)
		}
	}()
	q := newPeer(p.t, again)
	last := names[len(names)-1]
	s := q.get(last)
	if len(s.GetProcesses()) > 0 {
		q.signal(last, "KILL")
		if got := q.exit(last).GetSignal(); got != "KILL" {
			p.t.Errorf("exit by %q, want KILL", got)
		}
	} else {
		q.write(at(last, "", 1), "x")
		if got := q.read(at(last, "", 2)); got != "x" {
			p.t.Errorf("read %q", got)
		}
	}
	req := &pipedv1.CreateSessionRequest{Pipes: []*pipedv1.PipeSpec{framed("", "line")}}
	if len(s.GetProcesses()) > 0 {
		req = &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: s.GetProcesses()[0].GetArgs()}}
	}
	q.remove(last)
	resp, err := q.sessions.CreateSession(q.ctx(), req)
	if err != nil {
		p.t.Errorf("after the removal of one: %v", err)
		return
	}
	names[len(names)-1] = resp.GetSession().GetName()
	_, err = q.sessions.CreateSession(q.ctx(), req)
	wantReason(p.t, "one more than one", err, "DESCRIPTOR_LIMIT")
}
