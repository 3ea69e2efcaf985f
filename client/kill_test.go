//go:build linux

package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// mortal starts a daemon that a test may kill, and returns a client of it. Whoever
// serves in the end is ended after the test.
func mortal(t *testing.T, args ...string) *client.Client {
	t.Helper()
	path := shortDir(t) + "/s"
	stop, err := startDaemon("unix://"+path, args...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(t.Context(), "unix://"+path)
	if err != nil {
		t.Fatal(errors.Join(err, stop(os.Interrupt)))
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
		defer cancel()
		info, err := c.Info(ctx)
		if err == nil {
			err = syscall.Kill(int(info.GetPid()), syscall.SIGTERM)
		}
		if err == nil {
			err = until(ctx, func() bool {
				_, gone := os.Stat(path + ".keeper")
				return gone != nil
			})
		}
		if err := errors.Join(err, c.Close()); err != nil {
			t.Errorf("the daemon, or its keeper, has not ended: %v", err)
		}
		_ = stop(os.Interrupt) // it may have been killed long ago
	})
	return c
}

// killing kills the daemon again and again, with a pause, until stop, which returns
// how often.
func killing(t *testing.T, c *client.Client, pause time.Duration) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var kills int
	var loop sync.WaitGroup
	loop.Go(func() {
		ticker := time.NewTicker(pause)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if _, err := kill(context.WithoutCancel(ctx), c); err != nil {
				t.Errorf("kill %d: %v", kills, err)
				return
			}
			kills++
		}
	})
	return sync.OnceValue(func() int {
		cancel()
		loop.Wait()
		return kills
	})
}

// wantKills fails a test in which nothing was killed.
func wantKills(t *testing.T, stop func() int) {
	t.Helper()
	kills := stop()
	t.Logf("%d kills", kills)
	if kills == 0 {
		t.Error("the daemon was never killed")
	}
}

func TestWriterAndReaderComeThroughKills(t *testing.T) {
	t.Parallel()
	c := mortal(t)
	e := c.Endpoint(catPipe(t, c))
	size := func(i int) int {
		if i%50 == 49 {
			return 600_000
		}
		return 8 + i%3000
	}
	stop := killing(t, c, 150*time.Millisecond)
	began, from := time.Now(), 0
	for ; time.Since(began) < 3*time.Second && !t.Failed(); from += 300 {
		exchange(t, e, e, from, from+300, size)
	}
	wantKills(t, stop)
	t.Logf("%d messages", from)
}

