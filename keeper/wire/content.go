package wire

// A Spec is a program to start, in a blob.
type Spec struct {
	Path string
	Args []string
	Env  []string
	Dir  string
	// Files are the numbers in the child, each with the index of its source
	// among the descriptors of the message; -1 is /dev/null.
	Files []File
	// Attributes are left out where there are none, so that an older keeper
	// understands what it can do.
	Attributes []Attribute
}

// A File is a descriptor of a child.
type File struct{ FD, Source int }

// An Attribute is something that a process is given.
type Attribute struct {
	Kind    AttributeKind
	A, B, C uint64
}

// AttributeKind says what an attribute is.
type AttributeKind uint8

// The kinds of attributes. Their numbers must not change.
const (
	AttributeUser            AttributeKind = iota + 1 // A is the uid, B the gid
	AttributeGroup                                    // A is the gid of a supplementary group
	AttributeLimit                                    // A is RLIMIT_*, B the soft limit, C the hard one
	AttributeNice                                     // A is the nice value
	AttributeUmask                                    // A is the mask
	AttributeNoNewPrivileges                          // PR_SET_NO_NEW_PRIVS

	AttributeTerminal AttributeKind = 10 // A is the child's descriptor, B 1 where it controls the child
)

// Encode returns the spec as a blob's content.
func (s *Spec) Encode() []byte {
	var p Packer
	p.Text(s.Path)
	p.Texts(s.Args)
	p.Texts(s.Env)
	p.Text(s.Dir)
	p.Number(int64(len(s.Files)))
	for _, f := range s.Files {
		p.Number(int64(f.FD))
		p.Number(int64(f.Source))
	}
	if len(s.Attributes) == 0 {
		return p
	}
	p.Number(int64(len(s.Attributes)))
	for _, a := range s.Attributes {
		p.Number(int64(a.Kind))
		for _, n := range []uint64{a.A, a.B, a.C} {
			p.Number(int64(n)) //nolint:gosec // the same bits
		}
	}
	return p
}

// DecodeSpec reads what [Spec.Encode] wrote.
func DecodeSpec(data []byte) (*Spec, error) {
	u := Unpacker{rest: data}
	s := &Spec{Path: u.Text(), Args: u.Texts(), Env: u.Texts(), Dir: u.Text()}
	for range u.Count(16) {
		s.Files = append(s.Files, File{FD: int(u.Number()), Source: int(u.Number())})
	}
	if u.More() {
		for range u.Count(32) {
			//nolint:gosec // the same bits
			s.Attributes = append(s.Attributes, Attribute{AttributeKind(u.Number()), uint64(u.Number()), uint64(u.Number()), uint64(u.Number())})
		}
	}
	if err := u.End(); err != nil {
		return nil, err
	}
	return s, nil
}

// A Front is how a front is started again, in a blob.
type Front struct {
	// Args is empty if it is not to be.
	Args []string
	Env  []string
	Dir  string
}

// Encode returns the front as a blob's content.
func (f *Front) Encode() []byte {
	var p Packer
	p.Texts(f.Args)
	p.Texts(f.Env)
	p.Text(f.Dir)
	return p
}

// DecodeFront reads what [Front.Encode] wrote.
func DecodeFront(data []byte) (*Front, error) {
	u := Unpacker{rest: data}
	f := &Front{Args: u.Texts(), Env: u.Texts(), Dir: u.Text()}
	if err := u.End(); err != nil {
		return nil, err
	}
	return f, nil
}

// A Failure is why a program could not be started, in a blob.
type Failure struct {
	// Step and Path are those of the error.
	Step, Path string
	// Kind is the number of the error's kind, Errno the system's own; 0 if there
	// is none.
	Kind, Errno int
	// Text says what happened.
	Text string
}

// Encode returns the failure as a blob's content.
func (f *Failure) Encode() []byte {
	var p Packer
	p.Text(f.Step)
	p.Text(f.Path)
	p.Number(int64(f.Kind))
	p.Number(int64(f.Errno))
	p.Text(f.Text)
	return p
}

// DecodeFailure reads what [Failure.Encode] wrote.
func DecodeFailure(data []byte) (*Failure, error) {
	u := Unpacker{rest: data}
	f := &Failure{Step: u.Text(), Path: u.Text(), Kind: int(u.Number()), Errno: int(u.Number()), Text: u.Text()}
	if err := u.End(); err != nil {
		return nil, err
	}
	return f, nil
}

// A PipeEnd is an end of a pipe or a socket, in a blob.
type PipeEnd struct {
	Device, Inode uint64
	Kind          uint8
}

// EncodeEnds returns ends as a blob's content.
func EncodeEnds(ends []PipeEnd) []byte {
	var p Packer
	p.Number(int64(len(ends)))
	for _, e := range ends {
		p.Number(int64(e.Device)) //nolint:gosec // the same bits
		p.Number(int64(e.Inode))  //nolint:gosec // the same bits
		p.Number(int64(e.Kind))
	}
	return p
}

// DecodeEnds reads what [EncodeEnds] wrote.
func DecodeEnds(data []byte) ([]PipeEnd, error) {
	u := Unpacker{rest: data}
	ends := make([]PipeEnd, u.Count(24))
	for i := range ends {
		//nolint:gosec // the same bits
		ends[i] = PipeEnd{Device: uint64(u.Number()), Inode: uint64(u.Number()), Kind: uint8(u.Number())}
	}
	return ends, u.End()
}

// A Holder is a process that has an end open, in a blob.
type Holder struct {
	Pid     int
	Command string
	FDs     []int
}

// EncodeHolders returns the holders of each end as a blob's content.
func EncodeHolders(all [][]Holder) []byte {
	var p Packer
	p.Number(int64(len(all)))
	for _, list := range all {
		p.Number(int64(len(list)))
		for _, h := range list {
			p.Number(int64(h.Pid))
			p.Text(h.Command)
			p.Number(int64(len(h.FDs)))
			for _, fd := range h.FDs {
				p.Number(int64(fd))
			}
		}
	}
	return p
}

// DecodeHolders reads what [EncodeHolders] wrote.
func DecodeHolders(data []byte) ([][]Holder, error) {
	u := Unpacker{rest: data}
	all := make([][]Holder, u.Count(8))
	for i := range all {
		for range u.Count(24) {
			h := Holder{Pid: int(u.Number()), Command: u.Text()}
			for range u.Count(8) {
				h.FDs = append(h.FDs, int(u.Number()))
			}
			all[i] = append(all[i], h)
		}
	}
	return all, u.End()
}
