package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Version is the version of this protocol. Front and keeper say theirs in the
// first message and each refuses one that is newer than its own.
const Version = 1

const (
	// Size is the size of a packet.
	Size = 512
	// MaxKeys bounds the keys of a message.
	MaxKeys = 48
	// MaxText bounds the text of a message, in bytes.
	MaxText = 200
	// MaxFDs bounds the descriptors of a message: those of a child with all
	// numbers taken, a cgroup and a blob.
	MaxFDs = 1026
	// packetFDs is what a packet takes (SCM_MAX_FD).
	packetFDs = 253
)

const (
	magic     = "pkw"
	flagReply = 1

	offsetFlags = 3
	offsetVerb  = 4
	offsetCode  = 6
	offsetID    = 8
	offsetUID   = 16
	offsetKey   = 32
	offsetFDs   = 36
	offsetArgs  = 40
	offsetKeys  = 104
	offsetText  = offsetKeys + 4 + 4*MaxKeys
	end         = offsetText + MaxText
)

// A Verb is what a message asks for or tells.
type Verb uint16

// The verbs. The front asks the keeper, which answers each with one message of
// the same verb and id; [Wait], [Exit] and [Carry] are told and not answered.
const (
	// Carry brings descriptors of the message that follows. [Conn] hides it.
	Carry Verb = iota + 1
	// Hello is the first. Args: protocol version, flags ([Resume]), epoch of
	// the front (with Resume). Text: version of the program. Blob: [Front].
	// Answer, once this is the only front: epoch, the keeper's pid, when it
	// started and when the front before died (in nanoseconds since 1970, or 0),
	// mode ([Inherit] or [Upload]), protocol version, [Cgroups] and what goes with it,
	// or why there are none; text: version of the keeper;
	// descriptor: the keeper's own pidfd. Or [Superseded], [Newer], [Ending].
	// Told by the keeper (no reply, id 0): it was upgraded; args 1, 2, 6 and 7 and
	// the text as in the answer.
	Hello
	// Wait tells a front that has said [Hello] that one before it, with the pid
	// of the first argument, is not yet gone.
	Wait
	// Next asks for the next part of the estate. Answer: the first argument
	// says which ([PartAccount] and so on). Several may be asked for at once;
	// after the end the answer is the end again.
	Next
	// Enter opens an account, or gives it a name if it is there. UID, text: name.
	Enter
	// Put keeps copies. UID, keys, one descriptor for each. All or nothing.
	Put
	// Remove lets copies go. UID, keys.
	Remove
	// Start starts a process. UID, key, the sources, blob: [Spec]. First argument: flags
	// ([Sweep]), which a keeper from before them does not look at. Answer:
	// [Process], and its pidfd while it runs; or [Failed] with a blob: [Failure].
	Start
	// Signal sends the signal of the first argument. UID, key. Second argument: flags ([ToGroup], [Sweep]), which a keeper from before
	// them does not look at. [Exited], [Unknown].
	Signal
	// Forget drops the record of an exited process. UID, key.
	Forget
	// Drop closes an account; its processes are killed and reaped. UID. The
	// exits are told before the answer.
	Drop
	// Holders asks who holds ends. Blob: [EncodeEnds]; answer: blob: [EncodeHolders].
	Holders
	// Leave says that the front ends and another one is to follow.
	Leave
	// Finish says that front and keeper end. It is answered when the socket and
	// the registry are gone and nothing runs any more. Told by the keeper (no
	// reply, id 0): it ends because somebody else has told it to.
	Finish
	// Claim is part of an upload: a [Process]. UID, key; descriptor: the pidfd,
	// if it has not exited. With pid 0 it is one whose start is under way: what
	// is on record under this key is kept for the [Start] that follows, or
	// [Unknown] says that there is nothing.
	Claim
	// Adopted ends an upload: what is on record and was not brought goes. After
	// the answer come the exits that the front does not know.
	Adopted
	// Exit tells that a process has exited. UID, key, [Process].
	Exit
	// Spawn asks the spawner for a process: sources, blob. With [Placed] as the first
	// argument the cgroup in which it is born comes before the sources. Answer: its
	// pid (first argument) and pidfd, or as for [Start].
	Spawn
	// Settled tells the spawner that the process it made is on record.
	Settled
	// Part says that the front has begun to end: if it dies before it has said
	// [Leave] or [Finish], that is what it would have said. First argument: 1 for
	// Finish, else Leave.
	Part
	// Confine gives a session limits, which replace those before: each argument is the
	// limit of the resource of the next number (cgroup.Resource), 0 for none. UID. It
	// is asked of a keeper only whose [Hello] says [Cgroups].
	Confine
	// Measure asks what a session uses. UID. Answer: [Measured], or [Unknown] if it
	// has no cgroup. It is asked of a keeper only whose Hello says Cgroups.
	Measure
	lastVerb
)

var verbNames = [...]string{"", "carry", "hello", "wait", "next", "enter", "put", "remove", "start", "signal", "forget", "drop", "holders",
	"leave", "finish", "claim", "adopted", "exit", "spawn", "settled", "part", "confine", "measure"}

// String returns the verb's name.
func (v Verb) String() string {
	if v == 0 || v >= lastVerb {
		return fmt.Sprintf("verb %d", uint16(v))
	}
	return verbNames[v]
}

// A Code is the result of a request.
type Code uint16

// The codes.
const (
	// OK is success.
	OK Code = iota
	// Refused: the verb is not permitted in this state, or makes no sense.
	Refused
	// Unknown: there is no such account or process.
	Unknown
	// Exited: the process has exited.
	Exited
	// Scarce: no descriptor is free, or no room; the text says more.
	Scarce
	// Stranger: a descriptor is not the one on record.
	Stranger
	// Superseded: another front has taken over.
	Superseded
	// Newer: the other side speaks a newer protocol.
	Newer
	// Failed: the blob says why.
	Failed
	// Ending: the keeper ends.
	Ending
)

