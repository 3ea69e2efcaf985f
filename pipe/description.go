package pipe

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A description is what a pipe is, in a form that outlives the process: framing,
// its options and the limits are fixed when the pipe is made, and are never taken
// from a later configuration.
type description struct{ spec Spec }

const maxFramingName = 16

func (d *description) encode() []byte {
	b := make([]byte, descriptionSize)
	le := binary.LittleEndian
	b[0] = 1 // in use
	b[1] = byte(d.spec.Kind)
	b[2] = byte(d.spec.Overflow)
	b[3] = boolByte(d.spec.Sealed)
	encodeFraming(b[8:48], d.spec.In)
	encodeFraming(b[48:88], d.spec.Out)
	le.PutUint64(b[88:], d.spec.LogSize)
	le.PutUint64(b[96:], d.spec.TailSize)
	le.PutUint64(b[104:], d.spec.MaxMessage)
	le.PutUint32(b[descriptionSize-4:], crc32.Checksum(b[:descriptionSize-4], crcTable))
	return b
}

func encodeFraming(b []byte, f Framing) {
	copy(b[:maxFramingName], f.Name)
	b[maxFramingName] = boolByte(f.StripCR)
	binary.LittleEndian.PutUint64(b[32:], f.MaxMessage)
}

func decodeFraming(b []byte) Framing {
	name := b[:maxFramingName]
	n := 0
	for n < len(name) && name[n] != 0 {
		n++
	}
	return Framing{Name: string(name[:n]), StripCR: b[maxFramingName] == 1, MaxMessage: binary.LittleEndian.Uint64(b[32:])}
}

func decodeDescription(b []byte) (*description, error) {
	le := binary.LittleEndian
	if le.Uint32(b[descriptionSize-4:]) != crc32.Checksum(b[:descriptionSize-4], crcTable) || b[0] != 1 {
		return nil, fmt.Errorf("%w: the description of a pipe is torn", ErrCorrupt)
	}
	d := &description{Spec{
		Kind: Kind(b[1]), Overflow: Overflow(b[2]), Sealed: b[3] == 1,
		In: decodeFraming(b[8:48]), Out: decodeFraming(b[48:88]),
		LogSize: le.Uint64(b[88:]), TailSize: le.Uint64(b[96:]), MaxMessage: le.Uint64(b[104:]),
	}}
	return d, d.check()
}

// check refuses a description that no Open could have made.
func (d *description) check() error {
	s := &d.spec
	switch {
	case s.Kind < Duplex || s.Kind > TerminalOutOnly:
		return fmt.Errorf("%w: pipe of kind %d", ErrCorrupt, s.Kind)
	case s.Overflow > DropOldest:
		return fmt.Errorf("%w: overflow %d", ErrCorrupt, s.Overflow)
	case s.LogSize == 0 || s.LogSize > 1<<40 || s.TailSize > 1<<40 || s.MaxMessage == 0:
		return fmt.Errorf("%w: log of %d bytes, tail of %d, messages up to %d", ErrCorrupt, s.LogSize, s.TailSize, s.MaxMessage)
	}
	for _, f := range []Framing{s.In, s.Out} {
		if err := f.Check(); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	return nil
}
