package keeper

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/failpoint"
	"github.com/piped-dev/piped/keeper/wire"
)

// An Account is what the keeper holds for one session: copies of its descriptors,
// and its processes. All methods may be called concurrently, those about one key
// one after the other.
type Account struct {
	link *Link
	uid  UID
	name string

	// Guarded by link.mu.
	items     map[uint32]int // the front's own numbers of what the keeper has said that it keeps
	processes map[uint32]*process
	left      bool
	resources SessionLimits
}

// errUnknown: there is no such account, process or cgroup.
var errUnknown = errors.New("the keeper does not know it")

// errStranger: the keeper has another descriptor or process on record under this key.
var errStranger = errors.New("not what the keeper has on record")

// Put has copies kept under the keys given, and returns when they are. The descriptors stay the caller's and stay open until
// Remove of their keys has returned. While the keeper is away it waits for a new one, up to 10 s, then the error is [ErrAway]. If
// there is an error, nothing is kept.
func (a *Account) Put(items ...Item) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for chunk := range slices.Chunk(items, wire.MaxKeys) {
		if err := a.put(ctx, chunk); err != nil {
			for _, item := range items {
				a.Remove(item.Key)
			}
			return err
		}
	}
	return nil
}

func (a *Account) put(ctx context.Context, items []Item) error {
	m := &wire.Message{Verb: wire.Put, UID: a.uid}
	var fds []int
	for _, item := range items {
		m.Keys = append(m.Keys, item.Key)
		fds = append(fds, item.FD)
	}
	for {
		if err := a.link.until(ctx, isUp); err != nil {
			return err
		}
		if a.left {
			a.link.mu.Unlock()
			return ErrClosed
		}
		failpoint.Hit("keeper.before-put")
		if _, err := a.link.call(m, fds...); !errors.Is(err, errDown) {
			return err
		}
	}
}

// Remove returns when the copies under the keys are gone. Unknown keys are no error.
func (a *Account) Remove(keys ...uint32) {
	for chunk := range slices.Chunk(keys, wire.MaxKeys) {
		a.link.mu.Lock()
		for _, key := range chunk {
			delete(a.items, key)
		}
		a.link.letGo(&wire.Message{Verb: wire.Remove, UID: a.uid, Keys: chunk})
		failpoint.Hit("keeper.after-remove")
	}
}

