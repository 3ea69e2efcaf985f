package wire

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// connected returns two ends of a connection.
func connected(t *testing.T) (a, b *Conn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*Conn
	for i, fd := range pair {
		if ends[i], err = NewConn(fd); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ends[i].Close() })
	}
	return ends[0], ends[1]
}

func TestMessageArrivesWithItsDescriptors(t *testing.T) {
	a, b := connected(t)
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(null) }()
	for _, count := range []int{0, 1, packetFDs, packetFDs + 1, 3*packetFDs + 5, MaxFDs} {
		sent := Message{Verb: Start, Reply: true, Code: Scarce, ID: 1 << 60, UID: [16]byte{1, 15: 2}, Key: 9, Text: strings.Repeat("x", MaxText),
			Args: [8]uint64{1, 7: ^uint64(0)}, Keys: slices.Repeat([]uint32{^uint32(0)}, MaxKeys)}
		result := make(chan error, 1)
		go func() { result <- a.Send(&sent, slices.Repeat([]int{null}, count)...) }()
		var got Message
		fds, err := b.Recv(&got)
		if err := errors.Join(err, <-result); err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("flags of a received descriptor %#x, error %v", flags, err)
			}
		}
		CloseAll(fds)
		if diff := cmp.Diff(sent, got); diff != "" || len(fds) != count {
			t.Errorf("%d descriptors, want %d; message (-sent +got):\n%s", len(fds), count, diff)
		}
	}
}

func TestDeadlineTakesNothingAway(t *testing.T) {
	a, b := connected(t)
	var m Message
	if err := b.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Recv(&m); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
	if err := a.Send(&Message{Verb: Leave, ID: 7}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Recv(&m); !errors.Is(err, os.ErrDeadlineExceeded) || !b.Whole() {
		t.Fatalf("error %v, whole %v", err, b.Whole())
	}
	if err := b.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Recv(&m); err != nil || m.ID != 7 {
		t.Fatalf("message %+v, error %v", m, err)
	}
}

func TestWhatWasSentIsReadAlsoWhenItsSenderIsGone(t *testing.T) {
	a, b := connected(t)
	if err := b.Send(&Message{Verb: Leave}); err != nil { // never read: its sender is told of a reset
		t.Fatal(err)
	}
	if err := a.Send(&Message{Verb: Leave, ID: 7}); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	var m Message
	if _, err := b.Recv(&m); err != nil || m.ID != 7 {
		t.Fatalf("message %+v, error %v", m, err)
	}
	if _, err := b.Recv(&m); !errors.Is(err, io.EOF) {
		t.Errorf("error %v, want the end", err)
	}
}

func TestBlobThatCanChangeIsRefused(t *testing.T) {
	fd, err := unix.MemfdCreate("open", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if _, err := ReadBlob(fd); err == nil {
		t.Error("a blob that is not sealed is read")
	}
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(null) }()
	if _, err := ReadBlob(null); err == nil {
		t.Error("/dev/null is read")
	}
}

func TestMessageCarriesWhatAProcessHasUsed(t *testing.T) {
	for _, used := range []*Usage{nil, {}, {User: 1, System: 1<<32 + 2, Peak: 1<<62 + 3}} {
		sent := Process{Pid: 7, Start: 9, Exited: true, Code: 3, Time: 11, Used: used}
		var m, got Message
		m.Verb = Exit
		m.SetProcess(&sent)
		var p [Size]byte
		m.encode(&p, 0)
		if _, err := got.decode(p[:]); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(sent, got.Process()); diff != "" {
			t.Errorf("(-sent +got):\n%s", diff)
		}
	}
}

func FuzzMessage(f *testing.F) {
	for _, m := range []Message{
		{Verb: Hello, Text: "v1"}, {Verb: Put, Keys: []uint32{1, 2}, UID: [16]byte{3}}, {Verb: Exit, Reply: true, Code: Failed, Args: [8]uint64{1, 2}},
	} {
		var p [Size]byte
		m.encode(&p, 2)
		f.Add(p[:])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var m Message
		fds, err := m.decode(data)
		if err != nil {
			return
		}
		var p [Size]byte
		m.encode(&p, fds)
		if string(p[:]) != string(data) {
			t.Errorf("%+v is not written as it was read", m)
		}
	})
}

func FuzzContent(f *testing.F) {
	f.Add((&Spec{Path: "/bin/true", Args: []string{"true"}, Env: []string{"A=1"}, Dir: "/", Files: []File{{1, -1}}}).Encode())
	f.Add((&Front{Args: []string{"piped"}}).Encode())
	f.Add((&Failure{Step: "exec", Text: "no"}).Encode())
	f.Add(EncodeEnds([]PipeEnd{{1, 2, 3}}))
	f.Add(EncodeHolders([][]Holder{{{Pid: 1, Command: "sh", FDs: []int{3}}}, nil}))
	f.Fuzz(func(t *testing.T, data []byte) {
		again := func(what string, encoded []byte, err error) {
			if err == nil && string(encoded) != string(data) {
				t.Errorf("%s is not written as it was read", what)
			}
		}
		if s, err := DecodeSpec(data); err == nil {
			again("a spec", s.Encode(), err)
		}
		if s, err := DecodeFront(data); err == nil {
			again("a front", s.Encode(), err)
		}
		if s, err := DecodeFailure(data); err == nil {
			again("a failure", s.Encode(), err)
		}
		if s, err := DecodeHolders(data); err == nil {
			again("holders", EncodeHolders(s), err)
		}
		_, _ = DecodeEnds(data)
	})
}
