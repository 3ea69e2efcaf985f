package custody

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math"
	"os"

	"github.com/piped-dev/piped/failpoint"
	"github.com/piped-dev/piped/keeper/wire"
)

// registryVersion is the version of the registry's format.
const registryVersion = 1

// The registry is a file of slots of recordSize bytes, little-endian. A slot is
// written by one pwrite inside one page, so a process that is killed leaves the
// old content or the new one. The first slot is the header, the second the front.
//
//	 0  checksum of the rest (CRC-32C)     32  pid, device or version
//	 4  type, 1 byte                       40  start time or inode
//	 5  1 if lost by a reboot, or unsettled 48  time of the exit, or epoch
//	 6  flags of the exit, 1 byte          56  signal of the exit, 4 bytes
//	 8  uid                                60  length of the text, 1 byte
//	24  key                                64  text, 63 bytes, and a zero
//	28  kind of descriptor, or exit code
//
// A process has no text. From 64 on there is what it has used, if that is known
// (earlier versions write zeros there, and read none of it):
//
//	64  1 if it is known, 1 byte          80  system CPU time, microseconds
//	72  user CPU time, microseconds       88  peak of memory, bytes
const recordSize = 128

const (
	headerSlot = 0
	frontSlot  = 1
)

// recordText is the longest text of a record: a session's name.
const recordText = 63

type recordType uint8

const (
	recordFree recordType = iota
	recordHeader
	recordFront
	recordSession
	recordFile
	recordProcess
	recordLost
	lastRecord
)

const registryMagic = "piped registry " // and the boot id: the header's text

