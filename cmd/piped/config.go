package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"github.com/piped-dev/piped/client"
	"github.com/piped-dev/piped/server"
)

// config is the configuration of the daemon; config.yaml at the root of the
// repository says what each key means.
type config struct {
	Listen            []string        `mapstructure:"listen" yaml:"listen"`
	Log               logConfig       `mapstructure:"log" yaml:"log"`
	Limits            limitsConfig    `mapstructure:"limits" yaml:"limits"`
	Durability        string          `mapstructure:"durability" yaml:"durability"`
	Retention         retentionConfig `mapstructure:"retention" yaml:"retention"`
	Environment       environConfig   `mapstructure:"environment" yaml:"environment"`
	HeartbeatInterval duration        `mapstructure:"heartbeat_interval" yaml:"heartbeat_interval"`
	ShutdownGrace     duration        `mapstructure:"shutdown_grace" yaml:"shutdown_grace"`
	IdleExit          duration        `mapstructure:"idle_exit" yaml:"idle_exit"`
	Keeper            keeperConfig    `mapstructure:"keeper" yaml:"keeper"`
	SessionsAtExit    string          `mapstructure:"sessions_at_exit" yaml:"sessions_at_exit"`
}

type keeperConfig struct {
	Program string `mapstructure:"program" yaml:"program"`
	Socket  string `mapstructure:"socket" yaml:"socket"`
	Cgroup  string `mapstructure:"cgroup" yaml:"cgroup"`
}

type logConfig struct {
	Level  string `mapstructure:"level" yaml:"level"`
	Format string `mapstructure:"format" yaml:"format"`
}

type limitsConfig struct {
	LogSize                 size     `mapstructure:"log_size" yaml:"log_size"`
	TailSize                size     `mapstructure:"tail_size" yaml:"tail_size"`
	MaxMessageSize          size     `mapstructure:"max_message_size" yaml:"max_message_size"`
	MaxStreamsPerConnection int      `mapstructure:"max_streams_per_connection" yaml:"max_streams_per_connection"`
	MaxPollEndpoints        int      `mapstructure:"max_poll_endpoints" yaml:"max_poll_endpoints"`
	MaxPageSize             int      `mapstructure:"max_page_size" yaml:"max_page_size"`
	LeaseDuration           duration `mapstructure:"lease_duration" yaml:"lease_duration"`
	MaxLeaseDuration        duration `mapstructure:"max_lease_duration" yaml:"max_lease_duration"`
	EventsRetained          int      `mapstructure:"events_retained" yaml:"events_retained"`
	StopCloseGrace          duration `mapstructure:"stop_close_grace" yaml:"stop_close_grace"`
	StopGrace               duration `mapstructure:"stop_grace" yaml:"stop_grace"`
	MaxStopGrace            duration `mapstructure:"max_stop_grace" yaml:"max_stop_grace"`
	IncarnationsKept        int      `mapstructure:"incarnations_kept" yaml:"incarnations_kept"`
}

type retentionConfig struct {
	EndedFor duration `mapstructure:"ended_for" yaml:"ended_for"`
	EndedMax int      `mapstructure:"ended_max" yaml:"ended_max"`
}

type environConfig struct {
	Allow []string `mapstructure:"allow" yaml:"allow"`
	Deny  []string `mapstructure:"deny" yaml:"deny"`
}

