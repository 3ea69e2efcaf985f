package wire

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Conn carries messages. One goroutine may receive while any number send.
type Conn struct {
	file *os.File
	raw  syscall.RawConn

	sending sync.Mutex
	out     [Size]byte

	in   [Size]byte
	oob  []byte
	part []int // descriptors of a message of which the rest is missing
	lost bool  // some of them
}

// ErrDescriptors says that descriptors of a message were lost because this
// process can open no more. The message is there without them.
var ErrDescriptors = errors.New("out of descriptors: those of a message were lost")

// NewConn takes over a socket.
func NewConn(fd int) (*Conn, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(fd), "keeper socket")
	raw, err := file.SyscallConn()
	if err == nil {
		// A file that the poller did not take has no deadlines.
		err = file.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &Conn{file: file, raw: raw, oob: make([]byte, unix.CmsgSpace(4*packetFDs))}, nil
}

// Control calls f with the socket's number.
func (c *Conn) Control(f func(fd int)) error {
	return c.raw.Control(func(fd uintptr) { f(int(fd)) })
}

// Close closes the socket and wakes up whoever sends and receives.
func (c *Conn) Close() error { return c.file.Close() }

// SetReadDeadline bounds Recv.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.file.SetReadDeadline(t) }

// SetWriteDeadline bounds Send.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.file.SetWriteDeadline(t) }

// Send sends a message and copies of descriptors, which stay the caller's. It
// waits for room. After an error the connection is of no use any more.
func (c *Conn) Send(m *Message, fds ...int) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	all := len(fds)
	for len(fds) > packetFDs {
		carry := Message{Verb: Carry, ID: m.ID}
		carry.encode(&c.out, packetFDs)
		if err := c.write(fds[:packetFDs]); err != nil {
			return err
		}
		fds = fds[packetFDs:]
	}
	m.encode(&c.out, all)
	return c.write(fds)
}

func (c *Conn) write(fds []int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	var sendErr error
	err := c.raw.Write(func(fd uintptr) bool {
		for {
			_, sendErr = unix.SendmsgN(int(fd), c.out[:], rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			if !errors.Is(sendErr, syscall.EINTR) {
				return !errors.Is(sendErr, syscall.EAGAIN)
			}
		}
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("sendmsg", sendErr)
}

// Recv receives a message and its descriptors, which are the caller's to close
// and born close-on-exec. The end of the connection is io.EOF. With
// [ErrDescriptors] the message is valid, and the connection stays usable. So it
// does after [os.ErrDeadlineExceeded]: nothing was taken out, but what the next
// call goes on with.
func (c *Conn) Recv(m *Message) (fds []int, err error) {
	for {
		before := len(c.part)
		n, truncated, err := c.read(&c.part)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
		c.lost = c.lost || truncated
		count := 0
		switch {
		case err != nil:
		case n == 0:
			err = io.EOF
		default:
			count, err = m.decode(c.in[:n])
		}
		if err == nil && m.Verb == Carry {
			if len(c.part) <= MaxFDs && (c.lost || len(c.part)-before == packetFDs) {
				continue
			}
			err = errMalformed
		}
		lost := c.lost
		fds, c.part, c.lost = c.part, nil, false
		switch {
		case err != nil:
		case lost:
			err = ErrDescriptors
		case count != len(fds):
			err = errMalformed
		}
		if err != nil {
			CloseAll(fds)
			return nil, err
		}
		return fds, nil
	}
}

// Whole tells whether no message was received in part. It must not run beside
// Recv.
func (c *Conn) Whole() bool { return len(c.part) == 0 && !c.lost }

// read reads one packet into c.in and appends its descriptors.
func (c *Conn) read(fds *[]int) (n int, truncated bool, err error) {
	var oobn, flags int
	var recvErr error
	again := true
	err = c.raw.Read(func(fd uintptr) bool {
		for {
			n, oobn, flags, _, recvErr = unix.Recvmsg(int(fd), c.in[:], c.oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
			switch {
			case errors.Is(recvErr, syscall.EINTR):
			case errors.Is(recvErr, syscall.ECONNRESET) && again:
				// Told once when the other side died with messages unread; what it has sent is still there.
				again = false
			default:
				return !errors.Is(recvErr, syscall.EAGAIN)
			}
		}
	})
	if err == nil {
		err = recvErr
	}
	if err != nil {
		if errors.Is(err, syscall.ECONNRESET) {
			err = io.EOF
		}
		return 0, false, err
	}
	if oobn > 0 {
		*fds = appendRights(*fds, c.oob[:oobn])
	}
	if flags&unix.MSG_TRUNC != 0 {
		return 0, false, errMalformed
	}
	return n, flags&unix.MSG_CTRUNC != 0, nil
}

// appendRights appends the descriptors of a control message.
func appendRights(fds []int, oob []byte) []int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fds
	}
	for i := range messages {
		if got, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

// CloseAll closes descriptors.
func CloseAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