// letGo has the keeper forget something that a new keeper is not told of any more, and returns when the keeper has, or is gone. A whole account
// may still be on the record of the keeper that is gone, which would tell it as lost if the front died now: for that it waits until the next one
// has everything, up to 10 s after the loss. It is called with the lock held, and releases it.
func (l *Link) letGo(m *wire.Message) {
	for {
		changed := l.changed
		left := time.Duration(math.MaxInt64)
		switch l.state {
		case stateEnded:
			l.mu.Unlock()
			return
		case stateUp:
			if _, err := l.call(m); !errors.Is(err, errDown) {
				return
			}
			l.mu.Lock()
			continue
		case stateAway:
			left = time.Until(l.info.Away.Add(patience))
			if m.Verb != wire.Drop || left <= 0 {
				l.mu.Unlock()
				return
			}
		default:
		}
		l.mu.Unlock()
		timer := time.NewTimer(left)
		select {
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
		l.mu.Lock()
	}
}

// Start starts a program and returns once it has been executed. The key names the process within the account: a Start of a key
// that was started before returns that process.
//
// The descriptors of spec are duplicated into the child; the caller keeps its own, must leave them open until Start returns, and
// closes them. The context bounds the waiting for the keeper only: once it was asked the start is finished.
//
// A program that cannot be started leaves nothing behind; the error is a *SpawnError, which tells by [errors.Is] what was wrong.
// Other errors are the context's, [ErrClosed], [ErrAway], and [ErrUncertain] when the keeper died before it answered: then the
// program was killed if it had been started.
func (a *Account) Start(ctx context.Context, key uint32, spec Spec) (Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if p := a.process(key); p != nil {
		return p, nil
	}
	if err := spec.Check(); err != nil {
		return nil, err
	}
	fds, err := sources(&spec)
	if err != nil {
		return nil, &SpawnError{Step: "open", Path: spec.Path, Err: wrap(Exhausted(err), err)}
	}
	defer func() { _ = unix.Close(fds[len(fds)-1]) }()

	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := a.link.until(waiting, isUp); err != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	if a.left {
		a.link.mu.Unlock()
		return nil, ErrClosed
	}
	p := newProcess(a, key)
	p.sweep = spec.Sweep
	a.processes[key] = p
	failpoint.Hit("keeper.before-start")
	err = a.start(p, fds)
	failpoint.Hit("keeper.after-start")
	if err == nil {
		return p, nil
	}
	a.link.mu.Lock()
	delete(a.processes, key)
	a.link.mu.Unlock()
	var spawn *SpawnError
	if errors.Is(err, ErrDescriptors) && !errors.As(err, &spawn) {
		err = &SpawnError{Step: "fork", Path: spec.Path, Err: err}
	}
	return nil, err
}

// sources returns the descriptors of a Start: those of the spec, and its memfd, which the caller closes.
func sources(spec *Spec) ([]int, error) {
	told := wire.Spec{Path: spec.Path, Args: spec.Args, Env: spec.Env, Dir: spec.Dir}
	var fds []int
	for _, f := range spec.Files {
		file := wire.File{FD: f.FD, Source: -1}
		if f.Source >= 0 {
			if file.Source = slices.Index(fds, f.Source); file.Source < 0 {
				file.Source = len(fds)
				fds = append(fds, f.Source)
			}
		}
		told.Files = append(told.Files, file)
	}
	told.Attributes = spec.Attributes.wire()
	blob, err := wire.NewBlob(told.Encode())
	if err != nil {
		return nil, err
	}
	return append(fds, blob), nil
}

// start asks for p until the keeper has answered or has nothing on record. It is called with the lock held, and releases it.
func (a *Account) start(p *process, fds []int) error {
	for {
		m := &wire.Message{Verb: wire.Start, UID: a.uid, Key: p.key}
		if p.sweep {
			m.Args[0] = wire.Sweep
		}
		_, err := a.link.call(m, fds...)
		if !errors.Is(err, errDown) {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err = a.link.until(ctx, isUp)
		cancel()
		if err != nil {
			return errors.Join(ErrUncertain, err)
		}
		if !p.recorded {
			a.link.mu.Unlock()
			return ErrUncertain
		}
	}
}

// process returns the process of a key, or nil.
func (a *Account) process(key uint32) *process {
	a.link.mu.Lock()
	defer a.link.mu.Unlock()
	return a.processes[key]
}

// Forget lets go of the exit status of a process that has exited.
func (a *Account) Forget(key uint32) {
	a.link.mu.Lock()
	if p := a.processes[key]; p == nil || !p.exited {
		a.link.mu.Unlock()
		return
	}
	delete(a.processes, key)
	a.link.letGo(&wire.Message{Verb: wire.Forget, UID: a.uid, Key: key})
}

// Leave closes the account: descriptors are dropped, running processes are killed and reaped, exits forgotten. It returns when that is
// so. A process whose exit is not known by then has none that is.
func (a *Account) Leave() {
	l := a.link
	l.mu.Lock()
	if a.left || a == l.own {
		l.mu.Unlock()
		return
	}
	a.left = true
	clear(a.items)
	l.letGo(&wire.Message{Verb: wire.Drop, UID: a.uid})
	failpoint.Hit("keeper.after-drop")

	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.accounts, a.uid)
	for _, p := range a.processes {
		p.finishLocked(ExitStatus{Code: -1, Unknown: true, Time: time.Now()})
	}
	clear(a.processes)
}