// A record is what one slot says.
type record struct {
	kind    recordType
	uid     [16]byte
	key     uint32
	text    string
	id      identity     // of a recordFile
	process wire.Process // of a recordProcess; of the front: pid and start time
	epoch   uint64       // of the front
	version uint64       // of the header
	reboot  bool         // of a recordLost
	// unsettled says of a recordProcess that the spawner does not know yet that
	// it is on record: it kills it when the keeper dies.
	unsettled bool
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode writes the slot of r.
//
//nolint:gosec // the same bits, in their place
func (r *record) encode(p *[recordSize]byte) {
	clear(p[:])
	le := binary.LittleEndian
	p[4] = byte(r.kind)
	copy(p[8:], r.uid[:])
	le.PutUint32(p[24:], r.key)
	switch r.kind {
	case recordHeader:
		le.PutUint64(p[32:], r.version)
	case recordFile:
		le.PutUint32(p[28:], r.id.kind)
		le.PutUint64(p[32:], r.id.device)
		le.PutUint64(p[40:], r.id.inode)
	case recordFront:
		le.PutUint64(p[32:], uint64(r.process.Pid))
		le.PutUint64(p[40:], r.process.Start)
		le.PutUint64(p[48:], r.epoch)
	case recordProcess:
		p[6] = byte(r.process.Flags())
		le.PutUint32(p[28:], uint32(r.process.Code))
		le.PutUint64(p[32:], uint64(r.process.Pid))
		le.PutUint64(p[40:], r.process.Start)
		le.PutUint64(p[48:], uint64(r.process.Time))
		le.PutUint32(p[56:], uint32(r.process.Signal))
		encodeUsage(p, r.process.Used)
	}
	if r.reboot || r.unsettled {
		p[5] = 1
	}
	if r.kind != recordProcess {
		p[60] = byte(copy(p[64:64+recordText], r.text))
	}
	le.PutUint32(p[:], crc32.Checksum(p[4:], castagnoli))
}

//nolint:gosec // the same bits
func encodeUsage(p *[recordSize]byte, used *wire.Usage) {
	if used == nil {
		return
	}
	le := binary.LittleEndian
	p[64] = 1
	le.PutUint64(p[72:], uint64(used.User))
	le.PutUint64(p[80:], uint64(used.System))
	le.PutUint64(p[88:], uint64(used.Peak))
}

//nolint:gosec // the same bits
func decodeUsage(p *[recordSize]byte) *wire.Usage {
	if p[64] != 1 {
		return nil
	}
	le := binary.LittleEndian
	return &wire.Usage{User: int64(le.Uint64(p[72:])), System: int64(le.Uint64(p[80:])), Peak: int64(le.Uint64(p[88:]))}
}

// errRecord says that a slot holds nothing that encode has written.
var errRecord = errors.New("damaged record")

// decode reads a slot. One that was never written is free.
//
//nolint:gosec // the same bits, in their place
func (r *record) decode(p *[recordSize]byte) error {
	*r = record{}
	if *p == [recordSize]byte{} {
		return nil
	}
	le := binary.LittleEndian
	if le.Uint32(p[:]) != crc32.Checksum(p[4:], castagnoli) || p[4] >= byte(lastRecord) || p[60] > recordText {
		return errRecord
	}
	r.kind = recordType(p[4])
	r.reboot, r.unsettled = r.kind != recordProcess && p[5] == 1, r.kind == recordProcess && p[5] == 1
	r.uid, r.key = [16]byte(p[8:]), le.Uint32(p[24:])
	if r.kind != recordProcess {
		r.text = string(p[64 : 64+int(p[60])])
	}
	switch r.kind {
	case recordHeader:
		r.version = le.Uint64(p[32:])
	case recordFile:
		r.id = identity{kind: le.Uint32(p[28:]), device: le.Uint64(p[32:]), inode: le.Uint64(p[40:])}
	case recordFront:
		r.process.Pid, r.process.Start, r.epoch = int(le.Uint64(p[32:])), le.Uint64(p[40:]), le.Uint64(p[48:])
	case recordProcess:
		r.process = wire.Process{
			Pid: int(le.Uint64(p[32:])), Start: le.Uint64(p[40:]), Time: int64(le.Uint64(p[48:])),
			Code: int(int32(le.Uint32(p[28:]))), Signal: int(int32(le.Uint32(p[56:]))),
		}
		r.process.SetFlags(uint64(p[6]))
		r.process.Used = decodeUsage(p)
	}
	return nil
}

// A registry is what a keeper leaves for the one after it: which sessions,
// descriptors and processes there are. The callers see to it that one method
// runs at a time.
type registry struct {
	path string
	file *os.File // nil: nothing is written any more
	log  *slog.Logger
	size int   // slots
	free []int // below size
}

// contents is what a registry holds.
type contents struct {
	known   bool // there was a keeper before
	reboot  bool // and the machine was started again since
	records map[int]record
}

// openRegistry opens or makes the registry. One that a newer keeper has written
// is left as it is, with an error that says so.
func openRegistry(path string, log *slog.Logger) (*registry, *contents, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	held, size, free, err := readRegistry(path, file, log)
	if err != nil {
		_ = file.Close()
		return nil, nil, err
	}
	r := &registry{path: path, file: file, log: log, size: max(size, frontSlot+1), free: free}
	r.set(headerSlot, &record{kind: recordHeader, version: registryVersion, text: registryMagic + bootID()})
	return r, held, nil
}

// resumeRegistry goes on with one that this process has open.
func resumeRegistry(path string, fd int, log *slog.Logger) (*registry, *contents, error) {
	file := os.NewFile(uintptr(fd), path)
	if file == nil {
		return nil, nil, errors.New("the keeper had no registry")
	}
	held, size, free, err := readRegistry(path, io.NewSectionReader(file, 0, math.MaxInt64), log)
	if err != nil {
		return nil, nil, err
	}
	return &registry{path: path, file: file, log: log, size: max(size, frontSlot+1), free: free}, held, nil
}

// fd returns the registry's descriptor, or -1.
func (g *registry) fd() int {
	if g.file == nil {
		return -1
	}
	return int(g.file.Fd())
}

// checkRegistry tells whether this program understands a registry.
func checkRegistry(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	_, _, _, err = readRegistry(path, file, slog.New(slog.DiscardHandler))
	return err
}

// readRegistry reads all slots. Damaged ones are left out, and free.
func readRegistry(path string, file io.Reader, log *slog.Logger) (held *contents, size int, free []int, err error) {
	held = &contents{records: make(map[int]record)}
	var slot [recordSize]byte
	for ; ; size++ {
		if _, err := io.ReadFull(file, slot[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return held, size, free, nil
		} else if err != nil {
			return nil, 0, nil, err
		}
		var r record
		err := r.decode(&slot)
		switch {
		case size == headerSlot:
			if err != nil || r.kind != recordHeader || len(r.text) < len(registryMagic) || r.text[:len(registryMagic)] != registryMagic {
				return nil, 0, nil, fmt.Errorf("%s is not a registry of piped-keeper; move it away", path)
			}
			if r.version > registryVersion {
				return nil, 0, nil, fmt.Errorf("%s was written by a newer piped-keeper: it has version %d, this program understands up to %d; "+
					"nothing was changed, start the newer one", path, r.version, registryVersion)
			}
			held.known, held.reboot = true, r.text[len(registryMagic):] != bootID()
		case err != nil:
			log.Warn("a damaged record of the registry is left out", "registry", path, "slot", size)
			free = append(free, size)
		case r.kind == recordFree && size != frontSlot:
			free = append(free, size)
		default:
			held.records[size] = r
		}
	}
}

// add writes a record to a free slot.
func (g *registry) add(r *record) (slot int) {
	if n := len(g.free); n > 0 {
		slot, g.free = g.free[n-1], g.free[:n-1]
	} else {
		slot = g.size
		g.size++
	}
	g.set(slot, r)
	return slot
}

// set overwrites a slot. What cannot be written is missed only when the keeper
// dies, so it is no reason to refuse a session.
func (g *registry) set(slot int, r *record) {
	if g.file == nil {
		return
	}
	failpoint.Hit("registry.before-write")
	var p [recordSize]byte
	r.encode(&p)
	if _, err := g.file.WriteAt(p[:], int64(slot)*recordSize); err != nil {
		g.log.Error("the registry cannot be written; what is new in it will be lost if the keeper dies", "registry", g.path, "error", err)
	}
}

// drop frees a slot.
func (g *registry) drop(slot int) {
	g.set(slot, &record{})
	g.free = append(g.free, slot)
}

// remove removes the file; from then on nothing is written any more.
func (g *registry) remove() {
	if g.file == nil {
		return
	}
	unlinkOwn(g.path, g.file)
	g.close()
}

func (g *registry) close() {
	if g.file != nil {
		_ = g.file.Close()
		g.file = nil
	}
}
