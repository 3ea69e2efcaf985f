package exact

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// restarting is a session whose process is started again at once whenever it ends,
// so many times.
func restarting(name, text string, times uint32) *pipedv1.CreateSessionRequest {
	req := script(name, text, pipedv1.StdioMode_STDIO_MODE_NULL)
	req.Process.Name = "svc"
	wait := durationpb.New(10 * time.Millisecond)
	req.Process.Restart = &pipedv1.RestartPolicy{Mode: pipedv1.RestartPolicy_MODE_ALWAYS, InitialBackoff: wait, MaxBackoff: wait, MaxRestarts: times}
	return req
}

// playRestarts has a child that is started again more often than incarnations are
// kept.
func playRestarts(ctx context.Context, c *client.Client, name string) error {
	if _, err := c.Create(ctx, restarting(name, "echo x", 6)); err != nil {
		return err
	}
	_, err := c.Wait(ctx, name, "", patience)
	return err
}

// restartPoints are the failpoints between an exit and what comes of it.
var restartPoints = []string{"session.before-restart", "session.before-start", "keeper.before-start", "keeper.after-start", "session.after-start",
	"session.after-restart", "session.mid-drop", "control.mid-reuse", "journal.after-body", "journal.after-commit", "journal.after-replace"}

// TestExitHasOneNextIncarnationWhereverTheDaemonIsKilled lets each start leave a line
// in a file: there are as many as incarnations.
func TestExitHasOneNextIncarnationWhereverTheDaemonIsKilled(t *testing.T) {
	parallel(t)
	list, starts := filepath.Join(t.TempDir(), "list"), filepath.Join(t.TempDir(), "starts")
	const times = 120
	var lines strings.Builder
	for n := range 4 {
		for _, name := range restartPoints {
			fmt.Fprintf(&lines, "%s:%s=kill@%d\n", programFront, name, n+1)
		}
	}
	for n := range 20 { // one of them is in the middle of a drop
		fmt.Fprintf(&lines, "%s:journal.after-strike=kill@%d\n", programFront, n+1)
	}
	d := daemon.StartWith(t, daemon.Options{Bin: withFailpoints(t), Env: []string{"FAILPOINT_LIST=" + list}, Args: []string{"--incarnations-kept", "2"}})
	c := d.Dial(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	if _, err := c.Create(ctx, restarting("loop", "echo x >> "+starts, times)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(list, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Strike() // the next one takes the first line
	p, err := c.Wait(ctx, "loop", "", client.Forever)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(starts)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte("\n")); p.GetIncarnation() != times+1 || n != times+1 || p.GetRestarts() != times {
		t.Errorf("it is in incarnation %d after %d restarts, and was started %d times; want %d", p.GetIncarnation(), p.GetRestarts(), n, times+1)
	}
	// The oldest is dropped once the next one runs, which may have ended already.
	kept := 0
	if !await(func() bool {
		p, err := c.Wait(ctx, "loop", "", 0)
		kept = len(p.GetFormer())
		return err != nil || kept == 2
	}) {
		t.Errorf("%d incarnations are kept, want 2", kept)
	}
	hits, _ := os.ReadFile(list + ".hit")
	hit := strings.Fields(string(hits))
	for _, name := range restartPoints {
		if !slices.Contains(hit, name) {
			t.Errorf("nobody was killed at %s", name)
		}
	}
	t.Logf("kills=%d", len(hit))
	if _, err := c.Create(ctx, restarting("again", "echo x", 1)); err != nil {
		t.Errorf("a daemon after them: %v", err)
	}
}
