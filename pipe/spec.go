package pipe

// Kind is the kind of a pipe.
type Kind uint8

// The kinds of pipes.
const (
	// Duplex is a stream socket pair.
	Duplex Kind = iota + 1
	// OneWay is a kernel pipe: end 1 receives, end 2 sends, as the two
	// connections of Python's Pipe(duplex=False).
	OneWay
	// Stdio is two kernel pipes: end 1 writes a process's standard input and
	// reads its standard output.
	Stdio
	// StdinOnly and StdoutOnly are one half of Stdio.
	StdinOnly
	StdoutOnly
	// Terminal is a terminal: end 1 types into it and sees what it shows.
	Terminal
	// TerminalOut is a kernel pipe for a process's standard input, and a terminal
	// for its output; TerminalOutOnly is the terminal alone.
	TerminalOut
	TerminalOutOnly
)

// Overflow is what a full inbox does.
type Overflow uint8

// The ways to overflow.
const (
	// Block stops reading.
	Block Overflow = iota
	// DropOldest drops the oldest messages and counts them.
	DropOldest
)

// A Spec says what pipe to make.
type Spec struct {
	Kind Kind
	// In is the framing of what goes into end 1 and comes out of end 2, Out of
	// what comes out of end 1.
	In, Out Framing
	// LogSize bounds each direction, in bytes, and must not be 0; TailSize is kept
	// beyond what is acknowledged.
	LogSize, TailSize uint64
	// MaxMessage is the largest payload where the framing has no smaller limit; it
	// must not be 0.
	MaxMessage uint64
	Overflow   Overflow
	// Sealed: end 1 will never be inherited.
	Sealed bool
	// Terminal is how a terminal begins. It is not kept: the kernel has it.
	Terminal TerminalSpec
	// Ended, if set, is called once for each direction that has ended: end 1 or 2,
	// and whether it is what was sent into that end. It is called by the Poller's
	// own goroutine, one call after another, and must not block.
	Ended func(end int, sent bool)
	// Control, if set, keeps what has to outlive this process: then logs are
	// files that live as long as anybody has their descriptors, and the moves of a
	// sealed end are exact whatever instant the process is killed at. Without it
	// logs are this process's own memory. It stays the caller's.
	Control *Control
	// Vault, if set, keeps copies of the descriptors of both ends and of the logs,
	// under keys of the Control, without which it is not used. Before a descriptor is
	// closed its copy is removed.
	Vault Vault
}

// partSize keeps a part well below the log, so that a log that is full of one
// message always has a part to deliver.
func (s *Spec) partSize() uint64 { return min(DefaultPart, max(s.LogSize/2, 1)) }
