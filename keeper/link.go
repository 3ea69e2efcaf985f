package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/piped-dev/piped/keeper/wire"
)

// patience is how long a call waits for a new keeper when there is none.
const patience = 10 * time.Second

// A Link is what a front has to its keeper. All methods may be called
// concurrently.
//
// It knows the numbers of all descriptors that are with the keeper. When the keeper dies, the
// link finds or starts another one and gives it everything anew.
type Link struct {
	options Options
	log     *slog.Logger
	ctx     context.Context //nolint:containedctx // the life of the link's own goroutine
	cancel  context.CancelFunc
	running sync.WaitGroup
	own     *Account
	ended   chan struct{} // closed when nothing comes any more

	mu       sync.Mutex // guards what follows, and what accounts and processes say
	state    linkState
	changed  chan struct{} // closed at the next change of state
	conn     *wire.Conn    // while the state is up
	calls    map[uint64]*call
	lastID   uint64
	finished bool // the keeper was told to end
	accounts map[UID]*Account
	epoch    uint64
	info     Info
}

// linkState is how a link is to its keeper.
type linkState uint8

const (
	stateUp       linkState = iota // the keeper answers
	stateLosing                    // the connection is gone, the keeper perhaps not yet, and neither are its copies
	stateAway                      // the keeper is gone, and all it held
	stateAdopting                  // a new one is being told everything
	stateEnded                     // the link is closed, or the keeper was told to end
)

// A call waits for its reply.
type call struct {
	request *wire.Message
	fds     []int      // the caller's, who waits
	answer  chan reply // has room for one; closed when the connection is lost
}

// A reply is what the keeper said to a call.
type reply struct {
	body []byte // what its memfd held
	keys []uint32
	err  error
}

// errDown: the connection was gone before a reply came.
var errDown = errors.New("connection to the keeper lost")

// newLink returns a link that is away.
func newLink(o Options) *Link {
	l := &Link{
		options: o, log: o.Log, state: stateAway,
		ended: make(chan struct{}), changed: make(chan struct{}), accounts: make(map[UID]*Account),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.own = l.account(UID{}, "")
	return l
}

// account makes the record of an account.
func (l *Link) account(uid UID, name string) *Account {
	a := &Account{link: l, uid: uid, name: name, items: make(map[uint32]int), processes: make(map[uint32]*process)}
	l.accounts[uid] = a
	return a
}

// Epoch returns the number of this front: each front of a keeper has a higher one than those before.
func (l *Link) Epoch() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch
}

// Info returns what is known about the keeper now.
func (l *Link) Info() Info {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.info
}

// Ended returns a channel that is closed when the link has ended: by Leave, End or Close, or because somebody told the keeper to
// end, which kills all processes.
func (l *Link) Ended() <-chan struct{} { return l.ended }

// Own returns the front's own account. It holds no processes.
func (l *Link) Own() *Account { return l.own }

// Enter opens the account of a session. The name, at most 63 bytes, is what a [Loss] calls it. The error is [ErrAway] or
// [ErrClosed], or says that there is such an account.
func (l *Link) Enter(uid UID, name string) (*Account, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l.mu.Lock()
	if l.accounts[uid] != nil {
		l.mu.Unlock()
		return nil, fmt.Errorf("%w: there is such an account", ErrInvalid)
	}
	a := l.account(uid, name)
	l.mu.Unlock()
	_, err := l.callTwice(ctx, &wire.Message{Verb: wire.Enter, UID: uid, Text: name})
	if err != nil {
		a.Leave()
		return nil, err
	}
	return a, nil
}

// setState changes the state and wakes up who waits for that.
func (l *Link) setState(s linkState) {
	l.state = s
	close(l.changed)
	l.changed = make(chan struct{})
}

// until waits until ready says so, which is called under the lock; then it returns with the lock held. Otherwise
// the error is [ErrClosed] or, when ctx is done, [ErrAway].
func (l *Link) until(ctx context.Context, ready func(linkState) bool) error {
	for {
		l.mu.Lock()
		changed := l.changed
		switch {
		case l.state == stateEnded:
			l.mu.Unlock()
			return ErrClosed
		case ready(l.state):
			return nil
		}
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ErrAway
		}
	}
}

