package pipe

import (
	"fmt"
	"slices"
	"strings"
)

// A Framing says how messages are cut out of the bytes of one direction. It is
// fixed when the pipe is made.
type Framing struct {
	// Name is one of [FramingNames]; empty means "line".
	Name string
	// StripCR, in line: one carriage return before the newline is part of the
	// line end, and sent messages end in both.
	StripCR bool
	// MaxMessage is the largest payload in bytes. 0 means the default of the
	// pipe's [Spec].
	MaxMessage uint64
}

// A cutter is what a framing knows: how to cut, how to write, what to refuse.
// It is a value without state of its own; all state is in a [state], so that a
// place in the stream can be copied and kept.
type cutter interface {
	// cut looks at data, which begins where st stands and is not empty, takes
	// the next segment of it and moves st past that segment.
	cut(st *state, data []byte) (segment, error)
	// header appends what stands before a payload of size bytes.
	header(dst []byte, size uint64) []byte
	// trailer is what stands after a payload.
	trailer() string
	// needsSize says that header depends on the size, so that the first part
	// of a message must tell it.
	needsSize() bool
	// check refuses a payload, or a part of one, that cannot be framed.
	check(payload []byte) error
	// open reports whether an end of file at st finishes a message as partial
	// (true) or cuts it (false).
	open() bool
}

// state is where a cutter stands inside a message; its zero value is the start
// of one. It is small and plain because it is part of every place.
type state struct {
	head  [12]byte // header bytes so far (mp)
	n     uint8    // how many
	body  bool     // the header is complete
	held  bool     // a carriage return that may belong to the line end (line)
	total uint64   // payload size, where the header says it
	left  uint64   // payload bytes to come
}

// segment is one step of a cutter.
type segment struct {
	n       int  // bytes of data it covers
	payload bool // they are payload; otherwise framing
	carry   bool // a carriage return held back before is payload after all
	end     bool // the message ends behind them
}

type framingInfo struct {
	name string
	make func(Framing) cutter
}

// framings is the table of framings; adding one is a file and a row.
var framings = []framingInfo{
	{"line", func(f Framing) cutter { return line{stripCR: f.StripCR} }},
	{"mp", func(f Framing) cutter { return mp{max: f.MaxMessage} }},
	{"raw", func(Framing) cutter { return raw{} }},
}

// FramingNames returns the names of all framings.
func FramingNames() []string {
	names := make([]string, len(framings))
	for i, f := range framings {
		names[i] = f.name
	}
	return names
}

// Check returns an error that wraps [ErrFraming] unless f can be used.
func (f Framing) Check() error {
	_, err := f.cutter()
	return err
}

func (f Framing) cutter() (cutter, error) {
	name := f.Name
	if name == "" {
		name = "line"
	}
	i := slices.IndexFunc(framings, func(g framingInfo) bool { return g.name == name })
	if i < 0 {
		return nil, fmt.Errorf("%w %q: there are %s", ErrFraming, f.Name, strings.Join(FramingNames(), ", "))
	}
	if f.StripCR && name != "line" {
		return nil, fmt.Errorf("%w option: only line has carriage returns to strip, not %s", ErrFraming, name)
	}
	return framings[i].make(f), nil
}
