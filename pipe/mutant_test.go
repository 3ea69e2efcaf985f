package pipe

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// A mutantPort makes the moves in a wrong order, each in a way that works as long
// as nobody is killed. The suites must find out.
type mutantPort struct {
	*cursorPort
	mutant string
}

// The mutants of the kernel's moves.
var portMutants = []string{"read-then-store", "write-then-record", "record-then-write", "ignore-peek-offset"}

// peek of read-then-store takes what it returns.
func (p *mutantPort) peek(b []byte) (int, error) {
	n, err := p.cursorPort.peek(b)
	if err == nil && n > 0 && p.mutant == "read-then-store" {
		_, err = p.cursorPort.consume(n)
	}
	return n, err
}

func (p *mutantPort) consume(n int) (int, error) {
	if p.mutant == "read-then-store" {
		return n, nil
	}
	return p.cursorPort.consume(n)
}

func (p *mutantPort) peeked() (int, error) {
	if p.mutant == "ignore-peek-offset" || p.mutant == "read-then-store" {
		return 0, nil
	}
	return p.cursorPort.peeked()
}

// splice of read-then-store reads, writes, and moves the position.
func (p *mutantPort) splice(n int) (int, error) {
	if p.mutant != "read-then-store" {
		return p.cursorPort.splice(n)
	}
	b := make([]byte, n)
	n, err := unix.Read(p.d.fd(), b)
	if err != nil || n == 0 {
		return 0, err
	}
	at, err := p.position()
	if err != nil {
		return 0, err
	}
	if _, err := unix.Pwrite(p.file(), b[:n], int64(at)); err != nil {
		return 0, err
	}
	_, err = unix.Seek(p.file(), int64(n), unix.SEEK_CUR)
	return n, err
}

// sendfile of the two others writes and moves the position, or the other way round.
func (p *mutantPort) sendfile(n int) (int, error) {
	if p.mutant != "write-then-record" && p.mutant != "record-then-write" {
		return p.cursorPort.sendfile(n)
	}
	at, err := p.position()
	if err != nil {
		return 0, err
	}
	b := make([]byte, min(n, 128)) // many moves, so that kills come between
	if n, err = unix.Pread(p.file(), b, int64(at)); err != nil {
		return 0, err
	}
	if p.mutant == "record-then-write" {
		if _, err := unix.Seek(p.file(), int64(n), unix.SEEK_CUR); err != nil {
			return 0, err
		}
	}
	wrote, err := unix.Write(p.d.fd(), b[:n])
	wrote = max(wrote, 0)
	back := wrote
	if p.mutant == "record-then-write" {
		back = wrote - n
	}
	if _, serr := unix.Seek(p.file(), int64(back), unix.SEEK_CUR); serr != nil {
		return 0, serr
	}
	return wrote, err
}

// A mutantVault keeps or removes at the wrong time.
type mutantVault struct {
	Vault
	mutant string

	mu   sync.Mutex
	late []Item
}

// The mutants around the vault, and the journal's.
var vaultMutants = []string{"put-later", "never-remove"}

const journalMutant = "remove-then-put"

// Put of put-later keeps what it was given when it is called the next time.
func (v *mutantVault) Put(items ...Item) error {
	if v.mutant != "put-later" {
		return v.Vault.Put(items...)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	now := v.late
	v.late = items
	if len(now) == 0 {
		return nil
	}
	return v.Vault.Put(now...)
}

func (v *mutantVault) Remove(keys ...Key) {
	if v.mutant != "never-remove" {
		v.Vault.Remove(keys...)
	}
}

// recoverMutant is Recover, but for the ports of end 1.
func recoverMutant(poller *Poller, kept Kept, mutant string) (one, two *Endpoint, err error) {
	d, err := kept.Control.describe(kept.Slot)
	if err != nil {
		return nil, nil, err
	}
	spec := d.spec
	spec.Control, spec.Vault = kept.Control, kept.Vault
	var fds [2]ends
	for i := range fds {
		if fds[i], err = kept.Ends[i].descriptors(poller, spec.Kind, i+1, i == 0); err != nil {
			return nil, nil, err
		}
	}
	if one, two, err = newEndpoints(fds, nil, &spec, kept.Slot); err != nil {
		return nil, nil, err
	}
	for _, dir := range []*direction{&one.in.direction, &one.out.direction} {
		dir.port = &mutantPort{dir.port.(*cursorPort), mutant}
	}
	for i, e := range []*Endpoint{one, two} {
		if err := e.recover(&kept.Ends[i]); err != nil {
			return nil, nil, fmt.Errorf("end %d: %w", i+1, err)
		}
	}
	one.deposited(kept.Vault)
	two.deposited(kept.Vault)
	one.resume()
	two.resume()
	return one, two, nil
}
