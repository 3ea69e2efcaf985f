package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// loadArgs loads what the command line args ask for.
func loadArgs(t *testing.T, args ...string) (config, []string, error) {
	t.Helper()
	opts, err := parseFlags(args)
	if err != nil {
		t.Fatalf("flags %q: %v", args, err)
	}
	return load(opts)
}

// writeConfig writes text to a file and returns its path.
func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlagWinsOverEnvironmentOverFileOverDefault(t *testing.T) {
	file := writeConfig(t, "listen: [unix:///f]\nlog: {level: warn}\nlimits: {log_size: 8MiB, max_page_size: 7}\nretention: {ended_for: 2h}\n")
	type sources struct{ flag, env, file bool }
	all := sources{true, true, true}
	none := sources{}
	tests := []struct {
		key, flag, variable string
		flagValue, envValue string
		get                 func(config) any
		want                map[sources]any
	}{
		{
			"listen", "listen", "PIPED_LISTEN", "unix:///a,b", "unix:///e,unix:///e2",
			func(c config) any { return strings.Join(c.Listen, " ") },
			map[sources]any{all: "unix:///a,b", {false, true, true}: "unix:///e unix:///e2", {false, false, true}: "unix:///f", none: "unix:///run/user/7/piped/piped.sock"},
		},
		{
			"log.level", "log-level", "PIPED_LOG_LEVEL", "debug", "error",
			func(c config) any { return c.Log.Level },
			map[sources]any{all: "debug", {false, true, true}: "error", {false, false, true}: "warn", none: "info"},
		},
		{
			"limits.log_size", "log-size", "PIPED_LIMITS_LOG_SIZE", "3MiB", "5242880",
			func(c config) any { return c.Limits.LogSize },
			map[sources]any{all: 3 * mib, {false, true, true}: 5 * mib, {false, false, true}: 8 * mib, none: 4 * mib, {true, false, false}: 3 * mib, {false, true, false}: 5 * mib},
		},
		{
			"limits.max_page_size", "max-page-size", "PIPED_LIMITS_MAX_PAGE_SIZE", "5", "6",
			func(c config) any { return c.Limits.MaxPageSize },
			map[sources]any{all: 5, {false, true, true}: 6, {false, false, true}: 7, none: 1000},
		},
		{
			"retention.ended_for", "ended-for", "PIPED_RETENTION_ENDED_FOR", "0", "90s",
			func(c config) any { return time.Duration(c.Retention.EndedFor) },
			map[sources]any{all: time.Duration(0), {false, true, true}: 90 * time.Second, {false, false, true}: 2 * time.Hour, none: time.Hour},
		},
	}
	for _, tt := range tests {
		for from, want := range tt.want {
			t.Run(tt.key, func(t *testing.T) {
				t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
				var args []string
				if from.flag {
					args = append(args, "--"+tt.flag, tt.flagValue)
				}
				if from.env {
					t.Setenv(tt.variable, tt.envValue)
				}
				if from.file {
					args = append(args, "--config", file)
				}
				c, _, err := loadArgs(t, args...)
				if err != nil {
					t.Fatal(err)
				}
				if got := tt.get(c); got != want {
					t.Errorf("with %+v: got %v, want %v", from, got, want)
				}
			})
		}
	}
}

