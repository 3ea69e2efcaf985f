package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestCommandLine(t *testing.T) {
	tests := []struct {
		name           string
		args           []string
		code           exitCode
		stdout, stderr string // what each says, among other things
	}{
		{"version", []string{"--version"}, exitOK, "piped ", ""},
		{"help", []string{"--help"}, exitOK, "--listen unix:///PATH", ""},
		{"good configuration", []string{"--check-config", "--log-level", "warn"}, exitOK, "ok", ""},
		{"good file", []string{"--check-config", "--config", "../../config.yaml"}, exitOK, "ok", ""},
		{"bad configuration", []string{"--check-config", "--log-level", "loud"}, exitConfig, "", "piped: error: log.level"},
		{"bad configuration is not printed", []string{"--print-config", "--log-level", "loud"}, exitConfig, "", "piped: error: log.level"},
		{"bad configuration is not served", []string{"--listen", "tcp://:1"}, exitConfig, "", "ssh -L"},
		{"each error on its line", []string{"--check-config", "--log-level", "x", "--log-format", "y"}, exitConfig, "", "debug, info, warn or error\npiped: error: log.format"},
		{"printed configuration", []string{"--print-config", "--log-size", "8MiB"}, exitOK, "  log_size: 8MiB\n", ""},
		{"unknown flag", []string{"--nope"}, exitUsage, "", "unknown flag: --nope"},
		{"argument", []string{"start"}, exitUsage, "", `unexpected argument "start"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(tt.args, &stdout, &stderr); code != tt.code {
				t.Errorf("exit status %d, want %d", code, tt.code)
			}
			for _, out := range []struct{ name, got, want string }{{"stdout", stdout.String(), tt.stdout}, {"stderr", stderr.String(), tt.stderr}} {
				if !strings.Contains(out.got, out.want) || (out.want == "") != (out.got == "") {
					t.Errorf("%s says %q, want %q", out.name, out.got, out.want)
				}
			}
		})
	}
}

func TestCheckNamesVariablesThatNobodyKnows(t *testing.T) {
	t.Setenv("PIPED_LOGLEVEL", "warn")
	var stdout, stderr bytes.Buffer
	if code := run([]string{"--check-config"}, &stdout, &stderr); code != exitOK || stdout.String() != "ok\n" {
		t.Errorf("exit status %d, stdout says %q", code, stdout.String())
	}
	if want := "piped: warning: unknown variable PIPED_LOGLEVEL in the environment\n"; stderr.String() != want {
		t.Errorf("stderr says %q, want %q", stderr.String(), want)
	}
}

func TestLogHasTheFormatAndLevelAskedFor(t *testing.T) {
	for format, want := range map[string]string{formatText: `level=WARN msg=seen`, formatJSON: `"level":"WARN","msg":"seen"`} {
		var out bytes.Buffer
		log, level := newLogger(&out, logConfig{Level: "warn", Format: format})
		log.Info("hidden")
		log.Log(t.Context(), slog.LevelWarn, "seen")
		if got := out.String(); !strings.Contains(got, want) || strings.Contains(got, "hidden") {
			t.Errorf("format %s writes %q, want %q and nothing else", format, got, want)
		}
		level.Set(slog.LevelInfo)
		if log.Info("shown now"); !strings.Contains(out.String(), "shown now") {
			t.Errorf("format %s: the level did not change", format)
		}
	}
}
