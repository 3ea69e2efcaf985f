package custody_test

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/keeper/wire"
)

// dial connects to a keeper by hand.
func dial(t *testing.T, o keeper.Options) *wire.Conn {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: o.Socket}); err != nil {
		t.Fatal(err)
	}
	conn, err := wire.NewConn(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ask asks for something and returns the answer; its descriptors are closed.
func ask(t *testing.T, conn *wire.Conn, m wire.Message, fds ...int) wire.Message {
	t.Helper()
	if err := conn.Send(&m, fds...); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for {
		var answer wire.Message
		got, err := conn.Recv(&answer)
		if err != nil {
			t.Fatalf("%v: %v", m.Verb, err)
		}
		wire.CloseAll(got)
		if answer.Reply {
			return answer
		}
	}
}

// serving makes a connection the front, by hand.
func serving(t *testing.T, conn *wire.Conn) (epoch uint64) {
	t.Helper()
	welcome := ask(t, conn, wire.Message{Verb: wire.Hello, Args: [8]uint64{wire.Version}})
	if welcome.Code != wire.OK || welcome.Args[4] != wire.Inherit {
		t.Fatalf("welcome %+v", welcome)
	}
	for {
		if answer := ask(t, conn, wire.Message{Verb: wire.Next}); answer.Args[0] == wire.PartEnd {
			return welcome.Args[0]
		}
	}
}

// newKeeper starts a keeper and leaves it alone.
func newKeeper(t *testing.T) keeper.Options {
	t.Helper()
	o := options(t)
	relaunch(t, o)
	return o
}

// relaunch starts a keeper at a place.
func relaunch(t *testing.T, o keeper.Options) {
	t.Helper()
	launcher, err := os.StartProcess(o.Program, []string{"piped-launcher", "--detach", "--socket", o.Socket},
		&os.ProcAttr{Files: []*os.File{nil, nil, os.Stderr}})
	if err != nil {
		t.Fatal(err)
	}
	if state, err := launcher.Wait(); err != nil || !state.Success() {
		t.Fatalf("launcher: %v, %v", state, err)
	}
}

// killed kills the keepers at a place.
func killed(t *testing.T, o keeper.Options) {
	t.Helper()
	for _, pid := range keepers(o) {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the keeper to be dead", func() bool { return !alive(pid) })
	}
}

func TestStrangersAreNotAdopted(t *testing.T) {
	o := newKeeper(t)
	conn := dial(t, o)
	epoch := serving(t, conn)
	r, w := pipe(t)
	other, _ := pipe(t)
	uid := [16]byte{1}
	for _, m := range []wire.Message{{Verb: wire.Enter, UID: uid, Text: "x"}, {Verb: wire.Enter, UID: [16]byte{2}, Text: "not brought"}} {
		if answer := ask(t, conn, m); answer.Code != wire.OK {
			t.Fatalf("answer %+v", answer)
		}
	}
	if answer := ask(t, conn, wire.Message{Verb: wire.Put, UID: uid, Keys: []uint32{1, 2}}, r, w); answer.Code != wire.OK {
		t.Fatalf("answer %+v", answer)
	}
	killed(t, o)
	relaunch(t, o)

	conn = dial(t, o)
	welcome := ask(t, conn, wire.Message{Verb: wire.Hello, Args: [8]uint64{wire.Version, wire.Resume, epoch}})
	if welcome.Code != wire.OK || welcome.Args[4] != wire.Upload || welcome.Args[0] != epoch {
		t.Fatalf("welcome %+v", welcome)
	}
	for _, step := range []struct {
		m    wire.Message
		fds  []int
		want wire.Code
	}{
		{wire.Message{Verb: wire.Remove, UID: uid, Keys: []uint32{1}}, nil, wire.Refused},
		{wire.Message{Verb: wire.Enter, UID: uid, Text: "x"}, nil, wire.OK},
		{wire.Message{Verb: wire.Put, UID: uid, Keys: []uint32{1}}, []int{other}, wire.Stranger},
		{wire.Message{Verb: wire.Put, UID: uid, Keys: []uint32{1}}, []int{w}, wire.Stranger}, // the same pipe, the other end
		{wire.Message{Verb: wire.Put, UID: uid, Keys: []uint32{1, 2}}, []int{r, r}, wire.Stranger},
		{wire.Message{Verb: wire.Put, UID: uid, Keys: []uint32{1}}, []int{r}, wire.OK},
		{wire.Message{Verb: wire.Claim, UID: uid, Key: 5, Args: [8]uint64{0, uint64(os.Getpid()), 1}}, nil, wire.Stranger},
		{wire.Message{Verb: wire.Claim, UID: uid, Key: 5}, nil, wire.Unknown},
		{wire.Message{Verb: wire.Adopted}, nil, wire.OK},
		{wire.Message{Verb: wire.Put, UID: [16]byte{2}, Keys: []uint32{1}}, []int{r}, wire.Unknown},
		{wire.Message{Verb: wire.Remove, UID: uid, Keys: []uint32{1}}, nil, wire.OK},
	} {
		if answer := ask(t, conn, step.m, step.fds...); answer.Code != step.want {
			t.Errorf("%+v: %v, want %v", step.m, answer.Code, step.want)
		}
	}
	if answer := ask(t, conn, wire.Message{Verb: wire.Finish}); answer.Code != wire.OK {
		t.Errorf("answer %+v", answer)
	}
}

func TestFrontThatComesBackTooLateIsToldSo(t *testing.T) {
	o := newKeeper(t)
	conn := dial(t, o)
	epoch := serving(t, conn)
	_ = conn.Close()
	conn = dial(t, o)
	if second := serving(t, conn); second != epoch+1 {
		t.Errorf("epoch %d after %d", second, epoch)
	}
	late := dial(t, o)
	if answer := ask(t, late, wire.Message{Verb: wire.Hello, Args: [8]uint64{wire.Version, wire.Resume, epoch}}); answer.Code != wire.Superseded {
		t.Errorf("answer %+v", answer)
	}
}

func TestStateSaysWhichVerbsArePermitted(t *testing.T) {
	o := newKeeper(t)
	conn := dial(t, o)
	for verb := wire.Wait; verb <= wire.Settled; verb++ {
		if answer := ask(t, conn, wire.Message{Verb: verb, UID: [16]byte{1}}); answer.Code != wire.Refused {
			t.Errorf("%v before hello: %v", verb, answer.Code)
		}
	}
	newer := dial(t, o)
	if answer := ask(t, newer, wire.Message{Verb: wire.Hello, Args: [8]uint64{wire.Version + 1}}); answer.Code != wire.Newer || answer.Text == "" {
		t.Errorf("a newer front: %+v", answer)
	}
	serving(t, conn)
	for _, verb := range []wire.Verb{wire.Hello, wire.Wait, wire.Claim, wire.Adopted, wire.Exit, wire.Spawn, wire.Settled} {
		if answer := ask(t, conn, wire.Message{Verb: verb}); answer.Code != wire.Refused {
			t.Errorf("%v while serving: %v", verb, answer.Code)
		}
	}
	if answer := ask(t, conn, wire.Message{Verb: wire.Leave}); answer.Code != wire.OK {
		t.Errorf("answer %+v", answer)
	}
	if answer := ask(t, conn, wire.Message{Verb: wire.Enter, UID: [16]byte{1}}); answer.Code != wire.Refused {
		t.Errorf("after leaving: %v", answer.Code)
	}
}

func TestGarbageEndsTheConnectionOnly(t *testing.T) {
	o := newKeeper(t)
	conn := dial(t, o)
	if err := conn.Control(func(fd int) { _, _ = unix.Write(fd, []byte("GET / HTTP/1.1\r\n\r\n")) }); err != nil {
		t.Fatal(err)
	}
	var m wire.Message
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Recv(&m); !errors.Is(err, io.EOF) {
		t.Errorf("error %v, want the end", err)
	}
	serving(t, dial(t, o))
}

func TestSessionsOfAnEarlierBootAreLost(t *testing.T) {
	o := newKeeper(t)
	conn := dial(t, o)
	serving(t, conn)
	ask(t, conn, wire.Message{Verb: wire.Enter, UID: [16]byte{1}, Text: "old"})
	killed(t, o)
	// As if the machine had been started again.
	path := o.Socket + ".registry"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copy(data[64+len("piped registry "):], "00000000")
	binary.LittleEndian.PutUint32(data, crc32.Checksum(data[4:128], crc32.MakeTable(crc32.Castagnoli)))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	link, estate := connect(t, o)
	if len(estate.Lost) != 1 || estate.Lost[0] != (keeper.Loss{UID: keeper.UID{1}, Name: "old", Reboot: true}) {
		t.Errorf("lost %+v", estate.Lost)
	}
	if err := link.End(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestKeeperThatMustNotBeRootSaysSo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can find out")
	}
	o := options(t)
	cmd := exec.CommandContext(t.Context(), o.Program, "--socket", o.Socket, "--no-root")
	cmd.Args[0] = "piped-keeper"
	if text, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(text), "root") {
		t.Errorf("it says %q, error %v", text, err)
	}
}
