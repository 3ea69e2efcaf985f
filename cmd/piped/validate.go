package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"strings"
	"time"

	"github.com/piped-dev/piped/session"
)

const (
	formatText = "text"
	formatJSON = "json"
)

// settingError says that one key has a value that cannot be used.
type settingError struct {
	key    string
	value  any
	want   string
	source string // flag, variable or file; empty for a default
}

func (e *settingError) Error() string {
	var source string
	if e.source != "" {
		source = " (" + e.source + ")"
	}
	return fmt.Sprintf("%s: %q%s: %s", e.key, fmt.Sprint(e.value), source, e.want)
}

// validate checks every value. The error is a join of *settingError.
func (c config) validate() error {
	var errs []error
	refuse := func(key string, value any, want string, args ...any) {
		errs = append(errs, &settingError{key: key, value: value, want: fmt.Sprintf(want, args...)})
	}
	seen := map[string]bool{}
	for _, address := range c.Listen {
		path, err := parseAddress(address)
		switch {
		case err != nil:
			refuse("listen", address, "%v", err)
		case seen[path]:
			refuse("listen", address, "is there twice")
		}
		seen[path] = true
	}
	if _, err := parseLevel(c.Log.Level); err != nil {
		refuse("log.level", c.Log.Level, "%v", err)
	}
	if d := c.Durability; d != durabilityAuto && d != durabilityKernel && d != durabilityMemory {
		refuse("durability", d, "want auto, kernel or memory")
	}
	if e := c.SessionsAtExit; e != sessionsEnd && e != sessionsLeave {
		refuse("sessions_at_exit", e, "want end or leave")
	}
	if p := c.Keeper.Program; p != keeperAuto && p != keeperNone && !filepath.IsAbs(p) {
		refuse("keeper.program", p, "want auto, none or an absolute path")
	}
	if p := c.Keeper.Socket; p != "" && (!filepath.IsAbs(p) || len(p) > maxSocketPath) {
		refuse("keeper.socket", p, "want an absolute path of at most %d bytes", maxSocketPath)
	}
	if g := c.Keeper.Cgroup; g != cgroupAuto && g != cgroupOff && !filepath.IsAbs(g) {
		refuse("keeper.cgroup", g, "want auto, off or the absolute path of a cgroup")
	}
	if c.Log.Format != formatText && c.Log.Format != formatJSON {
		refuse("log.format", c.Log.Format, "want text or json")
	}
	between := func(key string, value duration, low, high time.Duration) {
		if d := time.Duration(value); d < low || d > high {
			refuse(key, value, "want from %v to %v", duration(low), duration(high))
		}
	}
	patterns := func(key string, all []string) {
		for _, p := range all {
			if session.CheckPattern(p) != nil {
				refuse(key, p, "want the name of a variable, or the beginning of names with * at its end")
			}
		}
	}
	patterns("environment.allow", c.Environment.Allow)
	patterns("environment.deny", c.Environment.Deny)
	c.validateLimits(refuse)
	const year = 8760 * time.Hour
	between("limits.max_lease_duration", c.Limits.MaxLeaseDuration, time.Millisecond, year)
	between("limits.lease_duration", c.Limits.LeaseDuration, time.Millisecond, time.Duration(c.Limits.MaxLeaseDuration))
	between("limits.max_stop_grace", c.Limits.MaxStopGrace, 0, year)
	between("limits.stop_close_grace", c.Limits.StopCloseGrace, 0, time.Duration(c.Limits.MaxStopGrace))
	between("limits.stop_grace", c.Limits.StopGrace, 0, time.Duration(c.Limits.MaxStopGrace))
	between("retention.ended_for", c.Retention.EndedFor, 0, year)
	between("heartbeat_interval", c.HeartbeatInterval, 100*time.Millisecond, time.Hour)
	between("shutdown_grace", c.ShutdownGrace, 0, time.Hour)
	between("idle_exit", c.IdleExit, 0, year)
	if n := c.Retention.EndedMax; n < 0 || n > 1e6 {
		refuse("retention.ended_max", n, "want from 0 to 1000000")
	}
	return errors.Join(errs...)
}

func (c config) validateLimits(refuse func(key string, value any, want string, args ...any)) {
	l := c.Limits
	if l.LogSize < 64*kib || l.LogSize > gib {
		refuse("limits.log_size", l.LogSize, "want from %v to %v", 64*kib, gib)
	}
	if l.TailSize > l.LogSize {
		refuse("limits.tail_size", l.TailSize, "want at most limits.log_size, which is %v", l.LogSize)
	}
	if l.MaxMessageSize < 1 || l.MaxMessageSize > tib {
		refuse("limits.max_message_size", l.MaxMessageSize, "want from 1 to %v", tib)
	}
	counts := []struct {
		key         string
		value, high int
	}{
		{"limits.max_streams_per_connection", l.MaxStreamsPerConnection, math.MaxInt32},
		{"limits.max_poll_endpoints", l.MaxPollEndpoints, 4096},
		{"limits.max_page_size", l.MaxPageSize, 10_000},
		{"limits.events_retained", l.EventsRetained, 100_000},
	}
	for _, n := range counts {
		if n.value < 1 || n.value > n.high {
			refuse(n.key, n.value, "want from 1 to %d", n.high)
		}
	}
	if n := l.IncarnationsKept; n < 0 || n > maxIncarnationsKept {
		refuse("limits.incarnations_kept", n, "want from 0 to %d", maxIncarnationsKept)
	}
}

// maxIncarnationsKept bounds what one process can fill.
const maxIncarnationsKept = 100

// parseLevel reads one of the four names.
func parseLevel(name string) (slog.Level, error) {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if name == strings.ToLower(level.String()) {
			return level, nil
		}
	}
	return 0, errors.New("want debug, info, warn or error")
}
