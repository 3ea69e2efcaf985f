package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/piped-dev/piped/failpoint"
	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/server"
	"github.com/piped-dev/piped/session"
)

// serve runs the daemon until a signal, or long idleness, ends it in order. To
// start is to recover: whatever ended the daemon before, its sessions go on here.
func serve(cfg config, opts *options, log *slog.Logger, level *slog.LevelVar) (err error) {
	ctx, stop := endSignals()
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	notify := newNotifier(log)
	defer func() { warn(log, "service manager not let go", notify.Close()) }()
	reload := newReloader(opts, cfg, level, notify, log)

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
	given, err := activated()
	if err != nil {
		return err
	}
	if len(given) > 0 {
		cfg.Listen = addresses(given)
	}
	// Before anything else runs: it changes the umask.
	socks, err := openSockets(cfg, given)
	if err != nil {
		return err
	}
	defer func() { warn(log, "sockets not closed", socks.Close()) }()
	link, estate, err := connectKeeper(ctx, cfg, log, notify.status)
	if err != nil {
		socks.leave() // they may be those of the daemon before
		return err
	}
	leave := cfg.SessionsAtExit == sessionsLeave
	defer func() {
		warn(log, "keeper not told of the end", endLink(link, leave || err != nil, time.Duration(cfg.ShutdownGrace)))
	}()
	if leave {
		socks.leave()
	}
	failpoint.Hit("daemon.after-connect")
	if len(given) == 0 {
		if err := socks.listen(estate.Own, link.Own()); err != nil {
			socks.leave()
			return err
		}
	}
	failpoint.Hit("daemon.after-listen")
	options := cfg.server()
	options.Sessions.KernelLogs, options.Crash = durability.kernel, durability.kernel
	options.DurabilityReason, options.Checks = durability.reason, durability.checks
	reg, recovered, err := session.New(options.Sessions, link, estate, log)
	if err != nil {
		socks.leave()
		return err
	}
	failpoint.Hit("daemon.after-recovery")
	restart := newRestart(estate, recovered)
	options.Survival = survival(link, durability, restart)
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
	wg.Go(func() {
		// Whoever tells the keeper to end means the sessions: there is nothing left to serve.
		select {
		case <-link.Ended():
			cancel(errors.New("the keeper was told to end"))
		case <-ctx.Done():
		}
	})
	wg.Go(func() { reload.run(ctx, func(c config) { reg.Configure(c.session()); srv.Configure(c.server()) }) })
	wg.Go(func() { notify.watch(ctx, healthy(reg, socks.listeners[0].Addr())) })
	log.Info("piped started", "version", buildVersion(), "pid", os.Getpid(), "listen", cfg.Listen,
		"kernel_logs", durability.kernel, "reason", durability.reason, "front_epoch", link.Epoch(), "keeper", link.Info().Pid)
	if !estate.Gone.IsZero() {
		log.Info("sessions recovered", "sessions", recovered.Sessions, "lost", recovered.Lost, "pause", restart.pause)
	}
	notify.ready(restart.String())
	// A second signal ends this process at once.
	defer context.AfterFunc(ctx, func() { link.Part(!leave) })()
	err = srv.Serve(ctx, socks.listeners...)
	cancel(nil)
	notify.stopping("ending: " + context.Cause(ctx).Error())
	log.Info("piped ended", "reason", context.Cause(ctx))
	return err
}

// openSockets locks the addresses, or takes the sockets of a service manager.
func openSockets(cfg config, given []net.Listener) (*sockets, error) {
	if len(given) > 0 {
		return &sockets{listeners: given}, nil
	}
	return lockAddresses(cfg.Listen)
}

// endLink tells the keeper that this daemon ends, and whether sessions stay.
func endLink(link *keeper.Link, leave bool, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace+killWait)
	defer cancel()
	if leave {
		return link.Leave(ctx)
	}
	return link.End(ctx)
}

// killWait is how long the keeper may take to end.
const killWait = 5 * time.Second

// healthy returns a function that goes where requests go: through the first
// socket to the server, which speaks first, and through the locks of the registry
// and of every session.
func healthy(reg *session.Registry, addr net.Addr) func() bool {
	return func() bool {
		conn, err := net.DialTimeout(addr.Network(), addr.String(), healthWait)
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close() }()
		if conn.SetReadDeadline(time.Now().Add(healthWait)) != nil {
			return false
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			return false
		}
		reg.Counts()
		return true
	}
}

// healthWait is how long the server may take to say the first word.
const healthWait = 5 * time.Second

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
		Environment:      session.EnvironmentPolicy{Allow: c.Environment.Allow, Deny: c.Environment.Deny},
		StopCloseGrace:   time.Duration(c.Limits.StopCloseGrace),
		StopGrace:        time.Duration(c.Limits.StopGrace),
		MaxStopGrace:     time.Duration(c.Limits.MaxStopGrace),
		IncarnationsKept: c.Limits.IncarnationsKept,
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
		LeaveSessions:           c.SessionsAtExit == sessionsLeave,
	}
}

// warn logs what went wrong while the daemon ended.
func warn(log *slog.Logger, text string, err error) {
	if err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, keeper.ErrClosed) {
		log.Warn(text, "error", err)
	}
}