// While nothing moves nothing is received either, and each loss counts by itself.
func TestReconnectForCountsFromTheLastLoss(t *testing.T) {
	t.Parallel()
	c := mortal(t)
	one, two := newPipe(t, c, "line")
	w := newWriter(t, one, client.WriterOptions{ReconnectFor: 3 * time.Second})
	r := newReader(t, two, client.ReaderOptions{ReconnectFor: 3 * time.Second})
	for began := time.Now(); time.Since(began) < 4*time.Second; {
		if _, err := kill(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		<-time.After(100 * time.Millisecond)
	}
	if err := w.Send(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := r.Ack(next(t, r).After); err != nil {
		t.Fatal(err)
	}
	closeAll(t, w, r)
}

func TestKillOfTheKeeperIsNotNoticed(t *testing.T) {
	t.Parallel()
	c := mortal(t)
	ref := catPipe(t, c)
	e := c.Endpoint(ref)
	exited := make(chan *pipedv1.Process, 1)
	go func() {
		process, _ := c.Wait(t.Context(), ref.Session, "", client.Forever)
		exited <- process
	}()
	for i := range 3 {
		info, err := c.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(int(info.GetKeeper().GetPid()), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		exchange(t, e, e, i*300, (i+1)*300, small)
		if err := until(t.Context(), func() bool {
			after, err := c.Info(t.Context())
			return err != nil || after.GetKeeper().GetPid() != 0 && after.GetKeeper().GetPid() != info.GetKeeper().GetPid()
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.CloseSend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exit := (<-exited).GetExit(); exit.GetCode() != 0 || exit.GetSignal() != "" {
		t.Errorf("it exited with %v", exit)
	}
}

func TestWriterAndReaderComeThroughAPlannedRestart(t *testing.T) {
	t.Parallel()
	addr := "unix://" + shortDir(t) + "/s"
	args := []string{"--sessions-at-exit", "leave"}
	stop, err := startDaemon(addr, args...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	f := &pipedv1.Framing{Name: "mp"}
	session, err := c.Create(t.Context(), &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{
		Args: []string{"cat"}, StdioPipe: &pipedv1.PipeSpec{FramingIn: f, FramingOut: f},
	}})
	if err != nil {
		t.Fatal(err)
	}
	e := c.Endpoint(client.Ref{Session: session.GetName()})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	const messages = 20_000
	passed := make(chan error, 2)
	go func() { passed <- sendNumbered(ctx, e, 0, messages, small) }()
	go func() { passed <- receiveNumbered(ctx, e, 0, messages, small) }()
	var info *pipedv1.GetServerInfoResponse
	for epoch := uint64(2); epoch <= 4; epoch++ {
		if err := stop(syscall.SIGTERM); err != nil {
			t.Errorf("the daemon that was told to end: %v", err)
		}
		// It answers connections before it serves: the keeper has its socket open.
		if stop, err = startDaemon(addr, args...); err != nil {
			t.Fatal(err)
		}
		if info, err = c.Info(ctx); err != nil || info.GetFrontEpoch() != epoch {
			t.Fatalf("%v, %v; want the epoch %d", info, err, epoch)
		}
	}
	if err := errors.Join(<-passed, <-passed); err != nil {
		t.Error(err)
	}
	// The keeper would wait for the next daemon: it is ended.
	if err := errors.Join(c.Delete(ctx, session.GetUid(), true), syscall.Kill(int(info.GetKeeper().GetPid()), syscall.SIGTERM), c.Close()); err != nil {
		t.Error(err)
	}
	_ = stop(syscall.SIGTERM)
}

// While nothing moves nothing tells a Writer or Reader that its stream is gone.
func TestIdleWriterAndReaderComeThroughKills(t *testing.T) {
	t.Parallel()
	c := mortal(t)
	one, two := newPipe(t, c, "line")
	w := newWriter(t, one, client.WriterOptions{ReconnectFor: 5 * time.Second})
	r := newReader(t, two, client.ReaderOptions{ReconnectFor: 5 * time.Second})
	for i := range 5 {
		info, err := kill(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Send(t.Context(), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		m := next(t, r)
		if string(m.Data) != fmt.Sprint(i) || r.Ack(m.After) != nil {
			t.Fatalf("got %q, want %d", m.Data, i)
		}
		if epoch := info.GetFrontEpoch(); epoch != uint64(i+2) || info.GetLastRestart().GetRecoveredSessions() != 1 || !info.GetSurvivesDaemonDeath() {
			t.Errorf("after kill %d: %v", i+1, info)
		}
	}
	if w.Lease().Epoch() != 1 || r.Lease().Epoch() != 1 {
		t.Errorf("the leases have the epochs %d and %d, want 1", w.Lease().Epoch(), r.Lease().Epoch())
	}
	closeAll(t, w, r)
}

func TestCallsComeThroughKills(t *testing.T) {
	t.Parallel()
	c := mortal(t)
	stop := killing(t, c, 100*time.Millisecond)
	began, i := time.Now(), 0
	for ; time.Since(began) < 3*time.Second && !t.Failed(); i++ {
		name := fmt.Sprintf("s%d", i)
		session, err := c.Create(t.Context(), &pipedv1.CreateSessionRequest{Name: name, Process: &pipedv1.ProcessSpec{Args: []string{"sh", "-c", "read x"}}})
		if err != nil {
			t.Fatalf("Create %s: %v", name, err)
		}
		start := &pipedv1.StartProcessRequest{Session: name, Process: &pipedv1.ProcessSpec{Name: "more", Args: []string{"sh", "-c", "exit 3"}}}
		if _, err := c.Start(t.Context(), start); err != nil {
			t.Errorf("Start: %v", err)
		}
		if more, err := c.Wait(t.Context(), name, "more", client.Forever); err != nil || more.GetExit().GetCode() != 3 {
			t.Errorf("Wait: %v, %v", more, err)
		}
		if _, err := c.CreatePipe(t.Context(), &pipedv1.CreatePipeRequest{Session: name, Pipe: &pipedv1.PipeSpec{Name: "p"}}); err != nil {
			t.Errorf("CreatePipe: %v", err)
		}
		if _, err := c.Endpoint(client.Ref{Session: name, Pipe: "p"}).Close(t.Context(), client.CloseOptions{Wait: true}); err != nil {
			t.Errorf("Close: %v", err)
		}
		if processes, err := c.Stop(t.Context(), &pipedv1.StopSessionRequest{Session: name}); err != nil || len(processes) != 2 {
			t.Errorf("Stop: %v, %v", processes, err)
		}
		if got, err := c.Get(t.Context(), name); err != nil || got.GetUid() != session.GetUid() || len(got.GetPipes()) != 5 {
			t.Errorf("Get: %v, %v", got, err)
		}
		if err := c.Delete(t.Context(), session.GetUid(), true); err != nil {
			t.Errorf("Delete: %v", err)
		}
	}
	wantKills(t, stop)
	t.Logf("%d sessions", i)
	for left, err := range c.List(t.Context(), &pipedv1.ListSessionsRequest{}) {
		t.Errorf("left: %v, %v", left.GetName(), err)
	}
}

func TestWatchBeginsAgainWithASnapshotAfterAKill(t *testing.T) {
	t.Parallel()
	c := mortal(t)
	create(t, c, &pipedv1.CreateSessionRequest{Name: "first", Pipes: []*pipedv1.PipeSpec{{}}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	snapshots := 0
	for resp, err := range c.Watch(ctx, &pipedv1.WatchSessionsRequest{}) {
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case resp.GetSnapshot() != nil && resp.GetSnapshot().GetName() != "first":
			t.Errorf("a snapshot of %v", resp)
		case resp.GetSnapshotEnd() != nil && snapshots == 0:
			snapshots++
			if _, err := kill(ctx, c); err != nil {
				t.Fatal(err)
			}
		case resp.GetSnapshotEnd() != nil:
			snapshots++
			create(t, c, &pipedv1.CreateSessionRequest{Name: "second", Pipes: []*pipedv1.PipeSpec{{}}})
		case resp.GetEvent().GetType() == pipedv1.SessionEvent_TYPE_SESSION_CREATED && resp.GetEvent().GetSession() == "second":
			if snapshots != 2 {
				t.Errorf("%d snapshots, want 2", snapshots)
			}
			return
		}
	}
	t.Error("the creation after the kill was never told")
}

func TestLeaseIsKeptOverKills(t *testing.T) {
	t.Parallel()
	c := mortal(t)
	one, _ := newPipe(t, c, "line")
	lease, err := one.AcquireLease(t.Context(), client.LeaseOptions{Role: writerRole, Holder: "me", Duration: 900 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	kept := make(chan error, 1)
	go func() { kept <- lease.KeepAlive(ctx) }()
	for range 4 {
		if _, err := kill(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		<-time.After(300 * time.Millisecond)
		if _, err := one.AcquireLease(t.Context(), client.LeaseOptions{Role: writerRole, Holder: "other"}); !errors.Is(err, client.ErrBusyWriter) {
			t.Errorf("somebody else: got %v, want ErrBusyWriter", err)
		}
	}
	cancel()
	if err := <-kept; err != nil {
		t.Errorf("KeepAlive: %v", err)
	}
	if err := lease.Renew(t.Context()); err != nil || lease.Epoch() != 1 {
		t.Errorf("Renew: %v, epoch %d", err, lease.Epoch())
	}
}

// What nobody has any more is told as lost, not as never seen.
func TestSessionThatWasLostIsToldAsLost(t *testing.T) {
	t.Parallel()
	addr := "unix://" + shortDir(t) + "/s"
	stop, err := startDaemon(addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	session, err := c.Create(t.Context(), &pipedv1.CreateSessionRequest{Name: "gone", Process: &pipedv1.ProcessSpec{Args: []string{"sleep", "600"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := killBoth(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	_ = stop(os.Kill)
	if stop, err = startDaemon(addr); err != nil {
		t.Fatal(err)
	}
	// The daemon after that one tells it too, by name and by uid, until the session is deleted.
	for _, name := range []string{session.GetName(), session.GetUid(), session.GetName()} {
		_, err = c.Get(t.Context(), name)
		lost, ok := errors.AsType[*client.Error](err)
		if !ok || !errors.Is(err, client.ErrSessionLost) || lost.Metadata["why"] != "LOST_BOTH" {
			t.Errorf("%s: got %v, want ErrSessionLost with LOST_BOTH", name, err)
		}
		if _, err := kill(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Delete(t.Context(), session.GetName(), false); err != nil {
		t.Error(err)
	}
	if _, err := c.Get(t.Context(), session.GetName()); !errors.Is(err, client.ErrSessionNotFound) {
		t.Errorf("after the deletion: %v", err)
	}
	info, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(int(info.GetPid()), syscall.SIGINT); err != nil {
		t.Error(err)
	}
	_ = stop(os.Interrupt) // it was killed
}
