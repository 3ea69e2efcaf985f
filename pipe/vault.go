package pipe

import "fmt"

// A Key names a descriptor among those of a session. Keys are small numbers and
// never change their meaning.
type Key uint32

// ControlKey is the key of the session's control file.
const ControlKey Key = 0

// A KeyPart says which descriptor of an end a [Key] names.
type KeyPart uint8

// The descriptors of an end. A socket is one descriptor, PartRead.
const (
	PartRead KeyPart = iota
	PartWrite
	PartInbox  // the file of the log of what came out of the end
	PartOutbox // the file of the log of what is sent into it; see masterKey
	keyParts
)

// KeyOf returns the key of a descriptor of end 1 or 2 of the pipe in a slot of the
// control file.
func KeyOf(slot, end int, part KeyPart) Key {
	return Key(1 + (slot*2+end-1)*int(keyParts) + int(part)) //nolint:gosec // slots are few
}

// masterKey returns the key of the master of a terminal whose input is not the
// terminal's: that of a log that no terminal has, because its end 2 is always a
// process's.
func masterKey(slot int) Key { return KeyOf(slot, 2, PartOutbox) }

// Split returns what a key names, the inverse of KeyOf. It fails for ControlKey
// and for what no pipe can have.
func (k Key) Split() (slot, end int, part KeyPart, err error) {
	n := int(k) - 1
	if slot = n / 2 / int(keyParts); n < 0 || slot >= maxSegments*segmentSlots {
		return 0, 0, 0, fmt.Errorf("%w: key %d names no descriptor of a pipe", ErrCorrupt, k)
	}
	return slot, n/int(keyParts)%2 + 1, KeyPart(n % int(keyParts)), nil
}

// An Item is a descriptor and its key.
type Item struct {
	Key Key
	FD  int
}

// A Vault keeps copies of descriptors for whoever comes after this process. Its
// methods may be called concurrently, and with locks held: they must not call back.
type Vault interface {
	// Put returns when copies are kept. The descriptors stay the caller's and stay
	// open until Remove of their keys has returned. On an error nothing is kept.
	Put(items ...Item) error
	// Remove returns when the copies are gone. Unknown keys are no error; it cannot
	// fail.
	Remove(keys ...Key)
}

// A deposit is the place of one descriptor in a vault; the zero deposit keeps
// nothing.
type deposit struct {
	vault Vault
	key   Key
}

// put keeps a copy of fd.
func (d deposit) put(fd int) error {
	if d.vault == nil {
		return nil
	}
	return d.vault.Put(Item{d.key, fd})
}

// remove returns when there is no copy any more. It comes before the close, so
// that whoever waits for the last copy to be gone waits for nobody but us.
func (d deposit) remove() {
	if d.vault != nil {
		d.vault.Remove(d.key)
	}
}
