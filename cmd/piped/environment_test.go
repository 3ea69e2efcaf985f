package main

import (
	"errors"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// canaries are set in the environment of a daemon and must never be seen in a
// child, by name. Those that the daemon would act on have values that do no harm.
var canaries = map[string]string{
	"NOTIFY_SOCKET": "/nonexistent/canary", "LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "canary", "WATCHDOG_USEC": "60000000",
	"WATCHDOG_PID": "1", "CREDENTIALS_DIRECTORY": "/nonexistent/canary", "JOURNAL_STREAM": "1:2", "INVOCATION_ID": "canary", "MAINPID": "1",
	"SYSTEMD_EXEC_PID": "1", "RUNTIME_DIRECTORY": "/nonexistent/canary", "GODEBUG": "canary=1", "GOTRACEBACK": "single", "GOGC": "77",
	"PIPED_CANARY": "canary", "PIPED_ADDR": "unix:///nonexistent/canary", "PIPED_FDS": "canary:3:line", "PIPED_LOG_LEVEL": "info",
	"FAILPOINT": "canary", "FAILPOINT_CANARY": "canary",
}

var bases = []pipedv1.EnvironmentBase{
	pipedv1.EnvironmentBase_ENVIRONMENT_BASE_UNSPECIFIED, pipedv1.EnvironmentBase_ENVIRONMENT_BASE_NONE,
	pipedv1.EnvironmentBase_ENVIRONMENT_BASE_MINIMAL, pipedv1.EnvironmentBase_ENVIRONMENT_BASE_ALL,
}

// childEnvironment starts env(1) and returns the names and values that it writes.
func childEnvironment(t *testing.T, conn *grpc.ClientConn, base pipedv1.EnvironmentBase, env ...string) (map[string]string, error) {
	t.Helper()
	raw := &pipedv1.Framing{Name: "raw"}
	made, err := pipedv1.NewSessionServiceClient(conn).CreateSession(t.Context(), &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
		Args: []string{"/usr/bin/env", "-0"}, Env: env, EnvironmentBase: base, StdioPipe: &pipedv1.PipeSpec{FramingIn: raw, FramingOut: raw}}})
	if err != nil {
		return nil, err
	}
	stream, err := pipedv1.NewPipeServiceClient(conn).Recv(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open := &pipedv1.RecvOpen{Endpoint: &pipedv1.EndpointRef{Session: made.GetSession().GetUid()}, AutoAck: true}
	if err := stream.Send(&pipedv1.RecvRequest{Request: &pipedv1.RecvRequest_Open{Open: open}}); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text.Write(resp.GetBatch().GetData())
	}
	all := make(map[string]string)
	for kv := range strings.SplitSeq(strings.TrimSuffix(text.String(), "\x00"), "\x00") {
		name, value, _ := strings.Cut(kv, "=")
		all[name] = value
	}
	return all, nil
}

func TestNothingOfTheDaemonsOwnReachesAChild(t *testing.T) {
	for name, value := range canaries {
		t.Setenv(name, value)
	}
	t.Setenv("ORDINARY", "sings")
	path := socketDirectory(t) + "/s.sock"
	d := startDaemon(t, "--listen", "unix://"+path, "--environment-allow", "*", "--environment-allow", "NOTIFY_SOCKET")
	for _, life := range []string{"the first daemon", "the next, which the keeper started"} {
		conn := d.dial(path)
		for _, base := range bases {
			all, err := childEnvironment(t, conn, base, "GIVEN=1")
			if err != nil {
				t.Fatal(err)
			}
			for name := range canaries {
				if value, seen := all[name]; seen {
					t.Errorf("%s, %v: a child sees %s=%s", life, base, name, value)
				}
			}
			if ordinary := all["ORDINARY"] == "sings"; all["GIVEN"] != "1" || ordinary != (base == pipedv1.EnvironmentBase_ENVIRONMENT_BASE_ALL) {
				t.Errorf("%s, %v: %v", life, base, all)
			}
		}
		if life == "the first daemon" {
			d.signal(syscall.SIGKILL)
			_ = d.wait()
		}
	}
	pid := lockHolder(t, path)
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	awaitGone(t, pid)
}

func TestEnvironmentPolicyHoldsForBaseAndRequest(t *testing.T) {
	for _, name := range []string{"GOOD_ONE", "GOOD_SECRET", "OTHER"} {
		t.Setenv(name, "here")
	}
	path := socketDirectory(t) + "/s.sock"
	d := startDaemon(t, "--listen", "unix://"+path, "--environment-allow", "GOOD_*", "--environment-deny", "*_SECRET", "--environment-deny", "GOOD_SECRET")
	d.wantExit(int(exitConfig))
	d = startDaemon(t, "--listen", "unix://"+path, "--environment-allow", "GOOD_*", "--environment-deny", "GOOD_SECRET")
	conn := d.dial(path)
	all, err := childEnvironment(t, conn, pipedv1.EnvironmentBase_ENVIRONMENT_BASE_ALL, "OTHER=given")
	if err != nil || all["GOOD_ONE"] != "here" || all["OTHER"] != "given" || len(all) != 2 {
		t.Errorf("a child sees %v, error %v", all, err)
	}
	_, err = childEnvironment(t, conn, pipedv1.EnvironmentBase_ENVIRONMENT_BASE_NONE, "GOOD_SECRET=given")
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), `GOOD_SECRET may not be set: environment.deny of this daemon has "GOOD_SECRET"`) {
		t.Errorf("setting what is denied: %v", err)
	}
	list, err := pipedv1.NewSessionServiceClient(conn).ListSessions(t.Context(), &pipedv1.ListSessionsRequest{})
	if err != nil || len(list.GetSessions()) != 1 {
		t.Errorf("what was refused left something: %v, error %v", list, err)
	}
}

func TestAnEmptyListAllowsNothing(t *testing.T) {
	for _, args := range [][]string{
		{"--config", writeConfig(t, "environment: {allow: [], deny: [A, B_*]}")},
		{"--environment-allow", "", "--environment-deny", "A", "--environment-deny", "B_*"},
	} {
		c, _, err := loadArgs(t, args...)
		if err != nil {
			t.Fatal(err)
		}
		if e := c.session().Environment; len(e.Allow) != 0 || !slices.Equal(e.Deny, []string{"A", "B_*"}) {
			t.Errorf("%q: policy %+v", args, e)
		}
	}
}
