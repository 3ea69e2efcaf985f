package main

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// rewrite replaces a configuration file.
func rewrite(t *testing.T, path string, lines ...string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A reloaded is a reloader with all that it tells.
type reloaded struct {
	*reloader
	path    string
	log     syncBuffer
	applied []config
}

func (r *reloaded) apply(c config) { r.applied = append(r.applied, c) }

func startReloader(t *testing.T, args []string, lines ...string) *reloaded {
	t.Helper()
	r := &reloaded{path: writeConfig(t, strings.Join(lines, "\n"))}
	opts, err := parseFlags(append([]string{"--config", r.path}, args...))
	if err != nil {
		t.Fatal(err)
	}
	cfg, _, err := load(opts)
	if err != nil {
		t.Fatal(err)
	}
	log, level := newLogger(&r.log, cfg.Log)
	r.reloader = newReloader(opts, cfg, level, startNotifier(t, log), log)
	return r
}

func TestReloadPutsInForceWhatCanChange(t *testing.T) {
	r := startReloader(t, []string{"--ended-max", "7"}, "log: {level: warn}", "retention: {ended_for: 1h}")
	rewrite(t, r.path, "log: {level: debug}", "retention: {ended_for: 2h, ended_max: 9}", "heartbeat_interval: 5s",
		"limits: {lease_duration: 1m, max_message_size: 1MiB, events_retained: 5}", "idle_exit: 1h")
	r.reload(r.apply)
	if len(r.applied) != 1 {
		t.Fatalf("applied %d times, want once; the log:\n%s", len(r.applied), r.log.String())
	}
	got, want := r.applied[0], startReloader(t, []string{"--ended-max", "7"}).running
	want.Log.Level = "debug"
	want.Retention.EndedFor = duration(2 * time.Hour)
	want.HeartbeatInterval = duration(5 * time.Second)
	want.Limits.LeaseDuration = duration(time.Minute)
	want.Limits.MaxMessageSize = mib
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("in force (-want +got):\n%s", diff)
	}
	if r.level.Level() != slog.LevelDebug {
		t.Errorf("the log has level %v", r.level.Level())
	}
	for _, text := range []string{"configuration reloaded, in part", "left=\"[idle_exit limits.events_retained]\"", "limits.lease_duration"} {
		if !strings.Contains(r.log.String(), text) {
			t.Errorf("the log does not say %q:\n%s", text, r.log.String())
		}
	}
	r.reload(r.apply)
	if len(r.applied) != 1 {
		t.Error("applied again, and nothing has changed")
	}
}

func TestWrongConfigurationChangesNothing(t *testing.T) {
	tests := []struct{ name, before, after, want string }{
		{"unknown key", "", "retentoin: {ended_for: 2h}\nheartbeat_interval: 5s", "unknown key retentoin"},
		{"wrong value", "", "log: {level: loud}\nheartbeat_interval: 5s", "log.level"},
		{"not YAML", "", "{", "configuration file"},
		{"right only with what stays", "limits: {log_size: 64KiB}", "limits: {log_size: 4MiB, tail_size: 1MiB}", "limits.tail_size"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := startReloader(t, nil, tt.before)
			before := r.running
			rewrite(t, r.path, tt.after)
			r.reload(r.apply)
			if diff := cmp.Diff(before, r.running); diff != "" || len(r.applied) != 0 {
				t.Errorf("applied %d times (-before +after):\n%s", len(r.applied), diff)
			}
			if log := r.log.String(); !strings.Contains(log, "not reloaded") || !strings.Contains(log, tt.want) {
				t.Errorf("the log does not say that it is not reloaded, and %q:\n%s", tt.want, log)
			}
		})
	}
}

func TestLogSizeChangesWhileThePartsStay(t *testing.T) {
	small, large, larger := defaultConfig(), defaultConfig(), defaultConfig()
	small.Limits.LogSize, large.Limits.LogSize, larger.Limits.LogSize = 64*kib, mib, 8*mib
	if _, changed, left := merge(large, larger); len(changed) != 1 || len(left) != 0 {
		t.Errorf("a larger log: changed %v, left %v", changed, left)
	}
	if next, _, left := merge(large, small); len(left) != 1 || next.Limits.LogSize != mib {
		t.Errorf("a log below two parts: log_size %v, left %v", next.Limits.LogSize, left)
	}
}

func TestEachReloadableKeyIsASetting(t *testing.T) {
	c := defaultConfig()
	values := fields(&c)
	known := map[string]bool{}
	for _, s := range settings() {
		known[s.key] = true
		if _, ok := values[s.key]; !ok {
			t.Errorf("%s is a setting, and not a field of the configuration", s.key)
		}
	}
	for _, key := range reloadable {
		if !known[key] {
			t.Errorf("%s is reloadable, and not a setting", key)
		}
	}
}

func TestHangUpReloadsAndTellsTheServiceManager(t *testing.T) {
	m := startManager(t)
	r := startReloader(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.run(ctx, r.apply)
	}()
	rewrite(t, r.path, "heartbeat_interval: 5s")
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if got := m.hear(); !strings.HasPrefix(got, "RELOADING=1\n") {
		t.Errorf("the service manager hears %q first", got)
	}
	if got, want := m.hear(), "READY=1\nSTATUS=serving; configuration reloaded"; got != want {
		t.Errorf("the service manager hears %q then, want %q", got, want)
	}
	cancel()
	<-done
	if len(r.applied) != 1 || time.Duration(r.applied[0].HeartbeatInterval) != 5*time.Second {
		t.Errorf("applied %+v", r.applied)
	}
}

// TestDocumentNamesWhatReloads keeps the table of docs/systemd.md and the code the same.
func TestDocumentNamesWhatReloads(t *testing.T) {
	text, err := os.ReadFile("../../docs/systemd.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n| key | holds for |\n")
	table, _, _ := strings.Cut(rest, "\n\n")
	var named []string
	for row := range strings.Lines(table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " |")
		for key := range strings.SplitSeq(cell, ", ") {
			if key := strings.Trim(key, "`"); key != "---" {
				named = append(named, key)
			}
		}
	}
	slices.Sort(named)
	want := slices.Sorted(slices.Values(reloadable))
	if diff := cmp.Diff(want, named); diff != "" {
		t.Errorf("docs/systemd.md (-code +document):\n%s", diff)
	}
}
