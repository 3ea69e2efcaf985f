package session

import "time"

// Config bounds what sessions use. Start from [DefaultConfig]: a zero is taken
// as it stands.
type Config struct {
	// LogSize is what each direction of a pipe keeps, in bytes.
	LogSize int64
	// TailSize is what each direction keeps for observers after it was
	// acknowledged, or handed over.
	TailSize int64
	// KernelLogs keeps logs in kernel objects that can outlive the daemon, and
	// moves bytes so that they do exactly; see [pipe.Control]. It takes what
	// [pipe.SelfTest] tries out.
	KernelLogs bool
	// MaxMessageSize is the largest message, in payload bytes.
	MaxMessageSize uint64
	// EndedFor and EndedMax bound for how long, and how many, ended sessions
	// are kept.
	EndedFor time.Duration
	EndedMax int
	// LeaseDuration is how long a lease lasts that is acquired without a duration,
	// MaxLeaseDuration the longest that can be asked for.
	LeaseDuration    time.Duration
	MaxLeaseDuration time.Duration
	// Environment says what of the daemon's environment processes may get.
	Environment EnvironmentPolicy
	// StopCloseGrace and StopGrace are how long a process has after its input was
	// closed, and after the signal, when it is stopped and nobody says otherwise;
	// MaxStopGrace is the longest that can be asked for.
	StopCloseGrace, StopGrace time.Duration
	MaxStopGrace              time.Duration
	// IncarnationsKept is how many incarnations of a process are kept that are over,
	// with what is unread of them.
	IncarnationsKept int
	// EventsRetained is how many events are kept for watchers that come back; at
	// least one is.
	EventsRetained int
}

// DefaultConfig returns what a daemon uses that was told nothing.
//
// The largest message is 1 GiB because every header that begins with an ASCII
// letter announces more than that in the framing mp (0x41 << 24): a text that
// strays into a message pipe is refused at once, not waited for.
func DefaultConfig() Config {
	return Config{LogSize: 4 << 20, TailSize: 64 << 10, KernelLogs: true, MaxMessageSize: 1 << 30, EndedFor: time.Hour, EndedMax: 1000,
		LeaseDuration: 30 * time.Second, MaxLeaseDuration: time.Hour, EventsRetained: 1024,
		StopCloseGrace: 2 * time.Second, StopGrace: 5 * time.Second, MaxStopGrace: 24 * time.Hour, IncarnationsKept: 3,
		Environment: EnvironmentPolicy{Allow: []string{"*"}, Deny: []string{}}}
}

// maxWriters is how many writer ids an endpoint remembers; the one that wrote
// least recently is forgotten first.
const maxWriters = 1024

// reservedDescriptors stay free for connections, logs and the like when
// sessions have taken all others.
const reservedDescriptors = 256

// perSession is what an ordinary session takes: input, output, errors of one
// process, their logs once something flows, its pidfd, and the control file.
const perSession = 8