func isUp(s linkState) bool { return s == stateUp }

// call asks the keeper and waits for its reply. It is called with the lock held in the state up, and releases it. The
// error errDown says that the connection was lost before a reply came; others come from the keeper.
func (l *Link) call(m *wire.Message, fds ...int) (reply, error) {
	l.lastID++
	m.ID = l.lastID
	c := &call{request: m, fds: fds, answer: make(chan reply, 1)}
	l.calls[m.ID] = c
	conn := l.conn
	l.mu.Unlock()

	if err := conn.Send(m, fds...); err != nil {
		if unsent(err, fds) {
			l.mu.Lock()
			delete(l.calls, m.ID)
			l.mu.Unlock()
			return reply{}, wrap(unsentCause(err), err)
		}
		_ = conn.Close() // the goroutine that receives sees it
	}
	r, ok := <-c.answer
	if !ok {
		return reply{}, errDown
	}
	return r, r.err
}

// oncePacket is how many descriptors go with one packet (SCM_MAX_FD).
const oncePacket = 253

// unsent says whether an error of Send means that this message cannot be sent, and the connection is as it was.
func unsent(err error, fds []int) bool {
	return len(fds) <= oncePacket && (errors.Is(err, syscall.EBADF) || unsentCause(err) != nil)
}

// unsentCause returns what has run out when a message cannot be sent, or nil.
func unsentCause(err error) error {
	switch {
	case errors.Is(err, syscall.ETOOMANYREFS): // too many descriptors are under way
		return ErrDescriptors
	case errors.Is(err, syscall.ENOMEM), errors.Is(err, syscall.ENOBUFS):
		return ErrMemory
	}
	return nil
}

// callTwice is for requests that may be repeated, or are part of what a new keeper is told: those have been carried out when there is one.
func (l *Link) callTwice(ctx context.Context, m *wire.Message, fds ...int) (reply, error) {
	if err := l.until(ctx, isUp); err != nil {
		return reply{}, err
	}
	r, err := l.call(m, fds...)
	if !errors.Is(err, errDown) {
		return r, err
	}
	if err := l.until(ctx, isUp); err != nil {
		return reply{}, err
	}
	l.mu.Unlock()
	return reply{}, nil
}

// Part says that this front has begun to end. If it dies before it has called Leave, or with end End, the keeper does as if it
// had, and starts no other. It returns once the keeper knows, or is away.
func (l *Link) Part(end bool) {
	m := &wire.Message{Verb: wire.Part}
	if end {
		m.Args[0] = 1
	}
	l.mu.Lock()
	l.letGo(m)
}

// Leave ends the link in order: what is there waits for the next front. The keeper starts none.
func (l *Link) Leave(ctx context.Context) error { return l.part(ctx, wire.Leave) }

// End ends the link and the keeper: it kills what still runs, lets go of everything, and is gone with its files when End returns nil.
func (l *Link) End(ctx context.Context) error { return l.part(ctx, wire.Finish) }

// part says goodbye.
func (l *Link) part(ctx context.Context, verb wire.Verb) error {
	for {
		if err := l.until(ctx, isUp); err != nil {
			return errors.Join(err, l.Close())
		}
		done := make(chan error, 1)
		go func() {
			_, err := l.call(&wire.Message{Verb: verb})
			done <- err
		}()
		select {
		case err := <-done:
			if errors.Is(err, errDown) && ctx.Err() == nil {
				l.mu.Lock()
				ended := l.state == stateEnded
				l.mu.Unlock()
				if !ended {
					continue
				}
			}
			return errors.Join(err, l.Close())
		case <-ctx.Done():
			err := l.Close() // it also ends the call
			_ = <-done       //nolint:staticcheck // errDown
			return errors.Join(ctx.Err(), err)
		}
	}
}

// Close drops the link and returns when its goroutines have ended. To the keeper that looks like the death of the front as soon
// as this process ends, too. Processes of this link have no exit after that. It is idempotent.
func (l *Link) Close() error {
	l.cancel()
	l.mu.Lock()
	if l.conn != nil {
		_ = l.conn.Close()
	}
	l.mu.Unlock()
	l.running.Wait()
	return nil
}
