package session

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/piped-dev/piped/failpoint"
	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
)

// A Session is a set of pipes and the processes that hold their ends.
type Session struct {
	reg     *Registry
	name    string
	uid     string
	labels  map[string]string
	created time.Time
	request string // id of the request that created it
	digest  []byte // of that request
	// resources are its limits.
	resources keeper.SessionLimits
	// account is what the keeper holds for it.
	account *keeper.Account
	// control keeps what has to outlive the daemon of the pipes, and the records;
	// nil where logs are in memory.
	control *pipe.Control

	pipeRequests    requests[PipeSpec, *Pipe]
	processRequests requests[ProcessSpec, *Process]
	restartRequests requests[restartRequest, *Process]
	// starting serialises changes of pipes and processes, which take a while.
	starting sync.Mutex

	mu    sync.Mutex
	ready bool // built: it has all that it was created with
	pipes []*Pipe
	procs []*Process
	// former are the incarnations before those in procs that are kept, oldest first.
	former []*former
	ended  time.Time // zero while it is active
	gone   bool      // deleted: nothing can be added any more
	// shedLogs: its logs outlive the daemon no more.
	shedLogs bool
	// serial counts the pipes and processes that were ever made.
	serial int
	// creator is the lease of whoever created it; nil where there is none.
	creator *creator

	// toldEnded: the latest event about its state is that it has ended.
	toldEnded atomic.Bool
	// telling keeps events in line; toldDeleted: there are no more.
	telling     sync.Mutex
	toldDeleted bool
}

// Name returns the session's name.
func (s *Session) Name() string { return s.name }

// UID returns the session's globally unique id.
func (s *Session) UID() string { return s.uid }

// Endpoint returns an end of a pipe; the defaults are the first pipe ("") and
// end 1 (0).
func (s *Session) Endpoint(pipeName string, end int) (*Endpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pipeName == "" {
		if len(s.pipes) == 0 {
			return nil, fmt.Errorf("%w: session %s has none", ErrPipeNotFound, s.name)
		}
		return s.pipes[0].end(end)
	}
	i := slices.IndexFunc(s.pipes, func(p *Pipe) bool { return p.name == pipeName })
	if i < 0 {
		return nil, fmt.Errorf("%w: %q in session %s", ErrPipeNotFound, pipeName, s.name)
	}
	return s.pipes[i].end(end)
}

// Process returns a process; "" is the first.
func (s *Session) Process(name string) (*Process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == "" && len(s.procs) > 0 {
		return s.procs[0], nil
	}
	i := slices.IndexFunc(s.procs, func(p *Process) bool { return p.name == name })
	if i < 0 {
		if name == "" {
			return nil, fmt.Errorf("%w: session %s has none", ErrProcessNotFound, s.name)
		}
		return nil, fmt.Errorf("%w: %q in session %s", ErrProcessNotFound, name, s.name)
	}
	return s.procs[i], nil
}

func (s *Session) built() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

func (s *Session) hasPipe(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.pipes, func(p *Pipe) bool { return p.name == name })
}

func (s *Session) hasProcess(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.procs, func(p *Process) bool { return p.name == name })
}

// CreatePipe adds a pipe of which the daemon holds both ends.
func (s *Session) CreatePipe(ctx context.Context, requestID string, spec PipeSpec) (*Pipe, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	asked := spec
	return s.pipeRequests.once(ctx, requestID, spec, func() (*Pipe, error) {
		leave, err := s.reg.enter()
		if err != nil {
			return nil, err
		}
		defer leave()
		s.starting.Lock()
		defer s.starting.Unlock()
		if spec.Name == "" {
			spec.Name = freeName("pipe", s.hasPipe)
		}
		p, err := s.makePipe(&spec, making{order: s.next(), request: requestID, digest: digestOf(asked)}, s.hasPipe)
		if err != nil {
			return nil, err
		}
		return p, s.add([]*Pipe{p}, nil)
	})
}

