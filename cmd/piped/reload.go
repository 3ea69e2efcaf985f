package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"github.com/piped-dev/piped/pipe"
)

// reloadable names the keys that take effect while the daemon runs. What a
// session has is what held when it was made. The others are left as they were,
// and the log names them.
var reloadable = []string{
	"log.level",
	"limits.log_size", "limits.tail_size", "limits.max_message_size", "limits.max_poll_endpoints", "limits.max_page_size",
	"limits.lease_duration", "limits.max_lease_duration",
	"limits.stop_close_grace", "limits.stop_grace", "limits.max_stop_grace", "limits.incarnations_kept",
	"retention.ended_for", "retention.ended_max",
	"environment.allow", "environment.deny",
	"heartbeat_interval", "shutdown_grace",
}

// A reloader reads the configuration again on SIGHUP, which is what systemctl
// reload sends.
type reloader struct {
	opts    *options
	level   *slog.LevelVar
	notify  *notifier
	log     *slog.Logger
	signals chan os.Signal
	running config
}

// newReloader makes a reloader for the configuration that opts asked for, which
// is running. From now on SIGHUP does not end the process. level is what log
// looks at.
func newReloader(opts *options, running config, level *slog.LevelVar, notify *notifier, log *slog.Logger) *reloader {
	r := &reloader{opts: opts, level: level, notify: notify, log: log, running: running, signals: make(chan os.Signal, 1)}
	signal.Notify(r.signals, syscall.SIGHUP)
	return r
}

// run reloads on each signal until ctx is done. apply gets the configuration
// that is in force from then on; it is not called when nothing changed.
func (r *reloader) run(ctx context.Context, apply func(config)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.signals:
			r.notify.reloading()
			r.notify.ready(r.reload(apply))
		}
	}
}

// reload reads the configuration, and returns the outcome as a line. A
// configuration with a mistake changes nothing at all.
func (r *reloader) reload(apply func(config)) string {
	wanted, _, err := load(r.opts)
	if err != nil {
		r.log.Error("configuration not reloaded, the one before stays in force", "error", err)
		return "serving; the configuration has a mistake and was not reloaded"
	}
	next, changed, left := merge(r.running, wanted)
	if err := next.validate(); err != nil {
		r.log.Error("configuration not reloaded: what can change is wrong with what needs a restart", "left", left, "error", err)
		return "serving; the configuration needs a restart and was not reloaded"
	}
	if len(changed) > 0 {
		r.running = next
		level, _ := parseLevel(next.Log.Level) // validated
		r.level.Set(level)
		apply(next)
	}
	if len(left) > 0 {
		r.log.Warn("configuration reloaded, in part: the keys that are left take effect at a restart", "changed", changed, "left", left)
		return "serving; configuration reloaded, but a restart is needed for " + strings.Join(left, ", ")
	}
	r.log.Info("configuration reloaded", "changed", changed)
	return "serving; configuration reloaded"
}

// merge returns running with what can be changed of wanted, the keys that this
// changed, and those that differ and were left.
func merge(running, wanted config) (next config, changed, left []string) {
	next = running
	have, want := fields(&next), fields(&wanted)
	for key, field := range have {
		switch {
		case reflect.DeepEqual(field.Interface(), want[key].Interface()):
		case slices.Contains(reloadable, key) && (key != "limits.log_size" || partOf(running) == partOf(wanted)):
			field.Set(want[key])
			changed = append(changed, key)
		default:
			left = append(left, key)
		}
	}
	slices.Sort(changed)
	slices.Sort(left)
	return next, changed, left
}

// partOf is the size of the parts of large messages. Clients ask for it once, and
// two parts have to fit into each log.
func partOf(c config) size { return min(pipe.DefaultPart, c.Limits.LogSize/2) }

// fields returns the values of the configuration by the names of their keys.
func fields(c *config) map[string]reflect.Value {
	all := make(map[string]reflect.Value)
	var walk func(section reflect.Value, name string)
	walk = func(section reflect.Value, name string) {
		for i := range section.NumField() {
			key, field := name+section.Type().Field(i).Tag.Get("mapstructure"), section.Field(i)
			if field.Kind() == reflect.Struct {
				walk(field, key+".")
				continue
			}
			all[key] = field
		}
	}
	walk(reflect.ValueOf(c).Elem(), "")
	return all
}
