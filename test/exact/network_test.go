package exact

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a network does to packets, in each direction.
const (
	packetLoss      = 0.02
	packetDuplicate = 0.02
	// packetLate is the share of packets that others overtake.
	packetLate = 0.10
	// packetDelay and packetLateness are the longest that a packet takes, and
	// that one takes longer that is late.
	packetDelay    = 3 * time.Millisecond
	packetLateness = 8 * time.Millisecond
)

// A network is a network of its own (a namespace of the kernel) in which real
// TCP runs over a device that is ours: what it sends comes back to it from an
// address that does not exist, late, twice, in another order, or never. It needs
// the right to make namespaces, and /dev/net/tun.
type network struct {
	tun   *os.File
	loops sync.WaitGroup
	// calls are run on the thread that is inside the network.
	calls chan func()

	mu   sync.Mutex
	rand *rand.Rand
	// lost, doubled and late count packets.
	lost, doubled, late, packets int
}

// The one host of the network, and the mirror in which it sees itself.
var (
	hostAddress   = [4]byte{10, 9, 0, 1}
	mirrorAddress = [4]byte{10, 9, 0, 2}
)

// newNetwork makes a network, or says why this machine has none. The end of the
// test takes it away.
func newNetwork(t testing.TB, seed uint64) (*network, error) {
	n := &network{calls: make(chan func()), rand: rand.New(rand.NewPCG(seed, 9))}
	made := make(chan error)
	n.loops.Go(func() {
		// The thread is never unlocked, so it ends with this goroutine.
		runtime.LockOSThread()
		err := n.enter()
		made <- err
		for call := range n.calls {
			call()
		}
	})
	err := <-made
	stop := func() {
		close(n.calls)
		if n.tun != nil {
			_ = n.tun.Close()
		}
		n.loops.Wait()
	}
	if err != nil {
		stop()
		return nil, err
	}
	n.loops.Go(n.carry)
	t.Cleanup(stop)
	return n, nil
}

// enter puts the calling thread into a new network with the device.
func (n *network) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("/dev/net/tun: %w", err)
	}
	device, err := unix.NewIfreq("exact0")
	if err != nil {
		return err
	}
	device.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, device); err != nil {
		return errors.Join(fmt.Errorf("TUNSETIFF: %w", err), unix.Close(fd))
	}
	n.tun = os.NewFile(uintptr(fd), "tun")
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	for _, set := range []struct {
		request uint
		address []byte
	}{{unix.SIOCSIFADDR, hostAddress[:]}, {unix.SIOCSIFNETMASK, []byte{255, 255, 255, 0}}} {
		if err := device.SetInet4Addr(set.address); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(s, set.request, device); err != nil {
			return fmt.Errorf("address: %w", err)
		}
	}
	device.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, device)
}

// do runs f inside the network.
func (n *network) do(f func()) {
	done := make(chan struct{})
	n.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

// listen listens inside the network.
func (n *network) listen(ctx context.Context) (lis net.Listener, err error) {
	n.do(func() {
		lis, err = (&net.ListenConfig{}).Listen(ctx, "tcp4", net.IP(hostAddress[:]).String()+":0")
	})
	return lis, err
}

// dial connects to a listener inside the network, by way of the mirror.
func (n *network) dial(ctx context.Context, lis net.Listener) (conn net.Conn, err error) {
	addr := net.TCPAddr{IP: mirrorAddress[:], Port: lis.Addr().(*net.TCPAddr).Port}
	n.do(func() { conn, err = (&net.Dialer{}).DialContext(ctx, "tcp4", addr.String()) })
	return conn, err
}

// carry takes packets from the device and gives them back until it is closed.
func (n *network) carry() {
	var flying sync.WaitGroup
	defer flying.Wait()
	for {
		packet := make([]byte, 2048)
		size, err := n.tun.Read(packet)
		if err != nil {
			return
		}
		packet = packet[:size]
		if size < 20 || packet[0]>>4 != 4 {
			continue
		}
		// As in a mirror, sender and receiver change places. No checksum changes.
		var from [4]byte
		copy(from[:], packet[12:16])
		copy(packet[12:16], packet[16:20])
		copy(packet[16:20], from[:])
		for _, delay := range n.fate() {
			flying.Add(1)
			time.AfterFunc(delay, func() {
				defer flying.Done()
				_, _ = n.tun.Write(packet) // it may be closed by now
			})
		}
	}
}

// fate returns when a packet arrives: not at all, once, or twice.
func (n *network) fate() []time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.packets++
	delay := time.Duration(n.rand.Int64N(int64(packetDelay)))
	switch chance := n.rand.Float64(); {
	case chance < packetLoss:
		n.lost++
		return nil
	case chance < packetLoss+packetDuplicate:
		n.doubled++
		return []time.Duration{delay, delay + time.Duration(n.rand.Int64N(int64(packetLateness)))}
	case chance < packetLoss+packetDuplicate+packetLate:
		n.late++
		delay += time.Duration(n.rand.Int64N(int64(packetLateness)))
	}
	return []time.Duration{delay}
}

// String says what the network did.
func (n *network) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Sprintf("packets=%d packets_lost=%d packets_doubled=%d packets_late=%d", n.packets, n.lost, n.doubled, n.late)
}
