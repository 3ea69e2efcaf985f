package custody

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper/wire"
)

// An account is what there is of a session. The custody's lock guards it.
type account struct {
	uid       [16]byte
	name      string
	slot      int // of its record; 0 if it has none: the front's own
	files     map[uint32]*file
	processes map[uint32]*process
	brought   bool // by the upload under way
}

// A file is a descriptor that is kept.
type file struct {
	fd   int // -1: it is on record, and the front has yet to bring it
	id   identity
	slot int
}

// own is the UID of the front's own account.
var own [16]byte

// enter returns the account of uid, and makes it if there is none.
func (c *custody) enter(uid [16]byte, name string) *account {
	a := c.accounts[uid]
	if a == nil {
		a = newAccount(uid)
		c.accounts[uid] = a
	}
	if uid == own || a.slot != 0 && a.name == name {
		return a
	}
	a.name = name
	r := &record{kind: recordSession, uid: uid, text: name}
	if a.slot == 0 {
		a.slot = c.reg.add(r)
	} else {
		c.reg.set(a.slot, r)
	}
	return a
}

func newAccount(uid [16]byte) *account {
	return &account{uid: uid, files: make(map[uint32]*file), processes: make(map[uint32]*process)}
}

// put keeps descriptors, which it takes over, under keys. A key that is taken
// is taken over.
func (c *custody) put(a *account, keys []uint32, fds []int) error {
	ids := make([]identity, len(fds))
	for i, fd := range fds {
		var err error
		if ids[i], err = identify(fd); err != nil {
			wire.CloseAll(fds)
			return err
		}
	}
	for i, key := range keys {
		f := a.files[key]
		if f == nil {
			f = &file{fd: -1, id: ids[i]}
			f.slot = c.reg.add(&record{kind: recordFile, uid: a.uid, key: key, id: f.id})
			a.files[key] = f
		}
		if f.fd >= 0 {
			_ = unix.Close(f.fd)
		}
		if f.id != ids[i] {
			f.id = ids[i]
			c.reg.set(f.slot, &record{kind: recordFile, uid: a.uid, key: key, id: f.id})
		}
		f.fd = fds[i]
	}
	return nil
}

// strange tells whether a descriptor that is brought is another than the one on
// record. One of which there is no record was on its way when the keeper died.
func (c *custody) strange(a *account, keys []uint32, fds []int) bool {
	for i, key := range keys {
		f := a.files[key]
		if f == nil {
			continue
		}
		if id, err := identify(fds[i]); err != nil || f.id != id {
			return true
		}
	}
	return false
}

// remove lets a descriptor go.
func (c *custody) remove(a *account, key uint32) {
	f := a.files[key]
	if f == nil {
		return
	}
	delete(a.files, key)
	c.reg.drop(f.slot)
	if f.fd >= 0 {
		_ = unix.Close(f.fd)
	}
}

// drop closes an account. Its processes are killed; done, which may be nil, is
// called when they are reaped and nobody is left in the session's cgroup.
func (c *custody) drop(a *account, done func()) {
	delete(c.accounts, a.uid)
	c.killGroup(a.uid)
	for key := range a.files {
		c.remove(a, key)
	}
	left := 1
	one := func() {
		if left--; left > 0 {
			return
		}
		c.clear(a.uid, func() {
			if done != nil {
				done()
			}
		})
	}
	for key, p := range a.processes {
		left++
		c.discard(a, key, p, one)
	}
	if a.slot != 0 {
		c.reg.drop(a.slot)
	}
	if a.uid == own {
		c.accounts[own] = newAccount(own)
	}
	one()
}

// uids returns those of all accounts, in order.
func (c *custody) uids() [][16]byte {
	list := make([][16]byte, 0, len(c.accounts))
	for uid := range c.accounts {
		list = append(list, uid)
	}
	slices.SortFunc(list, func(a, b [16]byte) int { return slices.Compare(a[:], b[:]) })
	return list
}

// An estatePart is something that a new front is given.
type estatePart struct {
	part uint64
	uid  [16]byte
	keys []uint32
	lost *loss
}

// inventory lists all that there is.
func (c *custody) inventory() []estatePart {
	var list []estatePart
	for _, uid := range c.uids() {
		a := c.accounts[uid]
		if uid != own {
			list = append(list, estatePart{part: wire.PartAccount, uid: uid})
		}
		keys := make([]uint32, 0, len(a.files))
		for key, f := range a.files {
			if f.fd >= 0 {
				keys = append(keys, key)
			}
		}
		slices.Sort(keys)
		for some := range slices.Chunk(keys, wire.MaxKeys) {
			list = append(list, estatePart{part: wire.PartFiles, uid: uid, keys: some})
		}
		for key := range a.processes {
			list = append(list, estatePart{part: wire.PartProcess, uid: uid, keys: []uint32{key}})
		}
	}
	for _, l := range c.losses {
		list = append(list, estatePart{part: wire.PartLoss, lost: l})
	}
	return append(list, estatePart{part: wire.PartEnd})
}

// fill makes the message of a part, with copies of its descriptors. It is false
// for what is not there any more.
func (c *custody) fill(part *estatePart, m *wire.Message) (fds []int, there bool, err error) {
	m.Args[0], m.UID = part.part, part.uid
	a := c.accounts[part.uid]
	switch part.part {
	case wire.PartAccount:
		m.Text = a.name
	case wire.PartFiles:
		for _, key := range part.keys {
			fd, err := duplicate(a.files[key].fd)
			if err != nil {
				wire.CloseAll(fds)
				return nil, true, err
			}
			m.Keys, fds = append(m.Keys, key), append(fds, fd)
		}
	case wire.PartProcess:
		m.Key = part.keys[0]
		p := a.processes[m.Key]
		if p == nil {
			return nil, false, nil // its start has failed meanwhile
		}
		fds, err = p.describe(m)
	case wire.PartLoss:
		m.UID, m.Text = part.lost.uid, part.lost.name
		if part.lost.reboot {
			m.Args[1] = 1
		}
	}
	return fds, true, err
}

// duplicate returns a copy of a descriptor.
func duplicate(fd int) (int, error) {
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
}