// defaultConfig is what holds where nothing is said. Listen is empty: load
// puts the default address of the user there.
func defaultConfig() config {
	o := server.DefaultOptions()
	return config{
		Listen: []string{},
		Log:    logConfig{Level: "info", Format: formatText},
		Limits: limitsConfig{
			LogSize:                 size(o.Sessions.LogSize),
			TailSize:                size(o.Sessions.TailSize),
			MaxMessageSize:          size(o.Sessions.MaxMessageSize),
			MaxStreamsPerConnection: o.MaxStreamsPerConnection,
			MaxPollEndpoints:        o.MaxPollEndpoints,
			MaxPageSize:             o.MaxPageSize,
			LeaseDuration:           duration(o.Sessions.LeaseDuration),
			MaxLeaseDuration:        duration(o.Sessions.MaxLeaseDuration),
			EventsRetained:          o.Sessions.EventsRetained,
			StopCloseGrace:          duration(o.Sessions.StopCloseGrace),
			StopGrace:               duration(o.Sessions.StopGrace),
			MaxStopGrace:            duration(o.Sessions.MaxStopGrace),
			IncarnationsKept:        o.Sessions.IncarnationsKept,
		},
		Durability:        durabilityAuto,
		Retention:         retentionConfig{EndedFor: duration(o.Sessions.EndedFor), EndedMax: o.Sessions.EndedMax},
		Environment:       environConfig{Allow: o.Sessions.Environment.Allow, Deny: o.Sessions.Environment.Deny},
		HeartbeatInterval: duration(o.HeartbeatInterval),
		ShutdownGrace:     duration(o.ShutdownGrace),
		IdleExit:          0,
		Keeper:            keeperConfig{Program: keeperAuto, Cgroup: cgroupAuto},
		SessionsAtExit:    sessionsEnd,
	}
}

// delimiter stands between the parts of a key inside viper. Its own "." would
// cut keys that contain a dot.
const delimiter = "::"

// setting is one key: its dotted name, the flag for it, what the flag says in
// --help, and the default.
type setting struct {
	key, flag, usage string
	def              any
}

func (s setting) viperKey() string { return strings.ReplaceAll(s.key, ".", delimiter) }

// variable is the name of the setting in the environment.
func (s setting) variable() string {
	return "PIPED_" + strings.ToUpper(strings.ReplaceAll(s.key, ".", "_"))
}

// settings lists every key.
func settings() []setting {
	d := defaultConfig()
	return []setting{
		{"listen", "listen", "listen at `unix:///PATH`; may be repeated (default: this user's address)", d.Listen},
		{"log.level", "log-level", "log from this `LEVEL` on: debug, info, warn or error", d.Log.Level},
		{"log.format", "log-format", "`FORMAT` of the log: text or json", d.Log.Format},
		{"limits.log_size", "log-size", "keep up to `SIZE` per direction of a pipe", d.Limits.LogSize},
		{"limits.tail_size", "tail-size", "keep the last `SIZE` of each output for observers", d.Limits.TailSize},
		{"limits.max_message_size", "max-message-size", "largest message, as a `SIZE`", d.Limits.MaxMessageSize},
		{"limits.max_streams_per_connection", "max-streams-per-connection", "serve up to `N` streams on one connection", d.Limits.MaxStreamsPerConnection},
		{"limits.max_poll_endpoints", "max-poll-endpoints", "take up to `N` endpoints in one Poll", d.Limits.MaxPollEndpoints},
		{"limits.max_page_size", "max-page-size", "list up to `N` sessions in one page", d.Limits.MaxPageSize},
		{"limits.lease_duration", "lease-duration", "a lease lasts this `DURATION` when its request does not say", d.Limits.LeaseDuration},
		{"limits.max_lease_duration", "max-lease-duration", "a lease lasts this `DURATION` at most", d.Limits.MaxLeaseDuration},
		{"limits.events_retained", "events-retained", "keep the last `N` events for WatchSessions", d.Limits.EventsRetained},
		{"limits.stop_close_grace", "stop-close-grace", "a process that is stopped has this `DURATION` after its input is closed", d.Limits.StopCloseGrace},
		{"limits.stop_grace", "stop-grace", "a process that is stopped has this `DURATION` after the signal", d.Limits.StopGrace},
		{"limits.max_stop_grace", "max-stop-grace", "longest `DURATION` that can be asked for of either", d.Limits.MaxStopGrace},
		{"limits.incarnations_kept", "incarnations-kept", "keep up to `N` incarnations of a process that are over", d.Limits.IncarnationsKept},
		{"retention.ended_for", "ended-for", "keep ended sessions this `DURATION`", d.Retention.EndedFor},
		{"retention.ended_max", "ended-max", "keep up to `N` ended sessions", d.Retention.EndedMax},
		{"environment.allow", "environment-allow", "let processes get variable `NAME`, or NAME*, of the daemon's; may be repeated", d.Environment.Allow},
		{"environment.deny", "environment-deny", "let no process have variable `NAME`, or NAME*; may be repeated", d.Environment.Deny},
		{"heartbeat_interval", "heartbeat-interval", "longest silence on a stream, as a `DURATION`", d.HeartbeatInterval},
		{"shutdown_grace", "shutdown-grace", "`DURATION` that sessions, and then streams, get to end in at shutdown", d.ShutdownGrace},
		{"durability", "durability", "keep logs in `WHAT`: kernel objects that can outlive the daemon, memory, or auto, which is kernel where that works", d.Durability},
		{"keeper.program", "keeper-program", "start `PROGRAM` as the keeper: auto finds piped-keeper, none leaves it to a service manager", d.Keeper.Program},
		{"keeper.socket", "keeper-socket", "`PATH` of the keeper's socket (default: beside the first address)", d.Keeper.Socket},
		{"keeper.cgroup", "keeper-cgroup", "where a keeper that is started gives sessions cgroups: auto, off, or the `PATH` of a cgroup", d.Keeper.Cgroup},
		{"sessions_at_exit", "sessions-at-exit", "`WHAT` becomes of sessions when the daemon is told to end: end, or leave them to the next daemon", d.SessionsAtExit},
		{"idle_exit", "idle-exit", "exit after this `DURATION` without sessions and connections; 0s is never", d.IdleExit},
	}
}

