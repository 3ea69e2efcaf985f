package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
)

// A Registry holds the sessions of one daemon. Close ends them all.
type Registry struct {
	cfg    atomic.Pointer[Config]
	link   *keeper.Link
	null   *os.File // stands for what has no descriptor of its own
	poller *pipe.Poller
	log    *slog.Logger
	limit  uint64 // descriptors
	events *eventLog

	requests requests[Spec, *Session]
	stop     context.CancelFunc
	ctx      func() context.Context // ends with Close; for what goes on in the background
	wg       sync.WaitGroup
	swept    chan struct{} // cap 1: look for ended sessions now

	mu     sync.Mutex
	byName map[string]*Session
	byUID  map[string]*Session
	lost   map[string]*lost // by name and by uid
	closed bool
	busy   sync.WaitGroup // calls that make or delete something; none begins once closed
}

// New makes a registry of what the daemon before has left, whose descriptors it
// takes over. The link stays the caller's. The error is the kernel's, or says that
// sessions are there that only a later version understands; they are untouched
// then.
func New(cfg Config, link *keeper.Link, estate *keeper.Estate, log *slog.Logger) (*Registry, Recovered, error) {
	r, err := newRegistry(cfg, link, log)
	if err != nil {
		return nil, Recovered{}, err
	}
	done, err := r.recover(estate)
	if err != nil {
		return nil, done, errors.Join(err, r.Leave())
	}
	r.background(r.sweep)
	r.sweepSoon()
	return r, done, nil
}

func newRegistry(cfg Config, link *keeper.Link, log *slog.Logger) (*Registry, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	poller, err := pipe.NewPoller()
	if err != nil {
		return nil, errors.Join(err, null.Close())
	}
	var rlim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &rlim); err != nil {
		return nil, errors.Join(err, poller.Close(), null.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &Registry{link: link, null: null, poller: poller, log: log, limit: rlim.Cur, events: newEventLog(cfg.EventsRetained), stop: stop,
		ctx: func() context.Context { return ctx }, swept: make(chan struct{}, 1),
		byName: make(map[string]*Session), byUID: make(map[string]*Session), lost: make(map[string]*lost)}
	r.cfg.Store(&cfg)
	return r, nil
}

func (r *Registry) config() *Config { return r.cfg.Load() }

// Configure changes what holds from now on, for what is made from now on. Where
// logs are kept, and how many events, stays as it is.
func (r *Registry) Configure(cfg Config) {
	cfg.KernelLogs, cfg.EventsRetained = r.config().KernelLogs, r.config().EventsRetained
	r.cfg.Store(&cfg)
	r.sweepSoon()
}

// background runs f, which Close joins; its context ends with Close. After that
// nothing is run any more.
func (r *Registry) background(f func(context.Context)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx().Err() == nil {
		r.wg.Go(func() { f(r.ctx()) })
	}
}

// enter begins a call that makes or deletes something, which Close waits for;
// leave ends it.
func (r *Registry) enter() (leave func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrShutdown
	}
	r.busy.Add(1)
	return r.busy.Done, nil
}

// killWait is how long Close waits for processes that it has killed: one that
// hangs in the kernel must not hold up the end of the daemon.
const killWait = 5 * time.Second

