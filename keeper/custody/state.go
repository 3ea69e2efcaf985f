package custody

import (
	"errors"
	"fmt"
	"time"

	"github.com/piped-dev/piped/keeper/wire"
)

// stateVersion is the version of what a keeper passes to the program it becomes
// at an upgrade. Additions make it higher; whoever reads an older one takes what
// is missing as zero. A newer one is refused, and the keeper stays what it is.
const stateVersion = 1

// A snapshot is all that a keeper is, with the numbers of its descriptors.
type snapshot struct {
	started, gone            time.Time
	lock, listener, registry int
	passed                   bool
	notify                   string
	again                    wire.Front
	front                    *frontier // its peer is the one of its pid, if there is one
	connected                bool      // it has one
	fresh, unadopted         bool
	accounts                 []*account
	losses                   []*loss
	peers                    []peerSnapshot
	wards                    []ward
}

// A peerSnapshot is a connection.
type peerSnapshot struct {
	conn, pid, pidfd int
	start            uint64
	state            peerState
	id               uint64 // of its hello
	flags, epoch     uint64 // in its hello
	version          string
	front            wire.Front
}

// A ward is a child of the keeper that belongs to no account.
type ward struct{ pid, pidfd int }

// fields writes a snapshot, or reads one, so that both have one order.
type fields struct {
	out *wire.Packer
	in  *wire.Unpacker
}

func (f *fields) number(n *int64) {
	if f.in != nil {
		*n = f.in.Number()
		return
	}
	f.out.Number(*n)
}

func (f *fields) int(n *int) {
	wide := int64(*n)
	f.number(&wide)
	*n = int(wide)
}

//nolint:gosec // the same bits
func (f *fields) unsigned(n *uint64) {
	wide := int64(*n)
	f.number(&wide)
	*n = uint64(wide)
}

//nolint:gosec // written from 32 bits
func (f *fields) key(n *uint32) {
	wide := int64(*n)
	f.number(&wide)
	*n = uint32(wide)
}

func (f *fields) bool(b *bool) {
	var n int64
	if *b {
		n = 1
	}
	f.number(&n)
	*b = n == 1
}

func (f *fields) text(s *string) {
	if f.in != nil {
		*s = f.in.Text()
		return
	}
	f.out.Text(*s)
}

func (f *fields) uid(u *[16]byte) {
	s := string(u[:])
	f.text(&s)
	copy(u[:], s)
}

func (f *fields) texts(list *[]string) {
	if f.in != nil {
		*list = f.in.Texts()
		return
	}
	f.out.Texts(*list)
}

func (f *fields) time(t *time.Time) {
	var n int64
	if !t.IsZero() {
		n = t.UnixNano()
	}
	f.number(&n)
	if f.in != nil && n != 0 {
		*t = time.Unix(0, n)
	}
}

// list writes or reads the length of a list, and calls each for its members.
func list[T any](f *fields, members *[]T, each func(*T)) {
	if f.in == nil {
		f.out.Number(int64(len(*members)))
	} else {
		*members = make([]T, f.in.Count(1))
	}
	for i := range *members {
		each(&(*members)[i])
	}
}

func (f *fields) frontSpec(s *wire.Front) {
	f.texts(&s.Args)
	f.texts(&s.Env)
	f.text(&s.Dir)
}

func (f *fields) snapshot(s *snapshot) {
	f.time(&s.started)
	f.time(&s.gone)
	f.int(&s.lock)
	f.int(&s.listener)
	f.int(&s.registry)
	f.bool(&s.passed)
	f.text(&s.notify)
	f.frontSpec(&s.again)
	there := s.front != nil
	f.bool(&there)
	if there {
		if s.front == nil {
			s.front = &frontier{}
		}
		f.int(&s.front.pid)
		f.unsigned(&s.front.start)
		f.int(&s.front.pidfd)
		f.unsigned(&s.front.epoch)
		f.bool(&s.front.left)
		f.bool(&s.front.parting)
		f.bool(&s.front.ends)
	}
	f.bool(&s.connected)
	f.bool(&s.fresh)
	f.bool(&s.unadopted)
	list(f, &s.accounts, f.account)
	list(f, &s.losses, func(l **loss) {
		if *l == nil {
			*l = &loss{}
		}
		f.uid(&(*l).uid)
		f.text(&(*l).name)
		f.bool(&(*l).reboot)
		f.int(&(*l).slot)
	})
	list(f, &s.peers, f.peer)
	list(f, &s.wards, func(w *ward) {
		f.int(&w.pid)
		f.int(&w.pidfd)
	})
}

