package pipe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// A crashVault is a vault of a process that outlives the daemons: it keeps real
// copies, and what is removed is gone for the daemon that comes next.
type crashVault struct {
	mu    sync.Mutex
	files map[Key]*os.File
	// over: what is removed from now on stays, as when whoever asks were dead.
	over bool
}

func (v *crashVault) Put(items ...Item) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, i := range items {
		fd := copyFD(i.FD)
		if fd < 0 {
			return fmt.Errorf("no copy of descriptor %d", i.FD)
		}
		v.keepLocked(i.Key, fd)
	}
	return nil
}

func (v *crashVault) keepLocked(key Key, fd int) {
	if before := v.files[key]; before != nil {
		_ = before.Close()
	}
	v.files[key] = os.NewFile(uintptr(fd), "kept")
}

func (v *crashVault) Remove(keys ...Key) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.over {
		return
	}
	for _, key := range keys {
		if f := v.files[key]; f != nil {
			_ = f.Close()
			delete(v.files, key)
		}
	}
}

// leave is the death of whoever puts and removes, back is somebody else.
func (v *crashVault) leave() { v.set(true) }
func (v *crashVault) back()  { v.set(false) }

func (v *crashVault) set(over bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = over
}

func (v *crashVault) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, f := range v.files {
		_ = f.Close()
	}
	v.files = nil
}

// keys returns what there is, in order.
func (v *crashVault) keys() (keys []Key) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for key := range v.files {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// serve keeps what one daemon puts, and removes what it removes, until that is
// gone. What it had asked before it was killed is still done; then served is closed.
func (v *crashVault) serve(near *os.File, served chan<- struct{}) {
	defer close(served)
	defer near.Close()
	fd := int(near.Fd())
	v.back()
	defer v.leave()
	b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*16))
	for {
		n, oobn, _, _, err := unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			break
		}
		var keys []Key
		for at := 1; at < n; at += 4 {
			keys = append(keys, Key(binary.LittleEndian.Uint32(b[at:])))
		}
		if b[0] == 'r' {
			v.Remove(keys...)
		} else {
			v.take(keys, oob[:oobn])
		}
		_, _ = unix.Write(fd, []byte{'k'})
	}
}

// take keeps descriptors that came along with their keys.
func (v *crashVault) take(keys []Key, oob []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	messages, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		fds, _ := unix.ParseUnixRights(&m)
		for i, fd := range fds {
			v.keepLocked(keys[i], fd)
		}
	}
}

// A farVault is the vault as a daemon has it, at the other end of a socket.
type farVault struct {
	mu sync.Mutex
	fd int
}

func (v *farVault) ask(verb byte, keys []Key, fds []int) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	b := []byte{verb}
	for _, key := range keys {
		b = binary.LittleEndian.AppendUint32(b, uint32(key))
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(v.fd, b, oob, nil, 0); err != nil {
		return err
	}
	n, err := ignoringEINTR(func() (int, error) { return unix.Read(v.fd, b[:1]) })
	if err == nil && n == 0 {
		err = errors.New("nobody is there")
	}
	return err
}

func (v *farVault) Put(items ...Item) error {
	var keys []Key
	var fds []int
	for _, i := range items {
		keys, fds = append(keys, i.Key), append(fds, i.FD)
	}
	return v.ask('p', keys, fds)
}

func (v *farVault) Remove(keys ...Key) {
	if err := v.ask('r', keys, nil); err != nil {
		panic(err) // the test is gone
	}
}

// vaultPair returns the two ends of a connection to the vault.
func vaultPair() (near, far *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(pair[0]), "near"), os.NewFile(uintptr(pair[1]), "far"), nil
}

// keptOf is what a daemon finds of the pipe in a slot, with its number for each key.
func keptOf(fds map[Key]int, slot int) (k Kept) {
	find := func(end int, part KeyPart) int {
		if fd, ok := fds[KeyOf(slot, end, part)]; ok {
			return fd
		}
		return -1
	}
	k.Slot = slot
	for i := range k.Ends {
		end := &k.Ends[i]
		*end = KeptEnd{Read: find(i+1, PartRead), Write: find(i+1, PartWrite), Inbox: find(i+1, PartInbox), Outbox: find(i+1, PartOutbox)}
	}
	return k
}

func TestKeysAreOfOneDescriptor(t *testing.T) {
	seen := map[Key]bool{ControlKey: true}
	for slot := range 5 {
		for end := 1; end <= 2; end++ {
			for part := PartRead; part <= PartOutbox; part++ {
				key := KeyOf(slot, end, part)
				s, e, p, err := key.Split()
				if seen[key] || err != nil || s != slot || e != end || p != part {
					t.Errorf("key %d of %d, %d, %d is %d, %d, %d, %v", key, slot, end, part, s, e, p, err)
				}
				seen[key] = true
			}
		}
	}
	for _, key := range []Key{ControlKey, 1 << 31} {
		if _, _, _, err := key.Split(); !errors.Is(err, ErrCorrupt) {
			t.Errorf("key %d: %v", key, err)
		}
	}
}