func (s *Session) makePipe(spec *PipeSpec, m making, taken func(string) bool) (*Pipe, error) {
	if taken(spec.Name) {
		return nil, fmt.Errorf("%w: %q in session %s", ErrPipeExists, spec.Name, s.name)
	}
	kind := spec.Kind
	if kind == 0 {
		kind = pipe.Duplex
	}
	return s.openPipe(spec.Name, spec, kind, m)
}

// next numbers what is made in the session, from well above what it is created with.
func (s *Session) next() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	return createdWith + s.serial
}

// createdWith is more than a session can be created with of pipes or processes.
const createdWith = 1 << 20

// add makes pipes and a process part of the session; if the session was deleted
// meanwhile they are ended and the error is ErrSessionNotFound.
func (s *Session) add(pipes []*Pipe, proc *Process) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return s.refuseLocked(pipes, proc)
	}
	first := !s.ready
	s.ready = true
	if first {
		if err := s.put(keySession, s.recordLocked()); err != nil {
			s.ready = false
			return err
		}
		failpoint.Hit("session.after-ready")
		s.beginLeaseLocked()
	}
	s.pipes = append(s.pipes, pipes...)
	if proc != nil {
		s.procs = append(s.procs, proc)
	}
	s.ended = time.Time{}
	s.tellAdded(first, pipes, proc)
	if proc != nil {
		s.reg.log.Info("process started", "session", s.name, "process", proc.name, "pid", proc.child.Pid())
		s.reg.watch(s, proc)
		if s.refuseUnleasedLocked() != nil { // it ended during the start
			s.stopForLease([]*Process{proc})
		}
	}
	return nil
}

// refuseLocked ends what was made for a session that was deleted meanwhile.
func (s *Session) refuseLocked(pipes []*Pipe, proc *Process) error {
	for _, p := range pipes {
		p.close()
		p.wait()
	}
	if proc != nil {
		_ = proc.child.Signal(killSignal) // the keeper reaps it
	}
	return fmt.Errorf("%w: %s was deleted", ErrSessionNotFound, s.name)
}

// StartProcess starts one more process.
func (s *Session) StartProcess(ctx context.Context, spec ProcessSpec) (*Process, error) {
	if err := spec.check(s.reg.config()); err != nil {
		return nil, err
	}
	if err := spec.checkRestart(func(string) bool { return false }); err != nil {
		return nil, err
	}
	return s.processRequests.once(ctx, spec.RequestID, spec, func() (*Process, error) {
		leave, err := s.reg.enter()
		if err != nil {
			return nil, err
		}
		defer leave()
		s.starting.Lock()
		defer s.starting.Unlock()
		if err := s.refuseUnleased(); err != nil {
			return nil, err
		}
		l := s.launch(&spec, nil)
		l.order, l.proc.order = s.next, s.next()
		l.proc.key, l.digest = uint32(l.proc.order), digestOf(spec) //nolint:gosec // a small number
		if err := l.run(ctx); err != nil {
			return nil, err
		}
		return l.proc, s.add(l.made, l.proc)
	})
}

// launch prepares a start; fresh are pipes made in the same request.
func (s *Session) launch(spec *ProcessSpec, fresh []*Pipe) *launch {
	l := &launch{s: s, spec: spec, name: spec.Name, pipes: make(map[string]*Pipe)}
	if l.name == "" {
		l.name = freeName(baseName(spec.Args[0]), s.hasProcess)
	}
	s.mu.Lock()
	for _, p := range slices.Concat(s.pipes, fresh) {
		l.pipes[p.name] = p
	}
	s.mu.Unlock()
	l.proc = &Process{session: s, name: l.name, incarnation: 1, args: spec.Args, inherits: spec.Inherits}
	return l
}

