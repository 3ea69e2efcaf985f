package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/piped-dev/piped/failpoint"
	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
)

// A Process is a child of a session.
type Process struct {
	session *Session
	name    string
	// incarnation is which start of it this is, from 1; origin what each is started
	// from, nil where that is not known.
	incarnation uint64
	origin      *origin
	// key names it with the keeper, order among those of its session.
	key      uint32
	order    int
	args     []string
	started  time.Time
	child    keeper.Process
	inherits []Inherit // besides its stdio
	// inputs are the daemon's ends whose other ends the process reads.
	inputs []*Endpoint
	// given are the ends that it got.
	given  []*Endpoint
	exited sync.Once // its exit was told

	mu sync.Mutex
	// record is what outlives the daemon. Its Stop and Deadline stay as they are.
	record processRecord
	// ladder is nil until the process is stopped; moved is closed when it has changed,
	// nil while nobody waits for that; climbing: somebody takes its steps, taking: just
	// now.
	ladder           *ladder
	moved            chan struct{}
	climbing, taking bool
	// condemned: it is ended with its session.
	condemned bool
	// decided: what follows the exit is in the record; supervised: somebody carries it
	// out; replaced: the next incarnation is there; barred: there is none any more,
	// because the session ends. toldFailure: another daemon has told why not.
	decided, supervised, replaced, barred, toldFailure bool
	// launching is closed when the start that is under way is done, nil while none is.
	launching chan struct{}
	// attempts counts those starts of the next one that failed, failure is why.
	attempts int
	failure  error
}

// Name returns the process's name inside its session.
func (p *Process) Name() string { return p.name }

// Running reports whether it has not exited.
func (p *Process) Running() bool {
	select {
	case <-p.child.Done():
		return false
	default:
		return true
	}
}

// Wait waits until the process has exited, or returns the context's error.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.child.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Signal sends a signal for a client; ErrExited once the process has exited.
func (p *Process) Signal(sig syscall.Signal) error {
	// Known before it can act, so that a daemon that comes next knows it too.
	p.mu.Lock()
	first := p.Running() && !slices.Contains(p.record.Signals, sig)
	if first {
		p.record.Signals = append(p.record.Signals, sig)
		p.noteLocked()
	}
	p.mu.Unlock()
	err := p.send(sig)
	if first && errors.Is(err, keeper.ErrAway) { // it was not sent
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.Running() {
			p.record.Signals = slices.DeleteFunc(p.record.Signals, func(s syscall.Signal) bool { return s == sig })
			p.noteLocked()
		}
	}
	return err
}

// noteLocked writes down what the process is now.
func (p *Process) noteLocked() { p.session.note(p.recordKey(), p.record) }

// send sends a signal; ErrExited once the process has exited.
func (p *Process) send(sig syscall.Signal) error {
	err := p.child.Signal(sig)
	if errors.Is(err, keeper.ErrExited) {
		return fmt.Errorf("%w: %s", ErrExited, p.name)
	}
	return err
}

// launch is one start of a process in the making.
type launch struct {
	s     *Session
	spec  *ProcessSpec
	name  string
	pipes map[string]*Pipe // all that the process may inherit from
	made  []*Pipe          // made for this start: its stdio
	order func() int       // of the next pipe that is made
	env   []string         // without what announces the ends
	// attributes are of who, who is nil where that is the keeper's own user.
	attributes keeper.Attributes
	who        *user.User
	files      []keeper.File
	given      []givenEnd
	ends       []*Endpoint // what Inherits names, in its order
	// copies are of those ends: the daemon's own may be closed at any time, and
	// its number given out again.
	copies []pipe.Copy
	proc   *Process
	digest digest // of the request, if it has an id
	// again is the incarnation before, nil for the first; request is the client's that
	// wants the next one, remade are the pipes that are made anew besides stdio.
	again   *Process
	request string
	remade  []*Pipe
	// anew are the pipes of the same request whose ends 2 are handed over to it.
	anew []PipeSpec
}

// fresh returns all pipes that were made for this start.
func (l *launch) fresh() []*Pipe { return slices.Concat(l.made, l.remade) }

// stdioName returns the name of a pipe of the standard streams: with the
// process's before it if the plain one is taken. "stderr" beside the "stdio" of
// another process, which has none, would look like that one's.
func (l *launch) stdioName(stream string) string {
	if l.again != nil {
		if stream == "stdio" {
			return l.again.origin.Stdio
		}
		return l.again.origin.Stderr
	}
	taken := func(name string) bool { return l.pipes[name] != nil }
	other := l.pipes["stdio"]
	if !taken(stream) && (other == nil || other.kind == pipe.Duplex || other.kind == pipe.OneWay) {
		return stream
	}
	owner := l.name[:min(len(l.name), maxName-1-len(stream))]
	return freeName(owner+"."+stream, taken)
}

