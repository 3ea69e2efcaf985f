package wire

// A Process is what a message says about one: in [Start], [Claim], [Exit] and
// [PartProcess] its arguments from the second on, and its keys.
type Process struct {
	Pid int
	// Start is when it was started, in ticks since the machine was; with the
	// pid it names a process for good.
	Start uint64
	// Exited says that the rest is there.
	Exited, Unknown, CoreDumped bool
	// OutOfMemory: it was killed because its session had no memory left.
	OutOfMemory bool
	// Confined says that it was born in a cgroup of its own, also before the exit.
	Confined bool
	// Sweep says that what is left of its tree is killed when it exits.
	Sweep        bool
	Code, Signal int
	// Time is when the exit was seen, in nanoseconds since 1970.
	Time int64
	// Used is nil where nobody can tell: only the parent learns it, as it reaps.
	Used *Usage
}

const (
	processExited = 1 << iota
	processUnknown
	processCore
	processOutOfMemory
	processConfined
	processSweep
)

// Flags returns the flags as one number, of which a program from before some of them
// does not look at those.
func (p *Process) Flags() uint64 {
	var flags uint64
	for i, set := range [...]bool{p.Exited, p.Unknown, p.CoreDumped, p.OutOfMemory, p.Confined, p.Sweep} {
		if set {
			flags |= 1 << i
		}
	}
	return flags
}

// SetFlags is the inverse of Flags.
func (p *Process) SetFlags(flags uint64) {
	p.Exited, p.Unknown, p.CoreDumped = flags&processExited != 0, flags&processUnknown != 0, flags&processCore != 0
	p.OutOfMemory, p.Confined = flags&processOutOfMemory != 0, flags&processConfined != 0
	p.Sweep = flags&processSweep != 0
}

// SetProcess puts p into the arguments and the keys.
//
//nolint:gosec // the same bits
func (m *Message) SetProcess(p *Process) {
	m.Args[1], m.Args[2], m.Args[3] = uint64(p.Pid), p.Start, p.Flags()
	m.Args[4], m.Args[5], m.Args[6] = uint64(p.Code), uint64(p.Signal), uint64(p.Time)
	m.Keys = p.Used.words()
}

// Process returns what the arguments and the keys say.
//
//nolint:gosec // the same bits
func (m *Message) Process() Process {
	p := Process{Pid: int(m.Args[1]), Start: m.Args[2], Code: int(m.Args[4]), Signal: int(m.Args[5]), Time: int64(m.Args[6])}
	p.SetFlags(m.Args[3])
	p.Used = usageOf(m.Keys)
	return p
}