// load reads the configuration that opts ask for and validates it. The second
// result names the PIPED_* variables that nobody knows. Each error names the
// key, the value, where it came from, and what would be right; several are
// joined.
func load(opts *options) (config, []string, error) {
	v := viper.NewWithOptions(viper.KeyDelimiter(delimiter))
	v.SetConfigType("yaml")
	all := settings()
	for _, s := range all {
		v.SetDefault(s.viperKey(), s.def)
		// Each variable is bound by name. AutomaticEnv would let PIPED_LOG hide
		// every key below log.
		if err := v.BindEnv(s.viperKey(), s.variable()); err != nil {
			return config{}, nil, err
		}
		if err := v.BindPFlag(s.viperKey(), opts.set.Lookup(s.flag)); err != nil {
			return config{}, nil, err
		}
	}
	if opts.config != "" {
		if err := readFile(v, opts.config, all); err != nil {
			return config{}, nil, err
		}
	}
	var c config
	if err := decode(v, &c, all); err != nil {
		return config{}, nil, locate(err, v, opts, all)
	}
	if len(c.Listen) == 0 {
		address, err := client.DefaultSocket()
		if err != nil {
			return config{}, nil, err
		}
		c.Listen = []string{address}
	}
	if err := c.validate(); err != nil {
		return config{}, nil, locate(err, v, opts, all)
	}
	return c, strangers(os.Environ(), all), nil
}