// making says what a pipe is made for that stands where that of the incarnation
// before stood.
func (l *launch) making(name string) making {
	m := making{sealed: true, process: l.name}
	if l.again == nil {
		m.order = l.order()
		return m
	}
	m.incarnation = l.proc.incarnation
	if before := l.pipes[name]; before != nil {
		m.order = before.order
	}
	return m
}

// remake makes the pipes anew, besides stdio, that the incarnation before had to
// itself.
func (l *launch) remake() error {
	if l.again == nil {
		return nil
	}
	for i := range l.again.origin.Pipes {
		spec := &l.again.origin.Pipes[i]
		p, err := l.s.makePipe(spec, l.making(spec.Name), func(string) bool { return false })
		if err != nil {
			return err
		}
		l.remade = append(l.remade, p)
		l.pipes[spec.Name] = p
	}
	return nil
}

// stdio makes the pipes of the standard streams.
func (l *launch) stdio() error {
	spec := l.spec
	name := l.stdioName("stdio")
	kind, made, stdio := spec.kind(), l.making(name), spec.Stdio
	if spec.hasTerminal() {
		made.terminal, stdio = spec.terminal()
	}
	if kind != 0 {
		p, err := l.s.openPipe(name, &stdio, kind, made)
		if err != nil {
			return err
		}
		l.made = append(l.made, p)
		r, w := p.ends[1].ep.Descriptors()
		if r >= 0 {
			l.files = append(l.files, keeper.File{FD: 0, Source: r})
			l.proc.inputs = append(l.proc.inputs, p.ends[0])
		}
		if w >= 0 {
			l.files = append(l.files, keeper.File{FD: 1, Source: w})
		}
		if spec.Stderr == StdioMerged || spec.Stderr == StdioTerminal {
			l.files = append(l.files, keeper.File{FD: 2, Source: w})
		}
	}
	if spec.Stderr == StdioPipe {
		name := l.stdioName("stderr")
		p, err := l.s.openPipe(name, &spec.StderrPipe, pipe.OneWay, l.making(name))
		if err != nil {
			return err
		}
		l.made = append(l.made, p)
		_, w := p.ends[1].ep.Descriptors()
		l.files = append(l.files, keeper.File{FD: 2, Source: w})
	}
	return nil
}

// null gives /dev/null to standard streams that lead nowhere else.
func (l *launch) null() {
	taken := make(map[int]bool)
	for _, f := range l.files {
		taken[f.FD] = true
	}
	for fd := range 3 {
		if !taken[fd] {
			l.files = append(l.files, keeper.File{FD: fd, Source: -1})
		}
	}
}

// inherit collects the ends that the process gets.
func (l *launch) inherit(ctx context.Context) error {
	for _, in := range l.spec.Inherits {
		p, ok := l.pipes[in.Pipe]
		if !ok {
			return fmt.Errorf("%w: %q in session %s", ErrPipeNotFound, in.Pipe, l.s.name)
		}
		e, err := p.end(in.End)
		if err != nil {
			return err
		}
		if !slices.Contains(l.ends, e) {
			if err := e.bequeath(ctx, l.name); err != nil {
				return err
			}
		}
		l.ends = append(l.ends, e)
		given, err := e.ep.Copy()
		if err != nil {
			return descriptorError(fmt.Errorf("%w: %s", err, e.Ref()))
		}
		l.copies = append(l.copies, given)
		l.files = append(l.files, keeper.File{FD: in.FD, Source: max(given.Read, given.Write)})
		g := givenEnd{pipe: p.name, fd: in.FD}
		if given.Read >= 0 {
			g.reads = e.Framing(true).Name
			if other := p.ends[2-e.num]; !other.ep.Closing() {
				l.proc.inputs = append(l.proc.inputs, other)
			}
		}
		if given.Write >= 0 {
			g.writes = e.Framing(false).Name
		}
		l.given = append(l.given, g)
	}
	return nil
}