func TestEveryKeyHasAFlagAndAVariable(t *testing.T) {
	// A value for each key that differs from the default.
	values := map[string]string{
		"listen": "unix:///other", "log.level": "warn", "log.format": "json",
		"limits.log_size": "6MiB", "limits.tail_size": "1KiB", "limits.max_message_size": "2MiB",
		"limits.max_streams_per_connection": "11", "limits.max_poll_endpoints": "12", "limits.max_page_size": "13",
		"limits.lease_duration": "19s", "limits.max_lease_duration": "20m", "limits.events_retained": "21",
		"limits.stop_close_grace": "22s", "limits.stop_grace": "23s", "limits.max_stop_grace": "24m", "limits.incarnations_kept": "25",
		"retention.ended_for": "14m", "retention.ended_max": "15",
		"heartbeat_interval": "16s", "shutdown_grace": "17s", "idle_exit": "18s", "durability": "memory",
		"environment.allow": "OTHER_*", "environment.deny": "OTHER",
		"keeper.program": "/other/keeper", "keeper.socket": "/other/socket", "keeper.cgroup": "off", "sessions_at_exit": "leave",
	}
	standard, _, err := loadArgs(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range settings() {
		t.Run(s.key, func(t *testing.T) {
			value, ok := values[s.key]
			if !ok {
				t.Fatal("this test has no value for the key")
			}
			byFlag, _, err := loadArgs(t, "--"+s.flag, value)
			if err != nil {
				t.Fatal(err)
			}
			t.Setenv(s.variable(), value)
			byVariable, unknown, err := loadArgs(t)
			if err != nil {
				t.Fatal(err)
			}
			if cmp.Equal(byFlag, standard) {
				t.Error("the flag changes nothing")
			}
			if diff := cmp.Diff(byFlag, byVariable); diff != "" {
				t.Errorf("flag and variable differ (-flag +variable):\n%s", diff)
			}
			if len(unknown) > 0 {
				t.Errorf("variables %q are called unknown", unknown)
			}
		})
	}
}

func TestConfigFileOfTheRepositoryEqualsTheDefaults(t *testing.T) {
	const path = "../../config.yaml"
	fromFile, _, err := loadArgs(t, "--config", path)
	if err != nil {
		t.Fatal(err)
	}
	standard, _, err := loadArgs(t)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(standard, fromFile); diff != "" {
		t.Errorf("config.yaml differs from the defaults (-default +file):\n%s", diff)
	}
	// Equal values could also come from keys that are missing. What is left
	// without the comments has to be the defaults as they are printed.
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for line := range strings.Lines(string(text)) {
		if bare := strings.TrimSpace(line); bare != "" && !strings.HasPrefix(bare, "#") {
			keys = append(keys, line)
		}
	}
	want, err := defaultConfig().YAML()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, strings.Join(keys, "")); diff != "" {
		t.Errorf("config.yaml without its comments (-default +file):\n%s", diff)
	}
}

