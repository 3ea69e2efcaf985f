package custody

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper/wire"
)

// A peerState is how far a connection has come.
type peerState uint8

const (
	peerNew     peerState = iota // has said nothing
	peerWaiting                  // for a front before it to be gone
	peerInherit                  // is given the estate
	peerUpload                   // brings what it has
	peerServe                    // is the front
	peerLeft                     // has left in order
	peerStates
)

// permits says which verbs each state permits.
var permits = [peerStates]uint64{
	peerNew:     mask(wire.Hello),
	peerWaiting: 0,
	peerInherit: mask(wire.Next),
	peerUpload:  mask(wire.Enter, wire.Put, wire.Claim, wire.Adopted, wire.Confine),
	peerServe: mask(wire.Next, wire.Enter, wire.Put, wire.Remove, wire.Start, wire.Signal, wire.Forget, wire.Drop, wire.Holders,
		wire.Leave, wire.Finish, wire.Part, wire.Confine, wire.Measure),
	peerLeft: 0,
}

func mask(verbs ...wire.Verb) (m uint64) {
	for _, v := range verbs {
		m |= 1 << v
	}
	return m
}

// queueLimit is how many answers may wait for a front to read them, before it
// is listened to again.
const queueLimit = 256

// An outgoing message and its descriptors, which are closed when it was sent.
type outgoing struct {
	m   wire.Message
	fds []int
}

// A peer is a connection.
type peer struct {
	c     *custody
	conn  *wire.Conn
	pid   int
	start uint64
	pidfd int

	// The custody's lock guards these.
	state  peerState
	hello  wire.Message // while it waits
	front  wire.Front
	estate []estatePart

	mu     sync.Mutex // guards what follows
	queue  []outgoing
	closed bool
	busy   bool          // something from the queue is being sent
	more   chan struct{} // one token: there is something in the queue, or closed
	less   chan struct{} // one token: something has left the queue
}

// newPeer takes over an accepted socket. Only the user of this process, root,
// and who else was named may talk to it.
func (c *custody) newPeer(fd int) (*peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err == nil && !c.o.admits(int(cred.Uid)) {
		err = fmt.Errorf("user %d may not talk to this keeper", cred.Uid)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	pidfd, err := peerPidfd(fd, int(cred.Pid))
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	start, err := startTime(int(cred.Pid))
	if err == nil && gone(pidfd) {
		err = errGone
	}
	if err != nil {
		_ = unix.Close(fd)
		_ = unix.Close(pidfd)
		return nil, err
	}
	conn, err := wire.NewConn(fd)
	if err != nil {
		_ = unix.Close(pidfd)
		return nil, err
	}
	return &peer{c: c, conn: conn, pid: int(cred.Pid), start: start, pidfd: pidfd,
		more: make(chan struct{}, 1), less: make(chan struct{}, 1)}, nil
}

// peerPidfd returns a pidfd of the process that has connected.
func peerPidfd(fd, pid int) (int, error) {
	const soPeerPidfd = 77 // SO_PEERPIDFD, since Linux 6.5
	if pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, soPeerPidfd); err == nil {
		return pidfd, nil
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	return pidfd, os.NewSyscallError("pidfd_open", err)
}

// send queues a message. It takes over the descriptors.
func (p *peer) send(m wire.Message, fds ...int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		wire.CloseAll(fds)
		return
	}
	p.queue = append(p.queue, outgoing{m, fds})
	token(p.more)
}

// answer queues the answer to a request.
func (p *peer) answer(request *wire.Message, code wire.Code, text string) {
	p.send(wire.Message{Verb: request.Verb, Reply: true, ID: request.ID, Code: code, UID: request.UID, Key: request.Key, Text: text})
}

// token puts a token into a channel that has room for one.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// write sends what is queued until the peer is closed and the queue is empty.
func (p *peer) write() {
	for {
		p.mu.Lock()
		if len(p.queue) == 0 {
			closed := p.closed
			p.mu.Unlock()
			if closed {
				_ = p.conn.Close()
				return
			}
			<-p.more
			continue
		}
		batch := p.queue
		p.queue, p.busy = nil, true
		p.mu.Unlock()
		token(p.less)
		for _, out := range batch {
			err := p.conn.Send(&out.m, out.fds...)
			wire.CloseAll(out.fds)
			if err != nil {
				p.close() // the rest fails as fast
			}
		}
		p.mu.Lock()
		p.busy = false
		p.mu.Unlock()
	}
}

// close ends the connection once what is queued was sent.
func (p *peer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	token(p.more)
}

// room waits until few answers wait.
func (p *peer) room() {
	for {
		p.mu.Lock()
		enough := len(p.queue) < queueLimit || p.closed
		p.mu.Unlock()
		if enough {
			return
		}
		<-p.less
	}
}

// read handles requests until the connection ends. While the keeper is being
// upgraded it stands still between two of them.
func (p *peer) read() {
	defer p.c.lost(p)
	for {
		p.room()
		var m wire.Message
		fds, err := p.conn.Recv(&m)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			p.c.stand(p)
			continue
		case errors.Is(err, wire.ErrDescriptors):
			p.answer(&m, wire.Scarce, err.Error())
			continue
		case err != nil:
			return
		}
		p.c.handle(p, &m, fds)
	}
}

// idle tells whether all that was queued was sent.
func (p *peer) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue) == 0 && !p.busy
}