// readFile merges the YAML file into v and refuses keys that do not exist.
func readFile(v *viper.Viper, path string, all []setting) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("configuration file: %w", err)
	}
	if err := v.ReadConfig(bytes.NewReader(text)); err != nil {
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	// UnmarshalExact sees no key whose value is null or empty, and viper knows
	// keys in lower case only; the document itself knows all.
	var document map[string]any
	if err := yaml.Unmarshal(text, &document); err != nil {
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	var errs []error
	for _, key := range unknownKeys(document, "", all) {
		errs = append(errs, fmt.Errorf("configuration file %s: unknown key %s", path, key))
	}
	return errors.Join(errs...)
}

// unknownKeys returns the keys of a section of the file that no setting has,
// sorted. The section's own name, which ends in a dot, stands before each.
func unknownKeys(section map[string]any, name string, all []setting) []string {
	var unknown []string
	for part, value := range section {
		key := name + strings.ToLower(part)
		isSection := !strings.Contains(part, ".") &&
			slices.ContainsFunc(all, func(s setting) bool { return strings.HasPrefix(s.key, key+".") })
		isKey := !strings.Contains(part, ".") &&
			slices.ContainsFunc(all, func(s setting) bool { return s.key == key })
		inner, isMap := value.(map[string]any)
		switch {
		case isSection && isMap:
			unknown = append(unknown, unknownKeys(inner, key+".", all)...)
		case !isSection && !isKey:
			unknown = append(unknown, name+part)
		}
	}
	slices.Sort(unknown)
	return unknown
}

// decode fills c from v, strictly: no key is left over, and no value is bent
// into a type that it does not have. An error is a join of *settingError.
func decode(v *viper.Viper, c *config, all []setting) error {
	err := v.UnmarshalExact(c, viper.DecodeHook(decodeScalar), func(d *mapstructure.DecoderConfig) {
		d.WeaklyTypedInput = false
	})
	if err == nil {
		return nil
	}
	var errs []error
	for _, e := range leaves(err) {
		key, _, _ := strings.Cut(e.Name(), "[") // an entry of a list stands for the list
		want := e.Unwrap().Error()
		switch i := slices.IndexFunc(all, func(s setting) bool { return s.key == key }); {
		case i < 0 && key != "":
			want = "want keys below it"
		case i < 0:
		case reflect.TypeOf(all[i].def).Kind() == reflect.Slice:
			want = "want a list"
		case reflect.TypeOf(all[i].def).Kind() == reflect.String:
			want = "want a word"
		}
		errs = append(errs, &settingError{key: key, value: v.Get(setting{key: key}.viperKey()), want: want})
	}
	if len(errs) == 0 {
		return err
	}
	return errors.Join(errs...)
}

// leaves returns the innermost decode errors of the tree.
func leaves(err error) []*mapstructure.DecodeError {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var out []*mapstructure.DecodeError
		for _, one := range many.Unwrap() {
			out = append(out, leaves(one)...)
		}
		return out
	}
	next := errors.Unwrap(err)
	if next != nil {
		if out := leaves(next); len(out) > 0 {
			return out
		}
	}
	if e, ok := err.(*mapstructure.DecodeError); ok { //nolint:errorlint // walks the tree itself
		return []*mapstructure.DecodeError{e}
	}
	return nil
}

// decodeScalar turns the text of a flag or a variable, and the scalars that
// YAML makes of it, into what the field is.
func decodeScalar(from, to reflect.Type, data any) (any, error) {
	if from == to {
		return data, nil
	}
	var text string
	switch data.(type) {
	case string, int, int64, uint64:
		text = fmt.Sprint(data)
	default:
		text = fmt.Sprintf("(%v)", data) // of no scalar's form, so that it is refused below
	}
	switch to {
	case reflect.TypeFor[size]():
		return parseSize(text)
	case reflect.TypeFor[duration]():
		return parseDuration(text)
	case reflect.TypeFor[int]():
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, errors.New("want a whole number")
		}
		return n, nil
	case reflect.TypeFor[[]string]():
		if s, ok := data.(string); ok {
			return strings.Split(s, ","), nil
		}
	}
	return data, nil
}

// locate adds to each setting error where the value came from.
func locate(err error, v *viper.Viper, opts *options, all []setting) error {
	many, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	for _, one := range many.Unwrap() {
		var e *settingError
		if !errors.As(one, &e) {
			continue
		}
		for _, s := range all {
			if s.key != e.key {
				continue
			}
			switch {
			case opts.set.Changed(s.flag):
				e.source = "flag --" + s.flag
			case os.Getenv(s.variable()) != "":
				e.source = "variable " + s.variable()
			}
		}
		if e.source == "" && v.InConfig(setting{key: e.key}.viperKey()) {
			e.source = "file " + opts.config
		}
	}
	return err
}

// strangers returns the names in environ that look like configuration and are
// none.
func strangers(environ []string, all []setting) []string {
	var names []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "PIPED_") || name == "PIPED_ADDR" || name == "PIPED_FDS" {
			continue
		}
		if !slices.ContainsFunc(all, func(s setting) bool { return s.variable() == name }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// YAML writes the configuration in the form that --config reads.
func (c config) YAML() (string, error) {
	var b strings.Builder
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(c), enc.Close()); err != nil {
		return "", err
	}
	return b.String(), nil
}