// start starts the process and lets go of what it alone should hold.
func (l *launch) start(ctx context.Context) error {
	env := announce(l.env, l.given)
	dir := l.spec.Dir
	if dir == "" {
		dir = homeDirectory(l.who)
	}
	path, err := find(ctx, l.spec.Args[0], lookup(env, "PATH"), dir)
	if err != nil {
		return err
	}
	l.null()
	l.proc.started = time.Now()
	// Whoever comes after this process learns from the record what was to be
	// started, and from the keeper whether it was.
	record := &l.proc.record
	*record = l.record()
	if err := l.begin(record); err != nil {
		return err
	}
	failpoint.Hit("session.before-start")
	child, err := l.s.account.Start(ctx, record.Key, keeper.Spec{Path: path, Args: l.spec.Args, Env: env, Dir: dir, Files: l.files, Attributes: l.attributes,
		Sweep: l.spec.AfterExit.Mode == AfterExitKill})
	if err != nil {
		l.abandon()
		if gone := l.s.openable(); gone != nil {
			return gone // its account was closed in the middle
		}
		return descriptorError(err)
	}
	failpoint.Hit("session.after-start")
	l.proc.child = child
	l.release()
	for i, e := range l.ends {
		l.proc.given = append(l.proc.given, e)
		e.inherited(l.proc)
		if l.spec.Inherits[i].HandOver {
			e.handOver(l.proc)
		}
	}
	for _, p := range l.made {
		l.proc.given = append(l.proc.given, p.ends[1])
		p.ends[1].inherited(l.proc)
		p.ends[1].handOver(l.proc)
	}
	record.Started = true
	l.s.note(l.proc.recordKey(), record)
	return nil
}

// begin records what is to be started, and first, before the first start of a
// process, what from.
func (l *launch) begin(record *processRecord) error {
	if l.again == nil {
		o := &origin{Spec: *l.spec, Request: l.spec.RequestID, Digest: l.digest[:], Pipes: l.anew}
		for _, p := range l.made {
			if p.kind == pipe.OneWay {
				o.Stderr = p.name
			} else {
				o.Stdio = p.name
			}
		}
		l.proc.origin = o
		if err := l.s.put(prefixOrigin+l.name, o); err != nil {
			return err
		}
	}
	err := l.s.put(l.proc.recordKey(), record)
	if err != nil {
		l.abandon()
	}
	return err
}

// abandon strikes what begin has recorded.
func (l *launch) abandon() {
	l.s.strike(l.proc.recordKey())
	if l.again == nil {
		l.s.strike(prefixOrigin + l.name)
	}
}

// record returns what has to be known of the process by whoever finds it.
func (l *launch) record() processRecord {
	r := processRecord{Order: l.proc.order, Key: l.proc.key, Args: l.spec.Args, Created: l.proc.started, Inherits: l.spec.Inherits,
		Request: l.spec.RequestID, Digest: l.digest[:], Stop: l.spec.Stop, AfterExit: l.spec.AfterExit,
		Restarts: l.proc.record.Restarts, Streak: l.proc.record.Streak}
	if l.again != nil {
		r.Incarnation, r.Request = l.proc.incarnation, l.request
	}
	if l.spec.Timeout > 0 {
		r.Deadline = l.proc.started.Add(l.spec.Timeout)
	}
	for _, e := range l.proc.inputs {
		r.Inputs = append(r.Inputs, e.record(false))
	}
	for i, e := range l.ends {
		r.Given = append(r.Given, e.record(l.spec.Inherits[i].HandOver))
	}
	for _, p := range l.made {
		r.Given = append(r.Given, p.ends[1].record(true))
	}
	return r
}

// record names the end.
func (e *Endpoint) record(handOver bool) endRecord {
	r := endRecord{Pipe: e.pipe.name, End: e.num, HandOver: handOver}
	if e.pipe.incarnation > 1 {
		r.Incarnation = e.pipe.incarnation
	}
	return r
}

// release closes the copies, which count as copies of their ends.
func (l *launch) release() {
	for _, c := range l.copies {
		c.Close()
	}
	l.copies = nil
}

// homeDirectory returns the home of whom the process runs as, nil for the daemon's
// own user.
func homeDirectory(who *user.User) string {
	if who != nil {
		return existing(who.HomeDir)
	}
	home, _ := os.UserHomeDir() // empty without one
	return existing(home)
}

// existing returns a directory, or / if it is not there.
func existing(dir string) string {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return dir
	}
	return "/"
}

// descriptorError says in this package's words that descriptors or memory have
// run out.
func descriptorError(err error) error {
	if errors.Is(err, syscall.ENOMEM) && !errors.Is(err, keeper.ErrMemory) {
		return fmt.Errorf("%w: %w", keeper.ErrMemory, err)
	}
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, keeper.ErrDescriptors) {
		return fmt.Errorf("%w: %w", ErrDescriptors, err)
	}
	return err
}