// run starts the process, or leaves nothing behind.
func (l *launch) run(ctx context.Context) error {
	if l.again == nil && l.s.hasProcess(l.name) {
		return fmt.Errorf("%w: %q in session %s", ErrProcessExists, l.name, l.s.name)
	}
	var err error
	if l.attributes, l.who, err = l.spec.attributes(); err != nil {
		return err
	}
	if l.env, err = l.spec.environment(&l.s.reg.config().Environment, l.who); err != nil {
		return err
	}
	l.useTerminal()
	err = l.stdio()
	if err == nil {
		err = l.remake()
	}
	if err == nil {
		err = l.inherit(ctx)
	}
	if err == nil {
		err = l.start(ctx)
	}
	for _, e := range l.ends {
		e.settle()
	}
	l.release()
	if err != nil {
		for _, p := range l.fresh() {
			l.s.unmake(p)
		}
	}
	return err
}

// build makes the pipes and the first process of a new session, or nothing.
func (s *Session) build(ctx context.Context, spec *Spec) (err error) {
	var pipes []*Pipe
	var anew []PipeSpec // made for the process, and so for each of its incarnations
	defer func() {
		if err != nil {
			for _, p := range pipes {
				p.close()
			}
			s.leave()
		}
	}()
	if err := s.open(); err != nil {
		return err
	}
	if err := s.confine(); err != nil {
		return err
	}
	taken := func(name string) bool {
		return slices.ContainsFunc(pipes, func(p *Pipe) bool { return p.name == name })
	}
	named := func(name string) bool {
		return taken(name) || slices.ContainsFunc(spec.Pipes, func(p PipeSpec) bool { return p.Name == name })
	}
	for i, ps := range spec.Pipes {
		if ps.Name == "" {
			ps.Name = freeName("pipe", named)
		}
		sealed := spec.sealed(ps.Name)
		p, err := s.makePipe(&ps, making{sealed: sealed, order: len(stdioFirst) + i}, taken)
		if err != nil {
			return err
		}
		pipes = append(pipes, p)
		if sealed {
			anew = append(anew, ps)
		}
	}
	if spec.Process == nil {
		return s.add(pipes, nil)
	}
	l := s.launch(spec.Process, pipes)
	stdio := 0
	l.anew = anew
	l.order = func() int { stdio++; return stdio - 1 }
	if err := l.run(ctx); err != nil {
		return err
	}
	return s.add(append(l.made, pipes...), l.proc)
}

// stdioFirst are the pipes that stand before those that a session is created with.
var stdioFirst = [...]string{"stdio", "stderr"}

// open takes what the session itself needs: an account and, unless logs are in
// memory, a control file.
func (s *Session) open() error {
	uid, err := uuid.Parse(s.uid)
	if err != nil {
		return err
	}
	account, err := s.reg.link.Enter(keeper.UID(uid), s.name)
	if err != nil {
		return err
	}
	var control *pipe.Control
	if !s.reg.config().KernelLogs {
		// What the keeper holds of the session then says that it was there.
		err = account.Put(keeper.Item{Key: memoryKey, FD: int(s.reg.null.Fd())})
	} else {
		control, err = pipe.NewControl(vault{account})
	}
	if err != nil {
		account.Leave()
		return descriptorError(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account, s.control = account, control
	if s.gone { // whoever ended it found nothing to give back; build does
		return fmt.Errorf("%w: %s was deleted", ErrSessionNotFound, s.name)
	}
	return s.put(keySession, s.recordLocked())
}

// memoryKey names what stands for a session whose logs are in memory.
const memoryKey = 1 << 31

// leave gives back what open has taken; nothing of the session runs any more.
func (s *Session) leave() {
	s.mu.Lock()
	s.pauseLeaseLocked()
	account, control := s.account, s.control
	s.mu.Unlock()
	if control != nil {
		control.Close()
	}
	if account != nil {
		account.Leave()
	}
}

// sealed reports whether end 1 of a pipe can be the daemon's for ever: its end
// 2 is handed over at birth, and nobody gets end 1.
func (s *Spec) sealed(name string) bool {
	if s.Process == nil {
		return false
	}
	handedOver := false
	for _, in := range s.Process.Inherits {
		if in.Pipe == name {
			if in.End == 1 || !in.HandOver {
				return false
			}
			handedOver = true
		}
	}
	return handedOver
}