func (f *fields) peer(p *peerSnapshot) {
	f.int(&p.conn)
	f.int(&p.pid)
	f.int(&p.pidfd)
	f.unsigned(&p.start)
	state := int(p.state)
	f.int(&state)
	p.state = peerState(state) //nolint:gosec // checked by check
	f.unsigned(&p.id)
	f.unsigned(&p.flags)
	f.unsigned(&p.epoch)
	f.text(&p.version)
	f.frontSpec(&p.front)
}

func (f *fields) account(a **account) {
	if *a == nil {
		*a = newAccount(own)
	}
	f.uid(&(*a).uid)
	f.text(&(*a).name)
	f.int(&(*a).slot)
	files := pairs((*a).files)
	list(f, &files, func(p *pair[file]) {
		p.make()
		f.key(&p.key)
		f.int(&p.value.fd)
		f.int(&p.value.slot)
		f.unsigned(&p.value.id.device)
		f.unsigned(&p.value.id.inode)
		f.key(&p.value.id.kind)
	})
	processes := pairs((*a).processes)
	list(f, &processes, func(p *pair[process]) {
		p.make()
		f.key(&p.key)
		f.process(p.value)
	})
	if f.in == nil {
		return
	}
	for _, p := range files {
		(*a).files[p.key] = p.value
	}
	for _, p := range processes {
		p.value.uid, p.value.key = (*a).uid, p.key
		(*a).processes[p.key] = p.value
	}
}

func (f *fields) process(p *process) {
	f.int(&p.Pid)
	f.unsigned(&p.Start)
	flags := p.Flags()
	f.unsigned(&flags)
	p.SetFlags(flags)
	f.int(&p.Code)
	f.int(&p.Signal)
	f.number(&p.Time)
	f.int(&p.slot)
	f.int(&p.pidfd)
	f.bool(&p.child)
	f.bool(&p.asked)
	f.bool(&p.told)
}

// A pair is a member of a map.
type pair[T any] struct {
	key   uint32
	value *T
}

// make makes room for what is read.
func (p *pair[T]) make() {
	if p.value == nil {
		p.value = new(T)
	}
}

func pairs[T any](m map[uint32]*T) []pair[T] {
	all := make([]pair[T], 0, len(m))
	for key, value := range m {
		all = append(all, pair[T]{key, value})
	}
	return all
}

// encode returns the snapshot's bytes.
func (s *snapshot) encode() []byte {
	var out wire.Packer
	out.Number(stateVersion)
	(&fields{out: &out}).snapshot(s)
	return out
}

// decodeSnapshot reads what encode wrote.
func decodeSnapshot(data []byte) (*snapshot, error) {
	in := wire.NewUnpacker(data)
	if v := in.Number(); v > stateVersion {
		return nil, fmt.Errorf("the state was written by a newer piped-keeper: it has version %d, this program understands up to %d", v, stateVersion)
	} else if v < 1 {
		return nil, errors.New("this is not the state of a piped-keeper")
	}
	s := &snapshot{}
	(&fields{in: in}).snapshot(s)
	if err := in.End(); err != nil {
		return nil, fmt.Errorf("the state of the keeper: %w", err)
	}
	for _, p := range s.peers {
		if p.state >= peerStates {
			return nil, fmt.Errorf("the state of the keeper: a connection in state %d", p.state)
		}
	}
	return s, nil
}
