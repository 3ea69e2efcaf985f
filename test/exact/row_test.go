package exact

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/test/daemon"
)

// overhead is what the daemon may need beside its logs while a row runs: its
// heap, and the windows of its connections.
const overhead = 96 << 20

// A row is one kind of fault against a daemon of its own. Its methods are safe
// for concurrent use.
type row struct {
	t       testing.TB
	name    string
	d       *daemon.Daemon
	c       *client.Client
	logSize int64
	before  usage
	// keeper is what the keeper has before the row.
	keeper usage
	began  time.Time

	mu sync.Mutex
	// v and notes become the line; sessions and live count the sessions.
	v              verdict
	notes          []string
	sessions, live int64
	most           int64
	// ends are called before the row looks at what is left.
	ends []func()
}

// atEnd has f called at the end of the row.
func (r *row) atEnd(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ends = append(r.ends, f)
}

// newRow starts the daemon of a row.
func newRow(t testing.TB, name string, args ...string) *row {
	t.Helper()
	return newRowWith(t, name, daemon.Start(t, append([]string{"--log-level", "warn"}, args...)...))
}

// newRowWith is for a daemon that runs already.
func newRowWith(t testing.TB, name string, d *daemon.Daemon) *row {
	t.Helper()
	r := &row{t: t, name: name, d: d, began: time.Now()}
	r.c = r.d.Dial(t)
	limits, err := r.c.Limits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.logSize = int64(limits.GetLogSize())
	// What the first session of a daemon makes and keeps is not what is looked for.
	r.create(&pipedv1.CreateSessionRequest{Name: "warm", Process: &pipedv1.ProcessSpec{Args: []string{"true"}}})
	r.remove("warm")
	if !await(func() bool { r.before = use(t, r.d.PID()); return len(r.d.Children()) == 0 }) {
		t.Fatal("the first process stays")
	}
	r.keeper = use(t, r.d.KeeperPID())
	forgetPeak(t, r.d.PID())
	return r
}

// ctx is for what must not take longer than a row's patience.
func (r *row) ctx() (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.t.Context(), 2*patience)
}

// create makes a session that is removed at the end of the row at the latest.
func (r *row) create(req *pipedv1.CreateSessionRequest) {
	r.t.Helper()
	ctx, cancel := r.ctx()
	defer cancel()
	if _, err := r.c.Create(ctx, req); err != nil {
		r.t.Errorf("create %s: %v", req.GetName(), err)
		return
	}
	r.created()
}

func (r *row) created() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions++
	r.live++
	r.most = max(r.most, r.live)
}

// remove ends a session.
func (r *row) remove(name string) {
	r.t.Helper()
	ctx, cancel := r.ctx()
	defer cancel()
	if err := r.c.Delete(ctx, name, true); err != nil {
		r.t.Errorf("delete %s: %v", name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live--
}

// inspect returns a session, with holders.
func (r *row) inspect(name string) *pipedv1.Session {
	r.t.Helper()
	ctx, cancel := r.ctx()
	defer cancel()
	s, err := r.c.Inspect(ctx, name)
	if err != nil {
		r.t.Errorf("get %s: %v", name, err)
	}
	return s
}

// endpoint returns what is known of an end of a session's first pipe.
func (r *row) endpoint(name string, end int) *pipedv1.Endpoint {
	r.t.Helper()
	s := r.inspect(name)
	if len(s.GetPipes()) == 0 || len(s.GetPipes()[0].GetEndpoints()) < end {
		r.t.Errorf("%s has no end %d: %v", name, end, s)
		return &pipedv1.Endpoint{}
	}
	return s.GetPipes()[0].GetEndpoints()[end-1]
}

// path names a file of the row.
func (r *row) path(name string) string { return filepath.Join(r.d.Dir, name) }

// judge adds histories to the verdict.
func (r *row) judge(histories ...*history) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range histories {
		r.v.judge(h)
	}
}

// note adds to the line.
func (r *row) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// finish removes what sessions there are, prints the line of the row and fails
// the test unless nothing was wrong and nothing is left.
func (r *row) finish() {
	r.t.Helper()
	for _, f := range r.ends {
		f()
	}
	for s, err := range r.c.List(r.t.Context(), &pipedv1.ListSessionsRequest{}) {
		if err != nil {
			r.t.Error(err)
			break
		}
		r.remove(s.GetName())
	}
	var after, keeper usage
	var children int
	clean := await(func() bool {
		after, keeper, children = use(r.t, r.d.PID()), use(r.t, r.d.KeeperPID()), len(r.d.Children())
		return after.fits(r.before) && keeper.fits(r.keeper) && children == 0
	})
	left := fmt.Sprintf("left_fds=%d left_memfds=%d left_in_keeper=%d left_processes=%d", after.descriptors-r.before.descriptors,
		after.memfds-r.before.memfds, keeper.descriptors-r.keeper.descriptors, children)
	grown := after.peak - r.before.rss
	r.note("sessions=%d rss_growth_mib=%d %s seconds=%.1f", r.sessions-1, grown>>20, left, time.Since(r.began).Seconds())
	fmt.Fprintf(os.Stdout, "%s %v %s\n", r.name, &r.v, strings.Join(r.notes, " "))
	if r.v.faults() != 0 {
		r.t.Errorf("%s is not exact:\n%s", r.name, r.v.explain())
	}
	if !clean {
		r.t.Errorf("%s: before %+v, keeper %+v, after all sessions are gone %+v, keeper %+v", r.name, r.before, r.keeper, after, keeper)
	}
	// Two directions of the message pipe, and standard error.
	if bound := 3*r.most*r.logSize + overhead; grown > bound {
		r.t.Errorf("%s: the daemon grew by %d MiB, and %d sessions of %d KiB a direction may need %d MiB", r.name, grown>>20, r.most, r.logSize>>10, bound>>20)
	}
}
