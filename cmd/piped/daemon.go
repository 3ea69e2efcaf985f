package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/server"
	"github.com/piped-dev/piped/session"
)

// serve runs the daemon until a signal, or long idleness, ends it in order.
func serve(cfg config, log *slog.Logger) error {
	ctx, stop := endSignals()
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	// By default garbage may grow as large as everything that is alive before it
	// is collected. Half of that keeps the peak of a 16 MiB message, which
	// TestSixteenMiBBothWays measures, some MiB below the message itself.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}

	durability, err := durable(cfg.Durability)
	if err != nil {
		return err
	}

	// First of all, while nothing else runs: it changes the umask.
	socks, err := listen(cfg.Listen)
	if err != nil {
		return err
	}
	defer func() { warn(log, "sockets not closed", socks.Close()) }()

	k := keeper.New(log)
	defer func() { warn(log, "keeper not closed", k.Close()) }()
	options := cfg.server()
	options.Sessions.KernelLogs = durability.kernel
	options.DurabilityReason, options.Checks = durability.reason, durability.checks
	reg, err := session.New(options.Sessions, k, log)
	if err != nil {
		return err
	}
	srv := server.New(reg, options, log)

	var wg sync.WaitGroup
	defer wg.Wait()
	if d := time.Duration(cfg.IdleExit); d > 0 {
		wg.Go(func() {
			if untilIdle(ctx, d, busy(reg, srv)) {
				cancel(fmt.Errorf("idle for %v", cfg.IdleExit))
			}
		})
	}
	log.Info("piped started", "version", buildVersion(), "pid", os.Getpid(), "listen", cfg.Listen,
		"kernel_logs", durability.kernel, "reason", durability.reason)
	err = srv.Serve(ctx, socks.listeners...)
	cancel(nil)
	log.Info("piped ended", "reason", context.Cause(ctx))
	return err
}

// endSignals returns a context that SIGINT or SIGTERM ends. From then on both
// have their default effect again, so that a second one ends the process.
func endSignals() (context.Context, context.CancelFunc) {
	ends := []os.Signal{syscall.SIGTERM}
	// A shell starts background jobs with SIGINT ignored, and means it.
	if !signal.Ignored(syscall.SIGINT) {
		ends = append(ends, syscall.SIGINT)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	context.AfterFunc(ctx, stop)
	// A log that nobody reads any more must not end the daemon. The signal is
	// caught and not ignored, because children would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	return ctx, stop
}

// activity is what the daemon is busy with at a moment: connections accepted
// since its start, and whether it has any, or any session, now.
type activity struct {
	accepted uint64
	now      bool
}

// busy returns a function that looks at the activity. A session that has ended
// counts until it is removed or expires: it may hold output that nobody read.
func busy(reg *session.Registry, srv *server.Server) func() activity {
	return func() activity {
		active, ended := reg.Counts()
		open, accepted := srv.Connections()
		return activity{accepted: accepted, now: active+ended+open > 0}
	}
}

// untilIdle returns true when nothing happened for d, false when ctx is done.
func untilIdle(ctx context.Context, d time.Duration, look func() activity) bool {
	tick := time.NewTicker(min(max(d/8, time.Millisecond), time.Second))
	defer tick.Stop()
	since, last := time.Now(), look()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		seen := look()
		if seen.now || seen.accepted != last.accepted {
			since = time.Now()
		}
		last = seen
		if time.Since(since) >= d {
			return true
		}
	}
}

// session is the part of the configuration that sessions need.
func (c config) session() session.Config {
	return session.Config{
		LogSize:          int64(c.Limits.LogSize),
		TailSize:         int64(c.Limits.TailSize),
		MaxMessageSize:   uint64(c.Limits.MaxMessageSize),
		EndedFor:         time.Duration(c.Retention.EndedFor),
		EndedMax:         c.Retention.EndedMax,
		LeaseDuration:    time.Duration(c.Limits.LeaseDuration),
		MaxLeaseDuration: time.Duration(c.Limits.MaxLeaseDuration),
		EventsRetained:   c.Limits.EventsRetained,
	}
}

// server is the part of the configuration that the services need.
func (c config) server() server.Options {
	return server.Options{
		Version:                 buildVersion(),
		Addresses:               c.Listen,
		Sessions:                c.session(),
		MaxStreamsPerConnection: c.Limits.MaxStreamsPerConnection,
		MaxPollEndpoints:        c.Limits.MaxPollEndpoints,
		MaxPageSize:             c.Limits.MaxPageSize,
		HeartbeatInterval:       time.Duration(c.HeartbeatInterval),
		ShutdownGrace:           time.Duration(c.ShutdownGrace),
	}
}

// warn logs what went wrong while the daemon ended.
func warn(log *slog.Logger, text string, err error) {
	if err != nil && !errors.Is(err, os.ErrClosed) {
		log.Warn(text, "error", err)
	}
}
