package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/failpoint"
	"github.com/piped-dev/piped/keeper/wire"
)

// window is how many parts of an estate are asked for at once.
const window = 16

// An heir puts an estate together.
type heir struct {
	link   *Link
	estate *Estate
	byUID  map[UID]*Remains
}

// inherit introduces this front and takes over what the one before has left. errDown says that the keeper died meanwhile: nothing
// was taken over then.
func (l *Link) inherit(ctx context.Context, s *station, onWait func(pid int)) (*Estate, error) {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() })
	defer stop()
	welcome, err := l.introduce(s, 0, onWait)
	if err != nil {
		return nil, err
	}
	h := &heir{link: l, estate: &Estate{Own: make(map[uint32]int)}, byUID: make(map[UID]*Remains)}
	if gone := int64(welcome.Args[3]); gone != 0 { //nolint:gosec // the same bits
		h.estate.Gone = time.Unix(0, gone)
	}
	failpoint.Hit("keeper.before-inherit")
	if err := h.collect(s.conn); err != nil {
		h.drop()
		return nil, err
	}
	failpoint.Hit("keeper.after-inherit")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attach(s)
	return h.estate, nil
}

// introduce says hello and returns the answer when this is the only front.
func (l *Link) introduce(s *station, flags uint64, onWait func(pid int)) (*wire.Message, error) {
	front := wire.Front{Args: l.options.Front}
	if len(front.Args) > 0 {
		front.Env = os.Environ()
		front.Dir, _ = os.Getwd()
	}
	blob, err := wire.NewBlob(front.Encode())
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(blob) }()
	hello := &wire.Message{Verb: wire.Hello, ID: 1, Text: l.options.Version}
	hello.Args = [8]uint64{0: wire.Version, 1: flags, 2: l.epoch}
	if err := s.conn.Send(hello, blob); err != nil {
		return nil, errDown
	}
	for {
		var m wire.Message
		fds, err := s.conn.Recv(&m)
		if err != nil {
			return nil, receiveError(err)
		}
		switch {
		case m.Verb == wire.Wait:
			wire.CloseAll(fds)
			if onWait != nil {
				onWait(int(m.Args[0])) //nolint:gosec // a process id
			}
		case m.Verb == wire.Hello && m.Reply && m.Code == wire.OK && len(fds) == 1:
			if s.pidfd, err = watchable(fds[0]); err != nil {
				return nil, err
			}
			l.mu.Lock()
			l.epoch = m.Args[0]
			l.info.Cgroups = cgroupsOf(&m)
			l.info.Pid, l.info.Version, l.info.Started = int(m.Args[1]), m.Text, time.Unix(0, int64(m.Args[2])) //nolint:gosec // the same bits
			l.mu.Unlock()
			return &m, nil
		default:
			wire.CloseAll(fds)
			return nil, refusal(&m)
		}
	}
}

// errSuperseded: another front has taken over.
var errSuperseded = errors.New("another front has taken over")

// refusal returns why a front is not taken in.
func refusal(m *wire.Message) error {
	switch m.Code {
	case wire.Superseded:
		return errSuperseded
	case wire.Ending:
		return errDown // a next one will come
	}
	return fmt.Errorf("the keeper answers %v to %v: %s", m.Code, m.Verb, m.Text)
}

// receiveError returns errDown, or that descriptors have run out.
func receiveError(err error) error {
	if errors.Is(err, wire.ErrDescriptors) {
		return fmt.Errorf("%w: %w", ErrDescriptors, err)
	}
	return errDown
}

// attach makes s the connection. Called with the lock held.
func (l *Link) attach(s *station) {
	l.conn, l.calls = s.conn, make(map[uint64]*call)
	l.info.Away = time.Time{}
	l.setState(stateUp)
}

// collect asks for the parts of the estate up to its end.
func (h *heir) collect(conn *wire.Conn) error {
	asked := uint64(0)
	ask := func() error {
		asked++
		if err := conn.Send(&wire.Message{Verb: wire.Next, ID: asked}); err != nil {
			return errDown
		}
		return nil
	}
	for range window {
		if err := ask(); err != nil {
			return err
		}
	}
	for ended := false; asked > 0; asked-- {
		var m wire.Message
		fds, err := conn.Recv(&m)
		if err != nil {
			return receiveError(err)
		}
		if ended { // what was asked for too much, and what the keeper has to tell already
			wire.CloseAll(fds)
			if !m.Reply {
				h.link.told(&m)
				asked++
			}
			continue
		}
		if m.Verb != wire.Next || !m.Reply || m.Code != wire.OK {
			wire.CloseAll(fds)
			return refusal(&m)
		}
		if m.Args[0] == wire.PartEnd {
			ended = true
			continue
		}
		if err := h.take(&m, fds); err != nil {
			return err
		}
		if err := ask(); err != nil {
			return err
		}
	}
	return nil
}

// take takes one part.
func (h *heir) take(m *wire.Message, fds []int) error {
	l := h.link
	l.mu.Lock()
	defer l.mu.Unlock()
	uid := UID(m.UID)
	a := l.accounts[uid]
	switch {
	case m.Args[0] == wire.PartAccount:
		if a == nil {
			a = l.account(uid, m.Text)
			remains := &Remains{Account: a, UID: uid, Name: m.Text, Files: make(map[uint32]int), Processes: make(map[uint32]Process)}
			h.estate.Sessions, h.byUID[uid] = append(h.estate.Sessions, remains), remains
		}
	case m.Args[0] == wire.PartFiles && a != nil && len(m.Keys) == len(fds):
		files := h.estate.Own
		if r := h.byUID[uid]; r != nil {
			files = r.Files
		}
		for i, key := range m.Keys {
			a.items[key], files[key] = fds[i], fds[i]
		}
		return nil
	case m.Args[0] == wire.PartProcess && h.byUID[uid] != nil && len(fds) <= 1:
		p := newProcess(a, m.Key)
		a.processes[m.Key], h.byUID[uid].Processes[m.Key] = p, p
		pidfd := -1
		if len(fds) == 1 {
			pidfd = fds[0]
		}
		p.beginLocked(m.Process(), pidfd)
		return nil
	case m.Args[0] == wire.PartLoss:
		h.estate.Lost = append(h.estate.Lost, Loss{UID: uid, Name: m.Text, Reboot: m.Args[1] == 1})
	default:
		wire.CloseAll(fds)
		return fmt.Errorf("the keeper tells of an estate that makes no sense (part %d)", m.Args[0])
	}
	wire.CloseAll(fds)
	return nil
}

// drop lets go of what was taken.
func (h *heir) drop() {
	l := h.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for uid, a := range l.accounts {
		for _, fd := range a.items {
			_ = unix.Close(fd)
		}
		clear(a.items)
		for _, p := range a.processes {
			p.releaseLocked()
		}
		if a != l.own {
			delete(l.accounts, uid)
		}
	}
}