func TestPrintedConfigReadsBackTheSame(t *testing.T) {
	first, _, err := loadArgs(t, "--listen", "unix:///x/y.sock", "--listen", "unix:///z.sock", "--log-size", "5000000", "--idle-exit", "90s")
	if err != nil {
		t.Fatal(err)
	}
	text, err := first.YAML()
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := loadArgs(t, "--config", writeConfig(t, text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("(-printed +read back):\n%s", diff)
	}
}

func TestWrongValuesAreNamed(t *testing.T) {
	long := "unix:///" + strings.Repeat("x", 107)
	tests := []struct {
		name, file string
		args       []string
		want       []string // in the text of the error
	}{
		{"unknown key", "limits: {log_siez: 1}", nil, []string{"unknown key limits.log_siez"}},
		{"unknown key at the top", "addr: x", nil, []string{"unknown key addr"}},
		{"unknown key without a value", "limits:\n  foo:\n", nil, []string{"unknown key limits.foo"}},
		{"unknown key with a dot", "log.level: info", nil, []string{"unknown key log.level"}},
		{"unknown empty section", "limits: {}\nLimts: {}", nil, []string{"unknown key Limts"}},
		{"number in a list", "listen: [1]", nil, []string{"listen:", "want a list"}},
		{"two unknown keys", "a: 1\nb: 2", nil, []string{"unknown key a", "unknown key b"}},
		{"scalar for a section", "log: loud", nil, []string{"log:", `"loud"`, "want keys below it"}},
		{"section for a scalar", "idle_exit: {a: 1}", nil, []string{"idle_exit:", "want a duration"}},
		{"not YAML", "a: [", nil, []string{"config.yaml", "yaml"}},
		{"size without a known unit", "limits: {log_size: 4MB}", nil, []string{"limits.log_size:", `"4MB"`, "want a size", "config.yaml"}},
		{"negative size", "limits: {tail_size: -1}", nil, []string{"limits.tail_size:", `"-1"`, "want a size"}},
		{"fraction as a size", "limits: {log_size: 1.5}", nil, []string{"limits.log_size:", "want a size"}},
		{"too large for a size", "limits: {max_message_size: 9999999TiB}", nil, []string{"limits.max_message_size:", "want a size"}},
		{"boolean as a count", "limits: {max_page_size: true}", nil, []string{"limits.max_page_size:", `"true"`, "want a whole number"}},
		{"fraction as a count", "retention: {ended_max: 1.5}", nil, []string{"retention.ended_max:", "want a whole number"}},
		{"duration without unit", "heartbeat_interval: 20", nil, []string{"heartbeat_interval:", `"20"`, "want a duration"}},
		{"number as a list", "listen: 5", nil, []string{"listen:", `"5"`, "want a list"}},
		{"number as a word", "log: {level: 5}", nil, []string{"log.level:", `"5"`, "want"}},
		{"log level", "", []string{"--log-level", "loud"}, []string{"log.level:", `"loud"`, "flag --log-level", "want debug, info, warn or error"}},
		{"log format", "", []string{"--log-format", "xml"}, []string{"log.format:", "want text or json"}},
		{"empty flag", "", []string{"--log-size", ""}, []string{"limits.log_size:", "want a size"}},
		{"small log", "", []string{"--log-size", "63KiB"}, []string{"limits.log_size:", `"63KiB"`, "from 64KiB to 1GiB"}},
		{"tail larger than the log", "", []string{"--tail-size", "5MiB"}, []string{"limits.tail_size:", "at most limits.log_size"}},
		{"no message fits", "", []string{"--max-message-size", "0"}, []string{"limits.max_message_size:", "from 1 to"}},
		{"no streams", "", []string{"--max-streams-per-connection", "0"}, []string{"limits.max_streams_per_connection:", "from 1 to"}},
		{"no endpoints", "", []string{"--max-poll-endpoints", "-1"}, []string{"limits.max_poll_endpoints:", "from 1 to"}},
		{"no entries", "", []string{"--max-page-size", "0"}, []string{"limits.max_page_size:", "from 1 to"}},
		{"no lease", "", []string{"--lease-duration", "0"}, []string{"limits.lease_duration:", "from 1ms to 1h"}},
		{"a lease beyond the longest", "", []string{"--max-lease-duration", "10s"}, []string{"limits.lease_duration:", `"30s"`, "to 10s"}},
		{"no longest lease", "", []string{"--max-lease-duration", "0"}, []string{"limits.max_lease_duration:", "from 1ms to"}},
		{"no events", "", []string{"--events-retained", "0"}, []string{"limits.events_retained:", "from 1 to"}},
		{"negative stop grace", "", []string{"--stop-grace", "-1s"}, []string{"limits.stop_grace:", "from 0s to 24h"}},
		{"a stop grace beyond the longest", "", []string{"--max-stop-grace", "1s"}, []string{"limits.stop_close_grace:", `"2s"`, "to 1s"}},
		{"negative retention", "", []string{"--ended-for", "-1s"}, []string{"retention.ended_for:", "from 0s to"}},
		{"negative count", "", []string{"--ended-max", "-1"}, []string{"retention.ended_max:", "from 0 to"}},
		{"heartbeat of nothing", "", []string{"--heartbeat-interval", "0"}, []string{"heartbeat_interval:", "from 100ms to 1h"}},
		{"negative grace", "", []string{"--shutdown-grace", "-1s"}, []string{"shutdown_grace:", "from 0s to"}},
		{"negative idleness", "", []string{"--idle-exit", "-1s"}, []string{"idle_exit:", "from 0s to"}},
		{"a pattern with its star elsewhere", "environment: {deny: ['*_KEY']}", nil, []string{"environment.deny:", `"*_KEY"`, "with * at its end"}},
		{"no name", "environment: {allow: ['']}", nil, []string{"environment.allow:", `""`, "config.yaml", "want the name"}},
		{"a word for a list", "environment: {allow: 5}", nil, []string{"environment.allow:", "want a list"}},
		{"TCP", "", []string{"--listen", "tcp://localhost:7"}, []string{"listen:", "tcp://localhost:7", "ssh -L"}},
		{"host and port", "", []string{"--listen", "localhost:7"}, []string{"ssh -L"}},
		{"bare path", "", []string{"--listen", "/run/x.sock"}, []string{"want unix:///run/x.sock"}},
		{"relative path", "", []string{"--listen", "unix://x.sock"}, []string{"absolute path"}},
		{"relative path without slashes", "", []string{"--listen", "unix:x.sock"}, []string{"absolute path"}},
		{"directory", "", []string{"--listen", "unix:///run/"}, []string{"names a directory"}},
		{"escape", "", []string{"--listen", "unix:///run/a%20b"}, []string{"may not contain %"}},
		{"long path", "", []string{"--listen", long}, []string{"108 bytes", "at most 107"}},
		{"same address twice", "", []string{"--listen", "unix:///a", "--listen", "unix:////a"}, []string{"is there twice"}},
		{"two at once", "", []string{"--log-level", "x", "--idle-exit", "-1s"}, []string{"log.level:", "idle_exit:"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := tt.args
			if tt.file != "" {
				args = append(args, "--config", writeConfig(t, tt.file))
			}
			_, _, err := loadArgs(t, args...)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func TestValueFromTheEnvironmentIsNamedByItsVariable(t *testing.T) {
	t.Setenv("PIPED_LIMITS_LOG_SIZE", "many")
	_, _, err := loadArgs(t)
	if err == nil || !strings.Contains(err.Error(), "PIPED_LIMITS_LOG_SIZE") {
		t.Errorf("error %v does not name the variable", err)
	}
}

func TestUnknownVariablesAreFoundButNotThoseOfClientsAndChildren(t *testing.T) {
	t.Setenv("PIPED_ADDR", "unix:///elsewhere")
	t.Setenv("PIPED_FDS", "ctl:3:mp")
	t.Setenv("PIPED_LOG_LEVEL", "warn")
	t.Setenv("PIPED_LOGLEVEL", "warn")
	t.Setenv("PIPED_LOG", "x")
	c, unknown, err := loadArgs(t)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"PIPED_LOG", "PIPED_LOGLEVEL"}; !slices.Equal(unknown, want) {
		t.Errorf("unknown variables %q, want %q", unknown, want)
	}
	if c.Log.Level != "warn" {
		t.Errorf("log.level is %q: PIPED_LOG hides PIPED_LOG_LEVEL", c.Log.Level)
	}
	if slices.Contains(c.Listen, "unix:///elsewhere") {
		t.Error("PIPED_ADDR was taken as an address to listen at")
	}
}

func TestMissingFileIsAnError(t *testing.T) {
	_, _, err := loadArgs(t, "--config", filepath.Join(t.TempDir(), "none.yaml"))
	if err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("error %v does not name the file", err)
	}
}

func TestEmptyFileAndEmptyValuesAreDefaults(t *testing.T) {
	standard, _, err := loadArgs(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "# nothing\n", "listen:\nlog:\nlimits:\n  log_size:\n"} {
		c, _, err := loadArgs(t, "--config", writeConfig(t, text))
		if err != nil {
			t.Errorf("file %q: %v", text, err)
		}
		if diff := cmp.Diff(standard, c); diff != "" {
			t.Errorf("file %q (-default +got):\n%s", text, diff)
		}
	}
}

func TestSizesAndDurationsAreWrittenAsTheyAreRead(t *testing.T) {
	sizes := map[string]size{"0": 0, "1": 1, "1023": 1023, "1KiB": kib, "1025": 1025, "1536KiB": 1536 * kib, "4MiB": 4 * mib, "1GiB": gib, "3TiB": 3 * tib}
	for text, want := range sizes {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
		if got := want.String(); got != text {
			t.Errorf("size %d is written %q, want %q", want, got, text)
		}
	}
	durations := map[string]time.Duration{"0s": 0, "500ms": 500 * time.Millisecond, "20s": 20 * time.Second, "1m": time.Minute,
		"10m": 10 * time.Minute, "1h": time.Hour, "1h0m20s": time.Hour + 20*time.Second, "1h30m": 90 * time.Minute, "8760h": 8760 * time.Hour}
	for text, want := range durations {
		if got, err := parseDuration(text); err != nil || time.Duration(got) != want {
			t.Errorf("parseDuration(%q) = %v, %v, want %v", text, got, err, want)
		}
		if got := duration(want).String(); got != text {
			t.Errorf("duration %v is written %q, want %q", want, got, text)
		}
	}
}
