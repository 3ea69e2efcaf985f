package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MaxBlob bounds a blob: arguments and environment as large as the kernel takes
// them, with room to spare.
const MaxBlob = 16 << 20

const blobSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL

// NewBlob returns a sealed memfd that holds data. The caller closes it.
func NewBlob(data []byte) (fd int, err error) {
	fd, err = unix.MemfdCreate("piped-blob", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	for rest := data; len(rest) > 0 && err == nil; {
		var n int
		n, err = unix.Write(fd, rest)
		rest = rest[max(n, 0):]
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, blobSeals)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("write", err)
	}
	return fd, nil
}

// ReadBlob returns what a blob holds. One that could still change is refused.
func ReadBlob(fd int) ([]byte, error) {
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&blobSeals != blobSeals {
		return nil, errors.New("a blob that is not sealed")
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if stat.Size > MaxBlob {
		return nil, fmt.Errorf("a blob of %d bytes", stat.Size)
	}
	data := make([]byte, stat.Size)
	for at := 0; at < len(data); {
		n, err := unix.Pread(fd, data[at:], int64(at))
		if err != nil || n == 0 {
			return nil, os.NewSyscallError("pread", errors.Join(err, unix.EIO))
		}
		at += n
	}
	return data, nil
}

// A Packer appends numbers and texts to a blob.
type Packer []byte

// Number appends a number.
func (p *Packer) Number(n int64) { *p = binary.LittleEndian.AppendUint64(*p, uint64(n)) } //nolint:gosec // the same bits

// Text appends a text.
func (p *Packer) Text(s string) {
	p.Number(int64(len(s)))
	*p = append(*p, s...)
}

// Texts appends a list of texts.
func (p *Packer) Texts(list []string) {
	p.Number(int64(len(list)))
	for _, s := range list {
		p.Text(s)
	}
}

// An Unpacker takes them out again. After the first error it returns zeros.
type Unpacker struct {
	rest []byte
	err  error
}

// Number takes a number.
func (u *Unpacker) Number() int64 {
	if len(u.rest) < 8 {
		u.rest, u.err = nil, errMalformed
		return 0
	}
	n := binary.LittleEndian.Uint64(u.rest)
	u.rest = u.rest[8:]
	return int64(n) //nolint:gosec // the same bits
}

// Text takes a text.
func (u *Unpacker) Text() string {
	n := u.Number()
	if n < 0 || n > int64(len(u.rest)) {
		u.rest, u.err = nil, errMalformed
		return ""
	}
	s := string(u.rest[:n])
	u.rest = u.rest[n:]
	return s
}

// Count returns the length of a list whose members take at least size bytes.
func (u *Unpacker) Count(size int) int {
	n := u.Number()
	if n < 0 || n > int64(len(u.rest)/size) {
		u.rest, u.err = nil, errMalformed
		return 0
	}
	return int(n)
}

// Texts takes a list of texts.
func (u *Unpacker) Texts() []string {
	n := u.Count(8)
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = u.Text()
	}
	return list
}

// More says whether something is left.
func (u *Unpacker) More() bool { return len(u.rest) > 0 }

// End returns the error, and one if something is left over.
func (u *Unpacker) End() error {
	if u.err == nil && len(u.rest) > 0 {
		u.err = errMalformed
	}
	return u.err
}

// NewUnpacker returns one that takes from data.
func NewUnpacker(data []byte) *Unpacker { return &Unpacker{rest: data} }