// Close ends all sessions: input and output are closed, processes get TERM and,
// when ctx ends, KILL. Nothing can be created any more, and nothing of the
// registry runs any more when Close returns.
func (r *Registry) Close(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	all := slices.Collect(maps.Values(r.byName))
	r.mu.Unlock()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, s := range all {
		wg.Go(func() {
			err := s.shutDown(ctx)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	r.mu.Lock()
	r.stop()
	r.mu.Unlock()
	r.busy.Wait()
	r.wg.Wait()
	err := r.poller.Close() // the last words of directions have been told
	r.events.close()
	return errors.Join(append(errs, err, r.null.Close())...)
}

// Leave ends the registry and leaves its sessions as they are to the daemon that
// comes next. The caller's process must end then: sessions still move bytes until
// that.
func (r *Registry) Leave() error {
	r.mu.Lock()
	r.closed = true
	r.stop()
	r.mu.Unlock()
	r.busy.Wait()
	r.wg.Wait()
	r.events.close()
	return nil
}

// shutDown ends the session gently until ctx ends.
func (s *Session) shutDown(ctx context.Context) error {
	s.mu.Lock()
	s.gone = true
	pipes, procs := s.everyPipeLocked(), slices.Clone(s.procs)
	s.mu.Unlock()
	for _, p := range pipes {
		p.shut()
	}
	for _, p := range procs {
		p.condemn()
		_ = p.send(termSignal) // it may have exited
	}
	for _, p := range procs {
		if p.Wait(ctx) != nil {
			break
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killWait)
	defer cancel()
	return s.end(ctx)
}

// checkReserve refuses an endpoint whose descriptors lie in the reserve: the
// kernel gives out the lowest free number, so everything below is taken.
func (r *Registry) checkReserve(ep *pipe.Endpoint) error {
	read, write := ep.Descriptors()
	// Logs get theirs when the first byte comes; nobody must be refused then.
	n := max(read, write) + r.poller.Unmade()
	if uint64(n)+r.reserve() >= r.limit { //nolint:gosec // a descriptor
		return fmt.Errorf("%w: %d descriptors are allowed, %d are kept free: end sessions, or raise the limit (LimitNOFILE=, ulimit -n)",
			ErrDescriptors, r.limit, r.reserve())
	}
	return nil
}

func (r *Registry) reserve() uint64 { return min(reservedDescriptors, r.limit/4) }

// MaxSessions estimates how many ordinary sessions the descriptor limit allows.
func (r *Registry) MaxSessions() int {
	return int((r.limit - r.reserve()) / perSession) //nolint:gosec // small
}

// Create creates a session, as a whole or not at all.
func (r *Registry) Create(ctx context.Context, spec Spec) (*Session, error) {
	if err := spec.check(r.config()); err != nil {
		return nil, err
	}
	return r.requests.once(ctx, spec.RequestID, spec, func() (*Session, error) {
		leave, err := r.enter()
		if err != nil {
			return nil, err
		}
		defer leave()
		s, err := r.reserveName(&spec)
		if err != nil {
			return nil, err
		}
		r.forgetLost(func(l *lost) bool { return l.Name == s.name }) // whoever takes the name knows
		err = s.build(ctx, &spec)
		if errors.Is(err, ErrDescriptors) && r.shedLogs() {
			r.release(s)
			if s, err = r.reserveName(&spec); err != nil {
				return nil, err
			}
			err = s.build(ctx, &spec)
		}
		if err != nil {
			r.release(s)
			return nil, err
		}
		r.log.Info("session created", "session", s.name, "uid", s.uid)
		return s, nil
	})
}

// reserveName enters a new, empty session; nobody sees it before it is built.
func (r *Registry) reserveName(spec *Spec) (*Session, error) {
	uid, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrShutdown // Close has looked at all sessions already
	}
	name := spec.Name
	if name == "" {
		base := "pipe"
		if spec.Process != nil {
			base = baseName(spec.Process.Args[0])
		}
		name = randomName(base)
		for r.byName[name] != nil {
			name = randomName(base)
		}
	}
	if r.byName[name] != nil || r.byUID[name] != nil {
		return nil, fmt.Errorf("%w: %s", ErrSessionExists, name)
	}
	content := digestOf(*spec)
	s := &Session{reg: r, name: name, uid: uid.String(), labels: maps.Clone(spec.Labels), created: time.Now(),
		request: spec.RequestID, digest: content[:], resources: spec.Resources, creator: newCreator(spec.Lease)}
	r.byName[name], r.byUID[s.uid] = s, s
	return s, nil
}

// release gives the name of a session back; false if it was done before.
func (r *Registry) release(s *Session) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byUID[s.uid] != s {
		return false
	}
	delete(r.byName, s.name)
	delete(r.byUID, s.uid)
	return true
}

// remove forgets a session that was built, and the request that created it; false
// if it was done before.
func (r *Registry) remove(s *Session) bool {
	removed := r.release(s)
	if removed && s.request != "" {
		r.requests.forget(s.request)
	}
	return removed
}

// Get returns a session by name or uid.
func (r *Registry) Get(name string) (*Session, error) {
	r.mu.Lock()
	s, was := cmp.Or(r.byName[name], r.byUID[name]), r.lost[name]
	r.mu.Unlock()
	if s == nil && was != nil {
		return nil, &was.LostError
	}
	if s == nil || !s.built() {
		return nil, fmt.Errorf("%w: %q", ErrSessionNotFound, name)
	}
	return s, nil
}

// A Filter chooses sessions.
type Filter struct {
	Prefix string            // of the name
	Labels map[string]string // all of them
	State  State             // 0: any
}

// chooses looks at name and labels.
func (f *Filter) chooses(name string, labels map[string]string) bool {
	if !strings.HasPrefix(name, f.Prefix) {
		return false
	}
	for k, v := range f.Labels {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// List returns the sessions that the filter chooses, oldest first.
func (r *Registry) List(f Filter) []*Session {
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.byName))
	r.mu.Unlock()
	all = slices.DeleteFunc(all, func(s *Session) bool {
		return !s.built() || !f.chooses(s.name, s.labels) || f.State != 0 && s.State() != f.State
	})
	// Version 7 ids sort by time.
	slices.SortFunc(all, func(a, b *Session) int { return cmp.Compare(a.uid, b.uid) })
	return all
}

// Delete removes a session that has ended, or with force any: its processes are
// killed, or stopped where their policy says so, and its pipes closed. The context
// bounds the waiting for that.
func (r *Registry) Delete(ctx context.Context, name string, force bool) error {
	s, err := r.Get(name)
	if errors.Is(err, ErrLost) {
		r.forgetLost(func(l *lost) bool { return l.Name == name || l.uid == name })
		return nil
	}
	if err != nil {
		return err
	}
	leave, err := r.enter()
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx(), cancel)()
	if !s.withdraw(force) {
		return fmt.Errorf("%w: %s", ErrActive, s.name)
	}
	removed := r.remove(s)
	r.log.Info("session deleted", "session", s.name, "uid", s.uid)
	s.stopDeleted(ctx)
	err = s.end(ctx)
	if removed {
		s.tell(Event{Type: EventSessionDeleted})
	}
	return err
}

// Counts returns how many sessions are active and how many have ended.
func (r *Registry) Counts() (active, ended int) {
	for _, s := range r.List(Filter{}) {
		if _, over := s.Ended(); over {
			ended++
		} else {
			active++
		}
	}
	return active, ended
}

// watch tells the exit of a process and has a look whether its session has
// ended.
func (r *Registry) watch(s *Session, p *Process) {
	p.guard()
	r.background(func(ctx context.Context) {
		if p.Wait(ctx) != nil && p.Running() {
			return
		}
		s.tellExit(p)
		p.proceed()
		s.Ended()
		exit := p.Info()
		r.log.Info("process exited", "session", s.name, "process", p.name, "pid", exit.Pid, "code", exit.Exit.Code, "signal", int(exit.Exit.Signal),
			"cause", exit.Cause)
		r.sweepSoon()
		p.giveUp(ctx)
	})
}

// sweepSoon lets sweep have a look now.
func (r *Registry) sweepSoon() {
	select {
	case r.swept <- struct{}{}:
	default:
	}
}

// sweep removes sessions that have ended and expired, oldest end first.
func (r *Registry) sweep(ctx context.Context) {
	tick := time.NewTicker(min(max(r.config().EndedFor/8, 10*time.Millisecond), 15*time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-r.swept:
		}
		r.forgetLost(func(l *lost) bool { return time.Since(l.since) >= r.config().EndedFor })
		for _, s := range r.expired(time.Now()) {
			if !s.withdraw(false) {
				continue // something was started in it just now
			}
			removed := r.remove(s)
			r.log.Info("session expired", "session", s.name, "uid", s.uid)
			if err := s.end(ctx); err != nil {
				r.log.Error("session did not end", "session", s.name, "uid", s.uid, "error", err)
			}
			if removed {
				s.tell(Event{Type: EventSessionDeleted, Detail: "its retention is over"})
			}
		}
	}
}

// expired returns the ended sessions that are to be removed, and lets all ended
// ones give their descriptors back.
func (r *Registry) expired(now time.Time) []*Session {
	type over struct {
		s     *Session
		since time.Time
	}
	var ended []over
	for _, s := range r.List(Filter{}) {
		s.shedFormer()
		if since, ok := s.Ended(); ok {
			s.shed()
			ended = append(ended, over{s, since})
		}
	}
	slices.SortFunc(ended, func(a, b over) int { return a.since.Compare(b.since) })
	var gone []*Session
	for i, o := range ended {
		if now.Sub(o.since) >= r.config().EndedFor || len(ended)-i > r.config().EndedMax {
			gone = append(gone, o.s)
		}
	}
	return gone
}