var codeNames = [...]string{"ok", "refused", "unknown", "exited", "scarce", "stranger", "superseded", "newer", "failed", "ending"}

// String returns the code's name.
func (c Code) String() string {
	if int(c) >= len(codeNames) {
		return fmt.Sprintf("code %d", uint16(c))
	}
	return codeNames[c]
}

// Resume is the flag of a [Hello] of a front that has lost its keeper.
const Resume = 1

// Placed in a [Spawn]: the first descriptor is a cgroup.
const Placed = 1

// Cgroups says in [Hello] that sessions have cgroups: the seventh argument are flags,
// of which the others are those of [CgroupControllers]. An earlier keeper says 0.
const Cgroups = 1

// CgroupControllers are the flags of the controllers that there may be.
var CgroupControllers = map[string]uint64{"memory": 1 << 1, "cpu": 1 << 2, "pids": 1 << 3, "io": 1 << 4}

// Why sessions have no cgroups: the eighth argument of [Hello]. A keeper that says
// nothing is from before cgroups.
const (
	CgroupsOff = iota + 1
	CgroupsNone
	CgroupsNotDelegated
	CgroupsDenied
	CgroupsOld
)

// Flags of a [Signal].
const (
	// ToGroup: the signal is for the whole cgroup of the process, or the process group
	// that it leads where it has none.
	ToGroup = 1
	// Sweep: when the process exits, what is left of them is killed.
	Sweep = 2
)

// Modes of the answer to [Hello].
const (
	// Inherit: ask for the estate with [Next].
	Inherit = 1
	// Upload: bring what you have with [Enter], [Put] and [Claim], then say [Adopted].
	Upload = 2
)

// Parts of an estate: the first argument of an answer to [Next].
const (
	// PartAccount begins an account: UID, text: name.
	PartAccount = 1
	// PartFiles are descriptors: UID, keys, one descriptor for each.
	PartFiles = 2
	// PartProcess is a [Process]: UID, key; descriptor: its pidfd, if it has not exited.
	PartProcess = 3
	// PartLoss is a lost session: UID, text: name, second argument: 1 after a reboot.
	PartLoss = 4
	// PartEnd is the end; the front serves from here on.
	PartEnd = 5
)

// A Message is one message. Its descriptors are beside it; see [Conn].
type Message struct {
	Verb  Verb
	Reply bool
	Code  Code
	// ID is chosen by whoever asks and repeated in the answer.
	ID   uint64
	UID  [16]byte
	Key  uint32
	Args [8]uint64
	Keys []uint32
	Text string
}

// errMalformed is what is wrong with a packet that no honest program sends.
var errMalformed = errors.New("malformed packet")

// encode writes the packet of m with fds descriptors in all. Text that is too
// long is cut; too many keys are the caller's mistake.
func (m *Message) encode(p *[Size]byte, fds int) {
	clear(p[:])
	copy(p[:], magic)
	if m.Reply {
		p[offsetFlags] = flagReply
	}
	le := binary.LittleEndian
	le.PutUint16(p[offsetVerb:], uint16(m.Verb))
	le.PutUint16(p[offsetCode:], uint16(m.Code))
	le.PutUint64(p[offsetID:], m.ID)
	copy(p[offsetUID:], m.UID[:])
	le.PutUint32(p[offsetKey:], m.Key)
	le.PutUint32(p[offsetFDs:], uint32(fds)) //nolint:gosec // at most MaxFDs
	for i, a := range m.Args {
		le.PutUint64(p[offsetArgs+8*i:], a)
	}
	le.PutUint16(p[offsetKeys:], uint16(len(m.Keys))) //nolint:gosec // at most MaxKeys
	for i, k := range m.Keys {
		le.PutUint32(p[offsetKeys+4+4*i:], k)
	}
	n := copy(p[offsetText:end], m.Text)
	le.PutUint16(p[offsetKeys+2:], uint16(n)) //nolint:gosec // at most MaxText
}

// decode reads a packet. It takes nothing that encode would not write.
func (m *Message) decode(p []byte) (fds int, err error) {
	if len(p) != Size || string(p[:len(magic)]) != magic || p[offsetFlags]&^flagReply != 0 {
		return 0, errMalformed
	}
	le := binary.LittleEndian
	*m = Message{
		Verb:  Verb(le.Uint16(p[offsetVerb:])),
		Reply: p[offsetFlags] == flagReply,
		Code:  Code(le.Uint16(p[offsetCode:])),
		ID:    le.Uint64(p[offsetID:]),
		UID:   [16]byte(p[offsetUID:]),
		Key:   le.Uint32(p[offsetKey:]),
	}
	count, keys, text := le.Uint32(p[offsetFDs:]), int(le.Uint16(p[offsetKeys:])), int(le.Uint16(p[offsetKeys+2:]))
	if m.Verb == 0 || m.Verb >= lastVerb || count > MaxFDs || keys > MaxKeys || text > MaxText {
		return 0, errMalformed
	}
	for i := range m.Args {
		m.Args[i] = le.Uint64(p[offsetArgs+8*i:])
	}
	if keys > 0 {
		m.Keys = make([]uint32, keys)
	}
	for i := range m.Keys {
		m.Keys[i] = le.Uint32(p[offsetKeys+4+4*i:])
	}
	m.Text = string(p[offsetText : offsetText+text])
	if !zeros(p[offsetKeys+4+4*keys:offsetText]) || !zeros(p[offsetText+text:]) {
		return 0, errMalformed
	}
	return int(count), nil
}

func zeros(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
